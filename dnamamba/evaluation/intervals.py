"""How sure a mean over windows is: neighbours resemble each other, so blocks are resampled."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dnamamba.errors import UsageError


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    estimate: float
    low: float
    high: float


def block_bootstrap(
    totals: ArrayLike,
    counts: ArrayLike,
    *,
    block: int | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bound a mean over windows, such as bits per base, by the circular block bootstrap.

    Blocks of neighbouring windows are drawn with replacement (Politis & Romano 1992), and the
    interval lies between quantiles of sum(totals) / sum(counts) over the resamples. To compare two
    models, pass the difference of their totals.

    Parameters
    ----------
    totals
        (windows,) sum over each window, in order along the genome.
    counts
        (windows,) what each sum is over, such as bases that are not N.
    block
        Windows in a block; by default the cube root of their number (Hall, Horowitz & Jing 1995).
    level
        Coverage, between 0 and 1.
    resamples
        How often blocks are drawn.
    seed
        Equal seeds give equal intervals.

    Returns
    -------
    The mean and its bounds; these are NaN for a single window.

    Raises
    ------
    UsageError
        Where there is nothing to take the mean of, or arguments are out of range.
    """
    pairs = np.stack((np.asarray(totals, float), np.asarray(counts, float)))
    windows = pairs.shape[1]
    if not pairs[1].sum() > 0:
        raise UsageError("no base to take the mean over: every window is empty, or all N")
    block = block or max(1, round(windows ** (1 / 3)))
    if not (1 <= block <= windows and 0 < level < 1):
        raise UsageError(f"blocks of {block} of {windows} windows at a level of {level:g}")
    estimate = float(pairs[0].sum() / pairs[1].sum())
    if windows == 1:
        return Interval(estimate, math.nan, math.nan)
    circle = np.concatenate((pairs, pairs[:, : block - 1]), axis=1)
    sums = np.lib.stride_tricks.sliding_window_view(circle, block, axis=1).sum(axis=2)
    draws = np.random.default_rng(seed).integers(windows, size=(resamples, -(-windows // block)))
    total, count = sums[:, draws].sum(axis=2)
    means = total[count > 0] / count[count > 0]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))
