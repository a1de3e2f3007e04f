"""A sequence without its N: its known bases, laid end to end, and where they lie.

How many N there are tells how a genome was sequenced, and what a model makes of them is not of the
sequence. What is classified or embedded is therefore read without them.
"""

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dnamamba.alphabet import BASE, Codes, N


class Known:
    """The bases of a sequence other than N, laid end to end; nothing is copied but what is asked.

    Parameters
    ----------
    codes
        (bases,) uint8 store codes; the soft mask is passed over.
    gaps
        (runs, 2) int64, the runs of N, half-open and in order; None looks for them.

    Notes
    -----
    `len` counts the known bases. A place among them is known, one in the sequence is a position.
    """

    def __init__(self, codes: Codes, gaps: NDArray[np.int64] | None = None) -> None:
        self._codes = codes
        self._gaps = _gaps(codes) if gaps is None else gaps
        # As most windows are, of which a genome has very many: they pay for nothing else.
        self._is_whole = not len(self._gaps)

    @cached_property
    def _runs(self) -> NDArray[np.int64]:
        """Runs of known bases, (runs, 2) positions, half-open."""
        runs = np.concatenate([[0], self._gaps.ravel(), [self._codes.size]]).reshape(-1, 2)
        found: NDArray[np.int64] = runs[runs[:, 0] < runs[:, 1]]
        return found

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """Known bases up to the end of each run."""
        found: NDArray[np.int64] = np.cumsum(self._runs[:, 1] - self._runs[:, 0])
        return found

    def __len__(self) -> int:
        if self._is_whole:
            return self._codes.size
        return int(self._ends[-1]) if self._ends.size else 0

    def fetch(self, start: int, end: int) -> Codes:
        """Return the known bases [start, end), (end - start,) uint8 without soft mask."""
        if self._is_whole:
            return self._codes[start:end] & np.uint8(BASE)
        runs = self._runs_of(start, end)
        if len(runs) == 1:
            return self._codes[runs[0, 0] : runs[0, 1]] & np.uint8(BASE)
        pieces = [self._codes[begin:stop] for begin, stop in runs]
        return np.concatenate([self._codes[:0], *pieces]) & np.uint8(BASE)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the positions from the first to behind the last of known bases [start, end)."""
        runs = self._runs_of(start, end)
        return int(runs[0, 0]), int(runs[-1, 1])

    def positions(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the position of each known base, by its number."""
        run = np.searchsorted(self._ends, places, "right")
        found: NDArray[np.int64] = self._runs[run, 1] - (self._ends[run] - places)
        return found

    def before(self, positions: ArrayLike) -> NDArray[np.int64]:
        """Count the known bases before each position, int64 of the shape of `positions`."""
        asked = np.asarray(positions)
        if self._is_whole:
            inside: NDArray[np.int64] = np.minimum(np.maximum(asked, 0), self._codes.size)
            return inside
        if not len(self):
            return np.zeros(asked.shape, np.int64)
        run = np.minimum(np.searchsorted(self._runs[:, 1], asked), len(self._runs) - 1)
        start, end = self._runs[run, 0], self._runs[run, 1]
        found: NDArray[np.int64] = self._ends[run] - (end - np.clip(asked, start, end))
        return found

    def _runs_of(self, start: int, end: int) -> NDArray[np.int64]:
        if start >= end:
            return self._runs[:0]
        first = np.searchsorted(self._ends, start, "right")
        last = np.searchsorted(self._ends, end)
        runs: NDArray[np.int64] = self._runs[first : last + 1].copy()
        runs[0, 0] = runs[0, 1] - (self._ends[first] - start)
        runs[-1, 1] -= self._ends[last] - end
        return runs


def _gaps(codes: Codes) -> NDArray[np.int64]:
    missing = np.zeros(codes.size + 2, dtype=bool)
    missing[1:-1] = (codes & BASE) >= N
    return np.flatnonzero(missing[1:] != missing[:-1]).reshape(-1, 2)
