"""How well scores rank what is positive above what is negative: the area under the ROC curve.

What lies side by side is alike, so intervals resample loci, and a locus keeps all that lies in it.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.errors import UsageError
from dnamamba.evaluation.intervals import Interval

RESAMPLES: Final = 2000
LEVEL: Final = 0.95
_AT_ONCE: Final = 1 << 22
"""Weights of resamples that are there at a time."""


@dataclass(frozen=True)
class Ranking:
    """Items that are positive or negative, and the loci that they lie in.

    Attributes
    ----------
    positive
        (items,) bool; both kinds are there.
    loci
        (items,) int64; items of one locus have one number.
    seed
        Draws the resamples.

    Raises
    ------
    UsageError
        Where one kind is missing, or the shapes differ.
    """

    positive: NDArray[np.bool_]
    loci: NDArray[np.int64]
    seed: int = 0

    def __post_init__(self) -> None:
        if self.positive.shape != self.loci.shape:
            raise UsageError(f"{self.positive.size} items lie in {self.loci.size} loci")
        if self.positive.all() or not self.positive.any():
            raise UsageError("to rank one kind above another, items of both are wanted")

    def auroc(self, scores: NDArray[np.float64]) -> Interval:
        """Return the share of pairs whose positive item has the higher score; ties are a half.

        Parameters
        ----------
        scores
            (items,), none of them NaN.
        """
        return self._interval(self._areas(scores))

    def gain(self, scores: NDArray[np.float64], others: NDArray[np.float64]) -> Interval:
        """Return by how much the area of some scores exceeds that of others of the same items."""
        return self._interval(self._areas(scores) - self._areas(others))

    @cached_property
    def _drawn(self) -> NDArray[np.uint16]:
        """How often each locus is drawn, (1 + resamples, loci); once each in the first row."""
        count = int(self._places.max()) + 1
        shares = np.full(count, 1 / count)
        drawn = np.random.default_rng(self.seed).multinomial(count, shares, size=RESAMPLES)
        return np.concatenate([np.ones((1, count)), drawn]).astype(np.uint16)

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        found: NDArray[np.int64] = np.unique(self.loci, return_inverse=True)[1]
        return found

    def _areas(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the area of all items, and of each resample; NaN where it has one kind alone."""
        order = np.argsort(scores, kind="stable")
        ranked, positive, places = scores[order], self.positive[order], self._places[order]
        ties = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
        areas = []
        step = max(1, _AT_ONCE // len(order))
        for first in range(0, len(self._drawn), step):
            weights = self._drawn[first : first + step, places].astype(float)
            ones = np.add.reduceat(weights * positive, ties, axis=1)
            zeros = np.add.reduceat(weights * ~positive, ties, axis=1)
            below = np.cumsum(zeros, 1) - zeros / 2
            with np.errstate(invalid="ignore"):
                areas.append((ones * below).sum(1) / (ones.sum(1) * zeros.sum(1)))
        return np.concatenate(areas)

    def _interval(self, areas: NDArray[np.float64]) -> Interval:
        estimate, resampled = float(areas[0]), areas[1:][np.isfinite(areas[1:])]
        if self._drawn.shape[1] == 1 or not resampled.size:
            return Interval(estimate, math.nan, math.nan)
        low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(estimate, float(low), float(high))
