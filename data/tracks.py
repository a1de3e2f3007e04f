"""Windows of labelled genomes: pieces laid end to end, and cut whole from one fold.

A *track* is what a window may be cut from without leaving its fold: pieces of one genome in the
order of their loci, end to end. Alignment blocks are shorter than long contexts, so that a window
may run over several.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import numpy as np
import torch
from torch.utils.data import Dataset

from dnamamba.alphabet import Codes, reverse_complement
from dnamamba.data.loci import Piece
from dnamamba.data.region import Region
from dnamamba.data.store import Store
from dnamamba.errors import UsageError

_TRIES: Final = 100


class Track:
    """Pieces of one genome, end to end.

    Parameters
    ----------
    store
        The genome.
    pieces
        In order; at least one.

    Attributes
    ----------
    length
        Bases.
    """

    def __init__(self, store: Store, pieces: Sequence[Piece]) -> None:
        self.store = store
        self.pieces = tuple(pieces)
        self._starts = [0, *accumulate(len(piece.region) for piece in pieces)]
        self.length = self._starts[-1]

    def codes(self, start: int, end: int) -> Codes:
        """Return (end - start,) uint8 store codes, a copy, in the order of the loci."""
        parts = [self.store.fetch(region) for region in self.regions(start, end)]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def loci(self, start: int, end: int) -> list[Region]:
        """Return the loci that a stretch is homologous to, to the base where lengths agree."""
        found = []
        for piece, first, last in self._inside(start, end):
            scale = len(piece.locus) / len(piece.region)
            a, b = (piece.locus.start + round(scale * place) for place in (first, last))
            found.append(Region(piece.locus.contig, a, max(b, a + 1)))
        return found

    def regions(self, start: int, end: int) -> list[Region]:
        """Return where in the genome a stretch lies, in the order of the loci."""
        found = []
        for piece, first, last in self._inside(start, end):
            region = piece.region
            begin = region.start + first if region.strand == "+" else region.end - last
            found.append(Region(region.contig, begin, begin + last - first, region.strand))
        return found

    def cut(self, start: int, end: int) -> list[Piece]:
        """Return the pieces of a stretch, cut at its ends."""
        pairs = zip(self.regions(start, end), self.loci(start, end), strict=True)
        return [Piece(region, locus) for region, locus in pairs]

    def n_count(self, start: int, end: int) -> int:
        """Count the N of a stretch."""
        return sum(
            int(self.store.n_count(region.contig, region.start, region.end))
            for region in self.regions(start, end)
        )

    def _inside(self, start: int, end: int) -> Iterable[tuple[Piece, int, int]]:
        """Give the pieces of a stretch, and its ends within each."""
        for number in range(bisect_right(self._starts, start) - 1, len(self.pieces)):
            before = self._starts[number]
            if before >= end:
                return
            piece = self.pieces[number]
            yield piece, max(start - before, 0), min(end - before, len(piece.region))


Tracks = Sequence[Sequence[Track]]
"""The tracks of each species."""


def tracks_of(store: Store, pieces: Sequence[Piece], regions: Sequence[Region]) -> list[Track]:
    """Lay the pieces inside each of a fold's regions end to end.

    Parameters
    ----------
    store
        The genome.
    pieces
        Its pieces, by locus.
    regions
        Of shared coordinates; a piece belongs to the one that its locus begins in.

    Returns
    -------
    A track for each region that holds any.
    """
    tracks = []
    for region in regions:
        inside = [
            piece
            for piece in pieces
            if piece.locus.contig == region.contig
            and region.start <= piece.locus.start < region.end
        ]
        if inside:
            tracks.append(Track(store, inside))
    return tracks


@dataclass(frozen=True)
class LabelledWindow:
    """Where a sample lies: its species, its track among those of the species, and its bases."""

    species: int
    track: int
    start: int
    end: int
    strand: str = "+"


class LabelledWindows(Dataset[torch.Tensor]):
    """Random windows of all species; the key (step, index) gives (length,) uint8 store codes.

    A species is drawn first, each as likely; then a window, all starts of its tracks as likely; and
    a coin decides on the strand. A window is a pure function of (seed, step, index). One with too
    many N is drawn again, a hundred times at most.

    Parameters
    ----------
    species
        The tracks of each.
    length
        Bases in a window.
    seed
        Any integer; its lowest 64 bits count.
    by_track
        Whether a track is drawn before the window, each as likely, whatever its length.
    reverse_complement
        Whether the coin is thrown.
    max_n_fraction
        The largest share of N, 0 to 1.

    Raises
    ------
    UsageError
        Where a species has no track that holds a window.
    """

    def __init__(
        self,
        species: Tracks,
        length: int,
        *,
        seed: int,
        by_track: bool = False,
        reverse_complement: bool = True,
        max_n_fraction: float = 0.5,
    ) -> None:
        self.species = tuple(tuple(tracks) for tracks in species)
        self.length = length
        self._seed = seed
        self._by_track = by_track
        self._reverse_complement = reverse_complement
        self._max_n_fraction = max_n_fraction
        self._most_missing = max_n_fraction * length
        self._key = np.array([seed % 2**64, 1], dtype=np.uint64)
        self._starts_before: list[list[int]] = []
        for number, tracks in enumerate(self.species):
            starts = [max(0, track.length - length + 1) for track in tracks]
            if not any(starts):
                longest = max((track.length for track in tracks), default=0)
                raise UsageError(
                    f"species {number + 1} has no stretch of {length:,} bases to train on: the "
                    f"longest has {longest:,}; choose a smaller --length"
                )
            self._starts_before.append([0, *accumulate(starts)])

    @property
    def bases(self) -> int:
        """Bases of all tracks that hold a window."""
        tracks = [track for each in self.species for track in each]
        return sum(track.length for track in tracks if track.length >= self.length)

    def of_length(self, length: int) -> "LabelledWindows":
        """Return windows of another length; those of one key are of one species in both."""
        return LabelledWindows(
            self.species,
            length,
            seed=self._seed,
            by_track=self._by_track,
            reverse_complement=self._reverse_complement,
            max_n_fraction=self._max_n_fraction,
        )

    def label(self, step: int, index: int) -> int:
        """Return the species of sample `index` of step `step`."""
        return self._species(self._random(step, index))

    def _random(self, step: int, index: int) -> np.random.Philox:
        return np.random.Philox(key=self._key, counter=[0, index, step, 0])

    def _species(self, random: np.random.Philox) -> int:
        return len(self.species) * random.random_raw() >> 64

    def window(self, step: int, index: int) -> LabelledWindow:
        """Return where sample `index` of step `step` lies."""
        random = self._random(step, index)
        species = self._species(random)
        coin = random.random_raw() >> 63
        strand = "-" if self._reverse_complement and coin else "+"
        best, fewest = self._draw(random, species, strand)
        tries = 1
        while fewest > self._most_missing and tries < _TRIES:
            window, missing = self._draw(random, species, strand)
            if missing < fewest:
                best, fewest = window, missing
            tries += 1
        return best

    def _draw(
        self, random: np.random.Philox, species: int, strand: str
    ) -> tuple[LabelledWindow, int]:
        before = self._starts_before[species]
        low, high = 0, before[-1]
        if self._by_track:
            holding = [i for i in range(len(before) - 1) if before[i + 1] > before[i]]
            chosen = holding[len(holding) * random.random_raw() >> 64]
            low, high = before[chosen], before[chosen + 1]
        place = low + ((high - low) * random.random_raw() >> 64)
        track = bisect_right(before, place) - 1
        start = place - before[track]
        window = LabelledWindow(species, track, start, start + self.length, strand)
        missing = self.species[species][track].n_count(window.start, window.end)
        return window, missing

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        return read(self.species, self.window(*key))


def read(species: Tracks, window: LabelledWindow) -> torch.Tensor:
    """Read a window's (length,) uint8 store codes."""
    codes = species[window.species][window.track].codes(window.start, window.end)
    return torch.from_numpy(reverse_complement(codes) if window.strand == "-" else codes)


def tile_tracks(
    species: Tracks, length: int, *, max_n_fraction: float = 0.5
) -> list[LabelledWindow]:
    """Lay windows side by side over each track, from its start; a shorter rest is left out.

    Returns
    -------
    Windows on the + strand, species by species; those with too many N are left out.
    """
    windows = []
    for label, tracks in enumerate(species):
        for number, track in enumerate(tracks):
            for start in range(0, track.length - length + 1, length):
                if track.n_count(start, start + length) <= max_n_fraction * length:
                    windows.append(LabelledWindow(label, number, start, start + length))
    return windows


def describe(species: Tracks, window: LabelledWindow) -> str:
    """Say where in its genome a window lies, such as `chr22.fa.gz chr22:1001-2000 and 3 more`."""
    track = species[window.species][window.track]
    first, *others = track.regions(window.start, window.end)
    more = f" and {len(others)} more" if others else ""
    return f"{track.store.source.name} {first}{more}"


def locus_text(species: Tracks, window: LabelledWindow) -> str:
    """Say which stretch of shared coordinates a window is homologous to, from end to end."""
    loci = species[window.species][window.track].loci(window.start, window.end)
    first, last = loci[0], loci[-1]
    if first.contig != last.contig:
        return f"{first} to {last}"
    return str(Region(first.contig, min(first.start, last.start), max(first.end, last.end)))


def spread(windows: Sequence[LabelledWindow], most: int) -> list[LabelledWindow]:
    """Keep `most` windows of each species at most, evenly spaced: homologous ones stay."""
    kept = []
    for species in sorted({window.species for window in windows}):
        mine = [window for window in windows if window.species == species]
        count = min(most, len(mine))
        kept += [mine[(2 * i + 1) * len(mine) // (2 * count)] for i in range(count)]
    return kept


def group_by_locus(species: Tracks, windows: Sequence[LabelledWindow]) -> list[int]:
    """Give each window the number of its locus, which homologous windows share.

    The loci are the windows of the first species that has any on a contig of shared coordinates;
    another's window belongs to the one whose middle is nearest to its own. Resampling loci, not
    windows, keeps windows together that are no independent witnesses.

    Parameters
    ----------
    species
        Their tracks.
    windows
        As `tile_tracks` gives them.

    Returns
    -------
    A number for each window, from 0 on.
    """
    middles = [_middle(species, window) for window in windows]
    first: dict[str, int] = {}
    for window, (contig, _) in zip(windows, middles, strict=True):
        first[contig] = min(window.species, first.get(contig, window.species))
    loci: dict[str, list[int]] = {contig: [] for contig in first}
    for window, (contig, place) in zip(windows, middles, strict=True):
        if window.species == first[contig]:
            loci[contig].append(place)
    before = dict(zip(loci, accumulate(map(len, loci.values()), initial=0), strict=False))
    for places in loci.values():
        places.sort()
    return [before[contig] + _nearest(loci[contig], place) for contig, place in middles]


def _middle(species: Tracks, window: LabelledWindow) -> tuple[str, int]:
    """Return the locus of a window's middle base."""
    middle = (window.start + window.end) // 2
    (locus,) = species[window.species][window.track].loci(middle, middle + 1)
    return locus.contig, locus.start


def _nearest(places: Sequence[int], place: int) -> int:
    at = bisect_right(places, place)
    near = [index for index in (at - 1, at) if 0 <= index < len(places)]
    return min(near, key=lambda index: abs(places[index] - place))
