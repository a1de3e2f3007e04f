"""What predictions are worth, by the measures of the field, with intervals.

Classes have accuracy, Matthews' correlation, macro F1, and the areas under the ROC curve and under
precision over recall (of more than two classes, the mean over one against the rest). Labels have
the means over labels of all but the correlation. Values have Pearson's and Spearman's correlations
and the root of the mean square error, the means over outputs. Intervals resample groups.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dnamamba.errors import UsageError
from dnamamba.evaluation.intervals import Interval

RESAMPLES: Final = 1000
LEVEL: Final = 0.95
Measure = Callable[[NDArray[Any], NDArray[np.float64]], float]


def measure(
    kind: Literal["classes", "labels", "values"],
    wanted: NDArray[Any],
    found: NDArray[np.float64],
    groups: NDArray[np.int64] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Measure predictions.

    Parameters
    ----------
    kind
        What is predicted.
    wanted
        (rows,) int64 classes, (rows, labels) bool, or (rows, outputs) floats.
    found
        (rows, classes) or (rows, labels) probabilities, or (rows, outputs) floats.
    groups
        (rows,) what is resampled together, such as a chromosome's number; each row by itself if
        None.
    resamples, seed
        How often groups are drawn, and from what.

    Returns
    -------
    Name to a measure and its 95 % interval. A measure is NaN where it is not defined, such as an
    area without both classes; a bound, where it is so in all resamples or there is a single group.

    Raises
    ------
    UsageError
        Where there is no row, or the numbers of rows differ.
    """
    rows = len(wanted)
    if not rows or len(found) != rows or (groups is not None and len(groups) != rows):
        raise UsageError(f"{rows} rows with {len(found)} predictions: nothing can be measured")
    measures: Mapping[str, Measure] = {"classes": CLASSES, "labels": LABELS, "values": VALUES}[kind]
    members = np.unique(np.arange(rows) if groups is None else groups, return_inverse=True)[1]
    order = np.argsort(members, kind="stable")
    count = int(members.max()) + 1
    parts = np.split(order, np.cumsum(np.bincount(members))[:-1])
    random = np.random.default_rng(seed)
    draws = [np.arange(rows)]
    if count > 1:
        for _ in range(resamples):
            chosen = random.integers(count, size=count)
            draws.append(
                chosen if groups is None else np.concatenate([parts[number] for number in chosen])
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of resamples that have one class alone
        return {name: _interval(each, wanted, found, draws) for name, each in measures.items()}


def _interval(
    each: Measure, wanted: NDArray[Any], found: NDArray[np.float64], draws: list[NDArray[np.int64]]
) -> Interval:
    estimate, *others = (each(wanted[rows], found[rows]) for rows in draws)
    defined = [value for value in others if math.isfinite(value)]
    if not defined:
        return Interval(estimate, math.nan, math.nan)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(estimate, float(low), float(high))


def _accuracy(wanted: NDArray[np.int64], found: NDArray[np.float64]) -> float:
    return float((found.argmax(1) == wanted).mean())


def _confusion(wanted: NDArray[np.int64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    classes = found.shape[1]
    pairs = wanted * classes + found.argmax(1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes).astype(float)


def _mcc(wanted: NDArray[np.int64], found: NDArray[np.float64]) -> float:
    """Matthews' correlation of K classes (Gorodkin 2004); 0 where all calls are of one class."""
    confusion = _confusion(wanted, found)
    truth, called, total = confusion.sum(1), confusion.sum(0), confusion.sum()
    above = np.trace(confusion) * total - truth @ called
    below = math.sqrt((total**2 - called @ called) * (total**2 - truth @ truth))
    return float(above / below) if below else 0.0


def _macro_f1(wanted: NDArray[np.int64], found: NDArray[np.float64]) -> float:
    """Return the mean F1 of the classes that there are."""
    confusion = _confusion(wanted, found)
    truth, both = confusion.sum(1), confusion.sum(1) + confusion.sum(0)
    return float((2 * np.diag(confusion)[truth > 0] / both[truth > 0]).mean())


def _columns(wanted: NDArray[np.int64], found: NDArray[np.float64]) -> NDArray[np.bool_]:
    columns: NDArray[np.bool_] = wanted[:, None] == np.arange(found.shape[1])
    return columns


def _area(wanted: NDArray[np.bool_], found: NDArray[np.float64]) -> float:
    """Return the mean area under the ROC curve of columns; NaN where one has no both kinds."""
    ones = wanted.sum(0)
    zeros = len(wanted) - ones
    ranks = stats.rankdata(found, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        areas = ((ranks * wanted).sum(0) - ones * (ones + 1) / 2) / (ones * zeros)
    return float(areas.mean())


def _precision(wanted: NDArray[np.bool_], found: NDArray[np.float64]) -> float:
    """Return the mean average precision of columns; NaN where one has no positive."""
    if not wanted.any(0).all():
        return math.nan
    return float(
        np.mean([_average_precision(*each) for each in zip(wanted.T, found.T, strict=True)])
    )


def _average_precision(wanted: NDArray[np.bool_], found: NDArray[np.float64]) -> float:
    """Return the sum of precision times the gain of recall, over thresholds.

    It is scikit-learn's `average_precision_score`, whose checks of its arguments take most of the
    time of a resample.
    """
    order = np.argsort(-found, kind="stable")
    ones = np.cumsum(wanted[order])
    ends = np.append(np.flatnonzero(np.diff(found[order])), len(order) - 1)
    gained = np.diff(ones[ends], prepend=0)
    return float((gained * ones[ends] / (ends + 1)).sum() / ones[-1])


def _auroc(wanted: NDArray[np.int64], found: NDArray[np.float64]) -> float:
    columns = slice(1, 2) if found.shape[1] == 2 else slice(None)
    return _area(_columns(wanted, found)[:, columns], found[:, columns])


def _auprc(wanted: NDArray[np.int64], found: NDArray[np.float64]) -> float:
    columns = slice(1, 2) if found.shape[1] == 2 else slice(None)
    return _precision(_columns(wanted, found)[:, columns], found[:, columns])


def _labels_right(wanted: NDArray[np.bool_], found: NDArray[np.float64]) -> float:
    return float(((found > 0.5) == wanted).mean())


def _labels_f1(wanted: NDArray[np.bool_], found: NDArray[np.float64]) -> float:
    """Return the mean F1 of labels; of one that nothing has or is called, 0."""
    called = found > 0.5
    both = (wanted.sum(0) + called.sum(0)).astype(float)
    return float((2 * (wanted & called).sum(0) / np.maximum(both, 1)).mean())


def _pearson(wanted: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Return the mean correlation of columns; NaN where one does not vary."""
    one, other = (each - each.mean(0) for each in (wanted.astype(float), found.astype(float)))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (one * other).sum(0) / np.sqrt((one**2).sum(0) * (other**2).sum(0))
    return float(found.mean())


def _spearman(wanted: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    return _pearson(stats.rankdata(wanted, axis=0), stats.rankdata(found, axis=0))


def _rmse(wanted: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    return float(np.sqrt(((wanted.astype(float) - found) ** 2).mean(0)).mean())


CLASSES: Final[Mapping[str, Measure]] = {
    "accuracy": _accuracy,
    "mcc": _mcc,
    "macro_f1": _macro_f1,
    "auroc": _auroc,
    "auprc": _auprc,
}
LABELS: Final[Mapping[str, Measure]] = {
    "accuracy": _labels_right,
    "macro_f1": _labels_f1,
    "auroc": _area,
    "auprc": _precision,
}
VALUES: Final[Mapping[str, Measure]] = {"pearson": _pearson, "spearman": _spearman, "rmse": _rmse}
