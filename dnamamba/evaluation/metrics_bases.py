"""What predictions of each base are worth, with intervals over regions.

Neighbouring bases resemble each other, so that regions are resampled, and never bases. For that a
region is kept as sums: labels as how many bases of either kind have a prediction in each of
`BINS` bins, values as their moments, from which the measures of any resample follow.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dnamamba.errors import UsageError
from dnamamba.evaluation.intervals import Interval
from dnamamba.evaluation.metrics import LABELS, LEVEL, RESAMPLES, VALUES

BINS: Final = 1024
"""Quantiles of predictions, between which no order counts in intervals; estimates are exact."""
_BLOCK: Final = 1024
"""Regions whose sums are in memory at once."""
Numbers = NDArray[np.float64]


def measure_bases(
    kind: Literal["labels", "values"],
    names: Sequence[str],
    wanted: NDArray[np.floating],
    found: Numbers,
    regions: NDArray[np.int64],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Measure predictions of each base.

    Labels have the areas under the ROC curve and under precision over recall; values have Pearson's
    correlation, and Spearman's, whose ranks are those among all bases in each resample, too.

    Parameters
    ----------
    kind
        What is predicted.
    names
        Of the tracks.
    wanted
        (bases, tracks), 0 and 1 or numbers; NaN is left out.
    found
        (bases, tracks) probabilities, or numbers.
    regions
        (bases,) the number of the region that each lies in, in ascending order.
    resamples, seed
        How often regions are drawn, and from what.

    Returns
    -------
    Name to a measure and its 95 % interval: the means over tracks, and of several tracks each by
    itself, as `auroc of NAME`. NaN where it is not defined: an area without bases of both kinds, a
    correlation with what does not vary; a bound, where there is a single region.

    Raises
    ------
    UsageError
        Where there is no base, or the numbers of bases differ.
    """
    if not len(wanted) or not len(wanted) == len(found) == len(regions):
        raise UsageError(f"{len(wanted)} bases with {len(found)} predictions: nothing to measure")
    numbers = np.unique(regions, return_inverse=True)[1]
    count = int(numbers[-1]) + 1
    random = np.random.default_rng(seed)
    drawn = random.multinomial(count, np.full(count, 1 / count), resamples * (count > 1))
    of_track = _labels if kind == "labels" else _values
    tracks: list[dict[str, tuple[float, Numbers]]] = []
    for column in range(len(names)):
        known = ~np.isnan(wanted[:, column])
        tracks.append(of_track(wanted[known, column], found[known, column], numbers[known], drawn))
    measured = {}
    for name in tracks[0]:
        each = [track[name] for track in tracks]
        estimates, others = (np.stack([pair[part] for pair in each]) for part in (0, 1))
        measured[name] = _interval(float(estimates.mean()), others.mean(0))
        if len(names) > 1:
            for track, (estimate, rest) in zip(names, each, strict=True):
                measured[f"{name} of {track}"] = _interval(estimate, rest)
    return measured


def _interval(estimate: float, others: Numbers) -> Interval:
    defined = others[np.isfinite(others)]
    if not len(defined):
        return Interval(estimate, np.nan, np.nan)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(estimate, float(low), float(high))


def _labels(
    wanted: NDArray[Any], found: Numbers, numbers: NDArray[np.int64], drawn: NDArray[np.int64]
) -> dict[str, tuple[float, Numbers]]:
    measures = {name: LABELS[name] for name in ("auroc", "auprc")}
    truth = wanted == 1
    exact = {
        name: measure(truth[:, None], found[:, None]) if 0 < truth.sum() < len(truth) else np.nan
        for name, measure in measures.items()
    }
    bounds = np.unique(np.quantile(found, np.arange(1, BINS) / BINS)) if len(found) else found
    bins = np.searchsorted(bounds, found, "right") * 2 + truth
    sums = np.zeros((len(drawn), 2 * BINS))
    for here, members in _blocks(numbers, drawn):
        cells = (numbers[members] - here.start) * 2 * BINS + bins[members]
        counts = np.bincount(cells, minlength=(here.stop - here.start) * 2 * BINS)
        sums += drawn[:, here] @ counts.reshape(-1, 2 * BINS).astype(float)
    zeros, ones = sums[:, 0::2], sums[:, 1::2]
    return {
        "auroc": (exact["auroc"], _auroc(zeros, ones)),
        "auprc": (exact["auprc"], _auprc(zeros, ones)),
    }


def _auroc(zeros: Numbers, ones: Numbers) -> Numbers:
    """Return the areas of (resamples, bins) counts, ties within a bin counting half."""
    below = np.cumsum(zeros, 1) - zeros / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((below * ones).sum(1) / (zeros.sum(1) * ones.sum(1)))


def _auprc(zeros: Numbers, ones: Numbers) -> Numbers:
    """Return the average precisions of (resamples, bins) counts."""
    called, right = (np.cumsum(each[:, ::-1], 1) for each in (zeros + ones, ones))
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(called > 0, right / np.maximum(called, 1), 0)
        return np.asarray((precision * ones[:, ::-1]).sum(1) / ones.sum(1))


def _values(
    wanted: NDArray[Any], found: Numbers, numbers: NDArray[np.int64], drawn: NDArray[np.int64]
) -> dict[str, tuple[float, Numbers]]:
    def ranks(values: Numbers) -> Numbers:
        return np.asarray(stats.rankdata(values), float)

    wanted = wanted.astype(float)
    forms: dict[str, Callable[[Numbers], Numbers]] = {"pearson": lambda x: x, "spearman": ranks}
    return {
        name: (
            VALUES["pearson"](form(wanted)[:, None], form(found)[:, None]),
            _correlations(form(wanted), form(found), numbers, drawn),
        )
        for name, form in forms.items()
    }


def _correlations(
    one: Numbers, other: Numbers, numbers: NDArray[np.int64], drawn: NDArray[np.int64]
) -> Numbers:
    """Return Pearson's correlation in each resample, (resamples,)."""
    one, other = one - one.mean(), other - other.mean()
    moments = (np.ones_like(one), one, other, one * one, other * other, one * other)
    count = drawn.shape[1]
    sums = [drawn @ np.bincount(numbers, each, count) for each in moments]
    n, x, y, xx, yy, xy = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y)))


def _blocks(numbers: NDArray[np.int64], drawn: NDArray[np.int64]) -> Iterator[tuple[slice, slice]]:
    """Yield which regions are taken together, and where their bases lie."""
    count = drawn.shape[1]
    for first in range(0, count, _BLOCK):
        here = slice(first, min(first + _BLOCK, count))
        members = np.searchsorted(numbers, [here.start, here.stop])
        yield here, slice(int(members[0]), int(members[1]))
