"""What a classifier's calls are worth: accuracy over loci, F1, confusion, calibration.

Windows of one locus are not independent: they show the same stretch of different species, or
neighbouring bases. So intervals resample loci.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dnamamba.errors import UsageError
from dnamamba.evaluation.intervals import Interval, block_bootstrap

BINS: Final = 10
"""Of a reliability curve."""


@dataclass(frozen=True)
class Calls:
    """Probabilities of classes for windows whose class is known.

    Attributes
    ----------
    classes
        Their names, in the order of the columns.
    probabilities
        (windows, classes), each row summing to one.
    labels
        (windows,) int64, the true class of each.
    loci
        (windows,) int64; windows of one locus have one number, in order along the genome.

    Raises
    ------
    UsageError
        Where shapes do not fit together, or there is no window.
    """

    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]
    labels: NDArray[np.int64]
    loci: NDArray[np.int64]

    def __post_init__(self) -> None:
        windows = len(self.labels)
        wanted = (windows, len(self.classes))
        if self.probabilities.shape != wanted or len(self.loci) != windows or not windows:
            raise UsageError(
                f"probabilities have shape {self.probabilities.shape}; {wanted} is wanted, for at "
                "least one window, with as many labels and loci"
            )

    def tempered(self, temperature: float) -> "Calls":
        """Return the calls with logits divided by a temperature."""
        logs = np.log(np.maximum(self.probabilities, np.finfo(float).tiny)) / temperature
        weights = np.exp(logs - logs.max(1, keepdims=True))
        return replace(self, probabilities=weights / weights.sum(1, keepdims=True))

    @property
    def called(self) -> NDArray[np.int64]:
        """(windows,) the likeliest class of each; the first where several are."""
        return np.asarray(self.probabilities.argmax(1), np.int64)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(windows,) whether it is the true one."""
        return np.asarray(self.called == self.labels)

    @property
    def accuracy(self) -> Interval:
        """The share of windows called right, and its 95 % interval over loci."""
        return self._over_loci(self.correct)

    def gain_over(self, other: "Calls") -> Interval:
        """Bound by how much the accuracy exceeds that of `other`, on the same windows.

        Raises
        ------
        UsageError
            Where the windows are others.
        """
        same = np.array_equal(self.labels, other.labels) and np.array_equal(self.loci, other.loci)
        if not same:
            raise UsageError("accuracies can be compared on the same windows only")
        return self._over_loci(self.correct.astype(float) - other.correct)

    def _over_loci(self, values: ArrayLike) -> Interval:
        _, numbers = np.unique(self.loci, return_inverse=True)
        return block_bootstrap(
            np.bincount(numbers, np.asarray(values, float)), np.bincount(numbers)
        )

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(classes, classes) counts: the true class by row, the called one by column."""
        size = len(self.classes)
        flat = np.bincount(self.labels * size + self.called, minlength=size * size)
        return flat.reshape(size, size).astype(np.int64)

    @property
    def macro_f1(self) -> float:
        """The mean over classes of F1, the harmonic mean of precision and recall.

        A class that is neither there nor called is left out; one that is only either counts 0.
        """
        table = self.confusion
        hits, total = np.diag(table), table.sum(0) + table.sum(1)
        return float((2 * hits[total > 0] / total[total > 0]).mean())

    @property
    def log_loss(self) -> float:
        """The mean of minus the natural logarithm of the true class's probability."""
        chosen = self.probabilities[np.arange(len(self.labels)), self.labels]
        return float(0 - np.log(np.maximum(chosen, np.finfo(float).tiny)).mean())  # never -0

    def reliability(self) -> NDArray[np.float64]:
        """Return how often calls of a confidence are right.

        Returns
        -------
        (bins, 3): the mean confidence of the calls in each of `BINS` equal bins of it, the share of
        them that is right, and their number; empty bins are left out.
        """
        confidence = self.probabilities.max(1)
        number = np.minimum((confidence * BINS).astype(int), BINS - 1)
        counts = np.bincount(number, minlength=BINS)
        there = counts > 0
        sums = [np.bincount(number, v, BINS)[there] for v in (confidence, self.correct)]
        return np.stack([*(s / counts[there] for s in sums), counts[there]], axis=1)

    @property
    def calibration_error(self) -> float:
        """The mean distance of confidence and accuracy over the bins, weighted by their calls.

        Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599), equation 3.
        """
        confidence, right, count = self.reliability().T
        return float((np.abs(confidence - right) * count).sum() / count.sum())


def temperature_for(calls: Calls) -> float:
    """Find the temperature that gives calls the least log loss (Guo et al., section 4.2).

    Parameters
    ----------
    calls
        As for `threshold_for`, with probabilities at a temperature of 1.

    Returns
    -------
    What to divide logits by, from 1/20 to 20.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return calls.tempered(math.exp(log_temperature)).log_loss

    bound = math.log(20.0)
    found = minimize_scalar(loss, bounds=(-bound, bound), method="bounded")
    return math.exp(float(found.x))


def threshold_for(calls: Calls, accuracy: float) -> float:
    """Find the least confidence from which on calls are right as often as asked for.

    Parameters
    ----------
    calls
        On data that neither the model was trained on nor the result is reported for.
    accuracy
        The share of calls at or above the threshold that is to be right, 0 up to 1.

    Returns
    -------
    The confidence, to a millionth, as tables show it; infinite where no threshold reaches the
    accuracy on as many calls as can show it (20 for 95 %): nothing can be called.
    """
    confidence = np.floor(calls.probabilities.max(1) * 1e6) / 1e6
    order = np.argsort(-confidence, kind="stable")
    right = np.cumsum(calls.correct[order]) / np.arange(1, len(order) + 1)
    sorted_confidence = confidence[order]
    # A threshold takes all calls of equal confidence, or none.
    last = np.append(sorted_confidence[1:] < sorted_confidence[:-1], True)
    # Among fewer, no wrong call may be luck.
    many = np.arange(1, len(order) + 1) * (1 - accuracy) >= 1 - 1e-9
    enough = np.flatnonzero(last & many & (right >= accuracy))
    return float(sorted_confidence[enough[-1]]) if enough.size else math.inf


def combine(probabilities: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.float64]:
    """Combine the evidence of one record's windows: the mean log-probability, normalised.

    The mean, not the sum: neighbouring windows say much of the same, and a sum would be as sure of
    a long record as if they did not.

    Parameters
    ----------
    probabilities
        (windows, classes).
    weights
        (windows,) what each counts, such as its bases; None counts all alike.

    Returns
    -------
    (classes,), summing to one.
    """
    logs = np.log(np.maximum(np.asarray(probabilities, float), np.finfo(float).tiny))
    counts = None if weights is None else np.asarray(weights, float)
    mean = np.average(logs, axis=0, weights=counts)
    combined = np.exp(mean - mean.max())
    return np.asarray(combined / combined.sum())
