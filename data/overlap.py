"""Sequence that lies on two sides, of whichever species: cut out of one, or found and told.

Coordinates that genomes share do not know of duplications, and where there are none at all the
order of bases stands in for them, which breaks where contigs are shuffled. K-mers see both.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.alphabet import Codes
from dnamamba.data.sketch import Hashes, K, contains, places, sketch
from dnamamba.data.tracks import LabelledWindow, Track, Tracks, describe

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
    numbered = [
        (species, number, track)
        for species, tracks in enumerate(test)
        for number, track in enumerate(tracks)
    ]
    scale = max(1, sum(track.length for _, _, track in numbered) // _SAMPLE)
    width = max(length, _WINDOW_KMERS * scale)
    sketches = [_places(track, scale) for _, _, track in numbered]
    pool = np.unique(np.concatenate([hashes for _, hashes in sketches]))
    seen, _ = sketch(_sequences(train), scale, among=pool)
    windows = found = kmers = shared = 0
    first = ""
    for (species, number, track), (starts, hashes) in zip(numbered, sketches, strict=True):
        count = max(1, track.length // width)
        inside = starts < max(width * count, track.length * (count == 1))
        there = contains(seen, hashes)
        totals, hits = _by_stretch(starts[inside], there[inside], width, count)
        leaking = np.flatnonzero((hits >= SHARED * totals) & (totals > 0))
        if leaking.size and not first:
            start = int(leaking[0]) * width
            end = min(start + width, track.length)
            first = describe(test, LabelledWindow(species, number, start, end))
        windows, found = windows + count, found + leaking.size
        kmers, shared = kmers + hashes.size, shared + int(there.sum())
    return Overlap(windows, found, first, shared / max(1, kmers))


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
            starts, hashes = _places(track, scale)
            count = -(-track.length // stretch)
            totals, hits = _by_stretch(starts, contains(pool, hashes), stretch, count)
            alone = np.concatenate(([False], hits < HOMOLOGOUS * np.maximum(totals, 1), [False]))
            runs = stretch * np.flatnonzero(alone[1:] != alone[:-1]).reshape(-1, 2)
            pieces = [
                piece
                for start, end in runs.tolist()
                for piece in track.cut(start, min(end, track.length))
            ]
            before += track.length
            if pieces:
                rest.append(Track(track.store, pieces))
                after += rest[-1].length
        kept.append(rest)
    return kept, 1 - after / max(1, before)


def _places(track: Track, scale: int) -> tuple[NDArray[np.int64], Hashes]:
    """Return where the k-mers of a track's sketch begin, and their hashes."""
    parts = []
    for start in range(0, track.length, _BLOCK):
        end = min(start + _BLOCK + K - 1, track.length)
        starts, hashes = places(track.codes(start, end), scale)
        parts.append((starts + start, hashes))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _by_stretch(
    starts: NDArray[np.int64], chosen: NDArray[np.bool_], width: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count k-mers, and those that are chosen, by the stretch that they begin in; (count,) each."""
    number = np.minimum(starts // width, count - 1)
    return np.bincount(number, minlength=count), np.bincount(number[chosen], minlength=count)


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
