"""Whether a split holds: what training windows reach, how often, and what the sides share.

The first two are exact, by interval arithmetic over every admissible start of a window. The third
is an estimate from k-mers, because a sequence may lie twice in a genome, or in two related ones:
then a model is scored on what it has seen, though no base is on two sides.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.alphabet import Codes
from dnamamba.data.region import Region, intersect, merge
from dnamamba.data.sketch import Hashes, contains, sketch
from dnamamba.data.splits import Split
from dnamamba.data.store import Store
from dnamamba.data.windows import admissible
from dnamamba.log import progress

HOMOLOGOUS: Final = 0.05
"""Share of single-copy k-mers from which on two contigs are called homologous.

Measured with 21-mers. Not homologous: blocks against the rest of E. coli 0.6 %, of fly chromosome
2R 1.0 %, of human chromosome 20 2.7 %, of a megabase of chromosome 17 rich in duplications 4.5 %;
that megabase against chromosome 20 3.0 %. The locus of CFTR in man against galago 1.4 %, rat
against mouse 5.1 %, man against marmoset 12 %, chimpanzee 74 %. Mitochondria of great apes: 7 %
(orangutan against any other) to 45 % (chimpanzee and bonobo). Counted with repeats, the same blocks
share 2 to 16 %, so that orangutan's mitochondrion (12 %) could not be told from them.
"""
_SAMPLE: Final = 1 << 18
_FEWEST_SHARED: Final = 20
_REPEAT: Final = 500
"""Bases that short contigs may share by one copy each of a repeat: an Alu has 300."""


@dataclass(frozen=True)
class Coverage:
    """How often training sees a base in one epoch, before windows with too many N are redrawn.

    Attributes
    ----------
    mean, least, most
        Expected times, over the bases that windows reach.
    unreachable
        Bases in regions too short for a window.
    """

    mean: float
    least: float
    most: float
    unreachable: int


@dataclass(frozen=True)
class Homology:
    """A held-out contig and a training contig that share more than repeats.

    Attributes
    ----------
    held_out, train
        Genome and contig.
    share
        Of the held-out contig's single-copy k-mers, those that the other has once, too.
    """

    held_out: tuple[str, str]
    train: tuple[str, str]
    share: float


@dataclass(frozen=True)
class Sharing:
    """What held-out and training regions have in common, by k-mers.

    Attributes
    ----------
    scale
        One k-mer in so many was looked at.
    sampled, found
        By number of the genome and side: distinct k-mers held out, and those that are anywhere in
        the training regions of all genomes.
    homologies
        Pairs of contigs with a share of `HOMOLOGOUS` or more, and some 500 bases at least; the
        largest share first.
    """

    scale: int
    sampled: dict[tuple[int, str], int]
    found: dict[tuple[int, str], int]
    homologies: tuple[Homology, ...]


def reached(split: Split, length: int) -> list[Region]:
    """Return the held-out bases that a training window of `length` can reach; none if all is well.

    A window lies inside one region that is long enough, and any start in it is possible: together
    the windows reach these regions whole, and nothing else.
    """
    return intersect(admissible(split.train, length), split.held_out)


def coverage(trains: Sequence[Iterable[Region]], length: int) -> list[Coverage]:
    """Say how often each genome's training bases are seen in an epoch.

    An epoch draws as many windows as fit side by side into all that windows reach, each from all
    starts alike. In a region of R bases, base i lies in min(i + 1, length, R - i, R - length + 1)
    of its R - length + 1 windows.

    Parameters
    ----------
    trains
        Each genome's training regions.
    length
        Bases in a window.
    """
    fitting = [admissible(regions, length) for regions in trains]
    bases = sum(len(region) for regions in fitting for region in regions)
    starts = bases - (length - 1) * sum(map(len, fitting))
    per_start = bases / length / starts if starts else 0.0
    results = []
    for regions, every in zip(fitting, trains, strict=True):
        counts = [len(region) - length + 1 for region in regions]
        mine = sum(map(len, regions))
        results.append(
            Coverage(
                mean=per_start * length * sum(counts) / mine if mine else 0.0,
                least=per_start if counts else 0.0,
                most=per_start * min(length, max(counts, default=0)),
                unreachable=sum(map(len, merge(every))) - mine,
            )
        )
    return results


def share_kmers(stores: Sequence[Store], splits: Sequence[Split], *, threads: int = 1) -> Sharing:
    """Compare the k-mers of what is held out with those of what is trained on.

    All training bases are read, and of all k-mers those whose hash is low are looked at: about
    260,000 of what is held out, whatever the size of the genomes.

    Parameters
    ----------
    stores, splits
        The genomes and their splits.
    threads
        How many contigs are read at once.
    """
    held = _by_contig(splits, ("valid", "test"))
    train = _by_contig(splits, ("train",))
    bases = sum(len(region) for regions in held.values() for region in regions)
    scale = max(1, bases // _SAMPLE)
    sketches = {
        key: sketch(_sequences(stores[key[0]], regions), scale) for key, regions in held.items()
    }
    pool = np.unique(np.concatenate([np.empty(0, np.uint64), *(h for h, _ in sketches.values())]))
    singles = _Singles(list(sketches.values()))
    names = [(stores[genome].source.name, contig) for genome, _, contig in held]
    found = np.zeros(pool.size, dtype=np.bool_)
    homologies: list[Homology] = []

    def read(key: tuple[int, str, str]) -> tuple[Hashes, NDArray[np.int64]]:
        return sketch(_sequences(stores[key[0]], train[key]), scale, among=pool)

    total = sum(len(region) for regions in train.values() for region in regions)
    with ThreadPoolExecutor(threads) as threadpool, progress(total, "k-mers", "b") as bar:
        for one, (hashes, counts) in zip(train, threadpool.map(read, train), strict=True):
            found[np.searchsorted(pool, hashes)] = True
            shared, shares = singles.shared(hashes[counts == 1])
            alike = (shares >= HOMOLOGOUS) & (shared >= max(_FEWEST_SHARED, _REPEAT // scale))
            name = (stores[one[0]].source.name, one[2])
            homologies += [
                Homology(names[i], name, float(shares[i])) for i in np.flatnonzero(alike)
            ]
            bar.update(sum(map(len, train[one])))
    sampled: dict[tuple[int, str], int] = defaultdict(int)
    matched: dict[tuple[int, str], int] = defaultdict(int)
    for (genome, side, _), (hashes, _) in sketches.items():
        sampled[genome, side] += hashes.size
        matched[genome, side] += int(contains(pool[found], hashes).sum())
    homologies.sort(key=lambda each: -each.share)
    return Sharing(scale, dict(sampled), dict(matched), tuple(homologies))


class _Singles:
    """The single-copy k-mers of many contigs, to find which of them have a given one."""

    def __init__(self, sketches: Sequence[tuple[Hashes, NDArray[np.int64]]]) -> None:
        singles = [hashes[counts == 1] for hashes, counts in sketches]
        self._sizes = np.array([hashes.size for hashes in singles])
        hashes = np.concatenate([np.empty(0, np.uint64), *singles])
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._owners = np.repeat(np.arange(len(singles)), self._sizes)[order]

    def shared(self, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Count, for each contig, its single-copy k-mers among distinct `hashes`; and the share."""
        first = np.searchsorted(self._hashes, hashes, side="left")
        sizes = np.searchsorted(self._hashes, hashes, side="right") - first
        steps = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        owners = self._owners[np.repeat(first, sizes) + steps]
        shared = np.bincount(owners, minlength=self._sizes.size)
        return shared, shared / np.maximum(self._sizes, 1)


def _by_contig(
    splits: Sequence[Split], sides: Sequence[str]
) -> dict[tuple[int, str, str], list[Region]]:
    """Gather regions by genome, side and contig."""
    regions: dict[tuple[int, str, str], list[Region]] = defaultdict(list)
    for genome, split in enumerate(splits):
        for side in sides:
            for region in split.side(side):
                regions[genome, side, region.contig].append(region)
    return dict(regions)


def _sequences(store: Store, regions: Iterable[Region]) -> Iterable[Codes]:
    return (store.codes(region.contig)[region.start : region.end] for region in regions)
