"""Sequence that lies on two sides, of whichever species: cut out of one, or found and told.

Coordinates that genomes share do not know of duplications, and where there are none at all the
order of bases stands in for them, which breaks where contigs are shuffled. K-mers see both.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dnamamba.alphabet import Codes
from dnamamba.data.sketch import Hashes, contains, sketch
from dnamamba.data.tracks import LabelledWindow, Track, Tracks, describe, tile_tracks

SHARED: Final = 0.5
"""Share of a test window's k-mers from which on it counts as found in the training side."""
MOST_SHARED: Final = 0.05
"""Share of the test windows that may be found there: young repeats are."""
HOMOLOGOUS: Final = 0.25
"""Share of a training stretch's k-mers from which on it is cut out. Genomes of 94 % identity have
27 % of their 21-mers in common; repeats, which are left out of the count, far less."""
_STRETCH: Final = 2048
_SAMPLE: Final = 1 << 18
_WINDOW_KMERS: Final = 64
_BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class Overlap:
    """How many test windows hold sequence of the training side.

    Attributes
    ----------
    windows, found
        Windows looked at, and those that share `SHARED` of their k-mers or more with training.
    first
        Where the first of them lies; "" if there is none.
    share
        The share of all their k-mers.
    """

    windows: int
    found: int
    first: str
    share: float

    @property
    def leaks(self) -> bool:
        """Whether so many are found that an accuracy would mean little."""
        return self.found > MOST_SHARED * self.windows


def measure_overlap(train: Tracks, test: Tracks, length: int) -> Overlap:
    """Look for the test side's sequence on the training side, by 21-mers on either strand.

    Parameters
    ----------
    train, test
        Tracks of each species.
    length
        Bases of a window.
    """
    bases = sum(track.length for tracks in test for track in tracks)
    scale = max(1, bases // _SAMPLE)
    windows = tile_tracks(test, max(length, _WINDOW_KMERS * scale)) or [
        LabelledWindow(species, number, 0, track.length)
        for species, tracks in enumerate(test)
        for number, track in enumerate(tracks)
    ]
    sketches = [sketch([test[w.species][w.track].codes(w.start, w.end)], scale)[0] for w in windows]
    pool = np.unique(np.concatenate(sketches))
    seen, _ = sketch(_sequences(train), scale, among=pool)
    hits = [int(contains(seen, hashes).sum()) for hashes in sketches]
    found = [
        window
        for window, hashes, count in zip(windows, sketches, hits, strict=True)
        if hashes.size and count >= SHARED * hashes.size
    ]
    total = sum(hashes.size for hashes in sketches)
    return Overlap(
        len(windows),
        len(found),
        describe(test, found[0]) if found else "",
        sum(hits) / max(1, total),
    )


def without_shared(train: Tracks, *held_out: Tracks) -> tuple[list[list[Track]], float]:
    """Cut out of training tracks what is homologous to sequence that is held out.

    Parameters
    ----------
    train
        Tracks of each species.
    held_out
        Those of other sides.

    Returns
    -------
    The tracks without it, what is left of each laid end to end, and the share of bases cut out.
    """
    bases = sum(track.length for side in held_out for tracks in side for track in tracks)
    scale = max(_STRETCH // 256, bases // (16 * _SAMPLE))
    pool = _single_copies(held_out, scale)
    stretch = max(_STRETCH, _WINDOW_KMERS * scale)
    kept, before, after = [], 0, 0
    for tracks in train:
        rest = []
        for track in tracks:
            pieces = []
            for start in range(0, track.length, stretch):
                end = min(start + stretch, track.length)
                hashes, _ = sketch([track.codes(start, end)], scale)
                if contains(pool, hashes).sum() < HOMOLOGOUS * max(1, hashes.size):
                    pieces += track.cut(start, end)
            before += track.length
            if pieces:
                rest.append(Track(track.store, pieces))
                after += rest[-1].length
        kept.append(rest)
    return kept, 1 - after / max(1, before)


def _single_copies(sides: tuple[Tracks, ...], scale: int) -> Hashes:
    """Return the sorted k-mers that some species has once, and none more often."""
    once, often = [], []
    for species in zip(*sides, strict=True):
        hashes, counts = sketch(_sequences(species), scale)
        once.append(hashes[counts == 1])
        often.append(hashes[counts > 1])
    return np.setdiff1d(np.concatenate(once), np.concatenate(often))


def _sequences(species: Iterable[Sequence[Track]]) -> Iterator[Codes]:
    for tracks in species:
        for track in tracks:
            for start in range(0, track.length, _BLOCK):
                yield track.codes(start, min(start + _BLOCK, track.length))
