"""Controls of a classifier: what can be told from a window without reading it.

Composition, N and gaps, soft masking, and counts of k-mers, each with a linear model that is tuned
as the classifier is: on data cut from what it trains on. Where one of them does as well, the
classifier has not shown that it reads sequence.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.sparse import csc_matrix, csr_matrix
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from dnamamba.alphabet import BASE, SOFT_MASK, Codes, N, reverse_complement

KS: Final = tuple(range(3, 9))
"""Lengths of k-mers to choose from."""
STRENGTHS: Final = tuple(10.0 ** (half / 2) for half in range(-4, 9))
"""Inverse strengths of the L2 penalty to choose from, where windows have a mean square of 1."""
BUCKETS: Final = 2**16
"""Columns that longer k-mers are hashed into."""
_MIX: Final = 0x9E3779B97F4A7C15
TOLERANCE: Final = 1e-5
"""Of a fit's gradient: at ten times as much, fits of little penalty stay where they start."""
_BLOCK: Final = 4096
"""Columns that are dense at a time: all would take a gigabyte."""
_RIDGE: Final = 1e-10
"""Added to a window's squared length, whose mean is 1: far above what is rounded."""


def composition(codes: Codes) -> NDArray[np.float64]:
    """Return the shares of A or T and of C or G among the bases that are not N, (2,)."""
    bases = codes & BASE
    counts = np.bincount(bases, minlength=N + 1)[:N]
    total = max(1, int(counts.sum()))
    return np.array([counts[0] + counts[3], counts[1] + counts[2]]) / total


def gaps(codes: Codes) -> NDArray[np.float64]:
    """Return the share of N, and its runs a kilobase, (2,)."""
    missing = (codes & BASE) == N
    runs = int(missing[:1].sum()) + int((missing[1:] & ~missing[:-1]).sum())
    return np.array([missing.mean(), 1000 * runs / codes.size])


def soft_mask(codes: Codes) -> NDArray[np.float64]:
    """Return the share of soft-masked bases, and their runs a kilobase, (2,)."""
    masked = (codes & SOFT_MASK) != 0
    runs = int(masked[:1].sum()) + int((masked[1:] & ~masked[:-1]).sum())
    return np.array([masked.mean(), 1000 * runs / codes.size])


PLAIN: Final[dict[str, Callable[[Codes], NDArray[np.float64]]]] = {
    "base composition": composition,
    "N and gaps": gaps,
    "soft masking": soft_mask,
}
KMERS: Final = "k-mers"
CONTROLS: Final = (*PLAIN, KMERS)


def kmer_frequencies(codes: Codes, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Count the k-mers of both strands, those with an N left out.

    Parameters
    ----------
    codes
        (length,) uint8 store codes; the soft mask is dropped.
    k
        1 to 31.

    Returns
    -------
    Columns, increasing, and the square roots of their shares: a row of unit length, so that the
    linear model sees Hellinger's distance. A k-mer and its reverse complement share a column; above
    `BUCKETS` columns they are hashed.
    """
    bases = np.asarray(codes & BASE, np.uint8)
    ahead = _numbers(bases, k)
    back = _numbers(reverse_complement(bases), k)[::-1]
    whole = np.ones(ahead.size, bool)
    for first in range(k):
        whole &= bases[first : first + whole.size] < N
    column = np.minimum(ahead, back)[whole]
    if 4**k > BUCKETS:
        column = (column * np.uint64(_MIX)) >> np.uint64(64 - (BUCKETS - 1).bit_length())
    counts = np.bincount(column.astype(np.intp))
    columns = np.flatnonzero(counts)
    return columns, np.sqrt(counts[columns] / max(1, column.size))


def _numbers(bases: Codes, k: int) -> NDArray[np.integer[Any]]:
    """Read each k-mer as a number of base 4, (length - k + 1,); those with an N mean nothing."""
    # The narrowest type: a window's codes stay in the cache.
    narrow = np.uint16 if k <= 8 else np.uint64
    numbers: NDArray[np.integer[Any]] = np.zeros(max(0, bases.size - k + 1), narrow)
    for first in range(k):
        numbers <<= 2
        numbers |= bases[first : first + numbers.size]
    return numbers


def features(name: str, windows: Iterable[Codes], k: int = 0) -> csr_matrix:
    """Describe windows, (windows, columns).

    Parameters
    ----------
    name
        One of `CONTROLS`.
    windows
        (length,) uint8 store codes each.
    k
        Of k-mers.
    """
    if name in PLAIN:
        return csr_matrix(np.stack([PLAIN[name](codes) for codes in windows]))
    columns, values, ends = [], [], [0]
    for codes in windows:
        found, shares = kmer_frequencies(codes, k)
        columns.append(found.astype(np.int32))
        values.append(shares.astype(np.float32))
        ends.append(ends[-1] + found.size)
    shape = (len(ends) - 1, min(4**k, BUCKETS))
    return csr_matrix((np.concatenate(values), np.concatenate(columns), ends), shape=shape)


@dataclass(frozen=True)
class Control:
    """A control that is tuned and fitted: logistic regression.

    Attributes
    ----------
    name
        One of `CONTROLS`.
    k
        Of its k-mers; 0 where it counts none.
    strength
        The inverse strength of its penalty.
    tuned_loss
        The log loss, in nats, on the data that it was chosen on.
    weights, intercepts
        (columns, classes) and (classes,) float64, of the logits; a class that no window had has an
        intercept of minus infinity.
    """

    name: str
    k: int
    strength: float
    tuned_loss: float
    weights: NDArray[np.float64]
    intercepts: NDArray[np.float64]

    def probabilities(self, windows: Iterable[Codes]) -> NDArray[np.float64]:
        """Return (windows, classes), each row summing to one."""
        return _probabilities(features(self.name, windows, self.k), self.weights, self.intercepts)


def tune_control(
    name: str,
    train: Sequence[Codes],
    labels: NDArray[np.int64],
    tuning: Sequence[Codes],
    tuning_labels: NDArray[np.int64],
    *,
    classes: int,
    ks: Sequence[int] = KS,
    strengths: Sequence[float] = STRENGTHS,
    threads: int = 1,
) -> Control:
    """Fit a control on windows of train, and choose its settings on others.

    Parameters
    ----------
    name
        One of `CONTROLS`.
    train, labels
        Windows of store codes, and (windows,) int64 classes; two classes or more.
    tuning, tuning_labels
        Likewise, of other loci; the settings are those of the least log loss on them. Nothing is
        fitted on them, as little as a classifier is.
    classes
        How many there are.
    ks, strengths
        To choose from; the shortest and the first of equals. Strengths increase, and are left once
        the loss has risen twice in a row.
    threads
        Shared out among the lengths, which are fitted side by side.
    """

    def fit(k: int) -> Control:
        rows = [features(name, windows, k) for windows in (train, tuning)]
        fits = _fits(name, k, rows, labels, tuning_labels, classes, strengths)
        return min(fits, key=_tuned_loss)

    # Sparse products run on one thread, and long k-mers take longest. BLAS would start as many
    # threads for each fit as the machine has, and these wait for each other in busy loops.
    order = sorted(ks if name == KMERS else (0,), reverse=True)
    beside = min(threads, len(order))
    with threadpool_limits(threads // beside), ThreadPoolExecutor(beside) as pool:
        found = list(pool.map(fit, order))
    return min(reversed(found), key=_tuned_loss)


def _tuned_loss(control: Control) -> float:
    return control.tuned_loss


def _fits(
    name: str,
    k: int,
    rows: Sequence[csr_matrix],
    labels: NDArray[np.int64],
    tuning_labels: NDArray[np.int64],
    classes: int,
    strengths: Sequence[float],
) -> Iterator[Control]:
    """Fit the first rows at one strength after another, with the loss on the second ones."""
    from sklearn.metrics import log_loss

    fit = _Fit(name, rows[0], labels, classes)
    before, rises = math.inf, 0
    for strength in strengths:
        weights, intercepts = fit.at(strength)
        found = _probabilities(rows[1], weights, intercepts)
        loss = float(log_loss(tuning_labels, found, labels=range(classes)))
        yield Control(name, k, strength, loss, weights, intercepts)
        rises = rises + 1 if loss > before else 0
        if rises == 2:
            return
        before = loss


def _probabilities(
    rows: csr_matrix, weights: NDArray[np.float64], intercepts: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray(softmax(rows @ weights + intercepts, axis=1))


class _Fit:
    """Logistic regression on centred columns, of which there may be many times more than windows.

    A linear model with an L2 penalty has its weights in the span of what it is fitted on. So where
    windows are few, each is described by its coordinates on orthonormal axes of that span: nothing
    is lost, and long k-mers cost no more. Where they are many, and have fewer k-mers each than
    there are windows, the counts stay sparse: the intercept, which has no penalty, then does what
    centring would.

    Columns are scaled so that the mean squared length of a window is 1, and a strength means the
    same for few and for many. Those of k-mers keep their scale to each other: the square root of a
    count varies as much whether the k-mer is rare or not, and what was seen once or twice would
    weigh most if each were divided by its own deviation. The other controls' are of different
    units, and are.
    """

    def __init__(self, name: str, rows: csr_matrix, labels: NDArray[np.int64], classes: int):
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        found = StandardScaler(with_mean=False).fit(rows)
        self._rows, self._labels, self._classes = rows, labels, classes
        self._mean = np.asarray(found.mean_, float)
        self._lower: NDArray[np.float64] | None = None
        self._seen = found.var_ > 0
        self._seen[:1] = True  # a fit wants a column
        self._scale = np.full(found.var_.size, math.sqrt(found.var_.sum()) or 1.0)
        if name in PLAIN:
            self._scale = found.scale_ * math.sqrt(found.var_.size)
        self._coordinates: NDArray[np.float64] | csr_matrix
        if name in PLAIN:
            self._coordinates = self._centred(rows, slice(None))
        elif rows.shape[0] ** 2 < rows.nnz:
            self._lower = cholesky(self._products(), lower=True, overwrite_a=True)
            self._coordinates = self._lower
        else:
            self._mean = np.zeros_like(self._mean)
            self._coordinates = rows[:, self._seen].astype(float) / self._scale[0]
        self._model = LogisticRegression(
            solver="newton-cg", max_iter=10_000, warm_start=True, tol=TOLERANCE
        )

    def _centred(self, rows: csr_matrix | csc_matrix, columns: slice) -> NDArray[np.float64]:
        """Return those of some columns that vary, (windows, columns), centred and scaled."""
        seen = self._seen[columns]
        dense = rows[:, columns].toarray()[:, seen].astype(float)
        dense -= self._mean[columns][seen]
        dense /= self._scale[columns][seen]
        return np.asarray(dense)

    def _products(self) -> NDArray[np.float64]:
        """Return the inner products of the windows, (windows, windows), positive definite."""
        columns = self._rows.tocsc()
        # Centred windows span one axis less than there are windows, and some may be the same.
        products = _RIDGE * np.eye(columns.shape[0])
        for first in range(0, columns.shape[1], _BLOCK):
            block = self._centred(columns, slice(first, first + _BLOCK))
            products += block @ block.T
        return products

    def at(self, strength: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the weights of columns as they were, (columns, classes), and intercepts.

        The fit starts from the one before.
        """
        model = self._model.set_params(C=strength).fit(self._coordinates, self._labels)
        slopes, biases = model.coef_.T, model.intercept_
        if len(model.classes_) == 2:  # one column: the second class against the first
            slopes, biases = slopes * [0, 1], biases * [0, 1]
        weights = np.zeros((self._mean.size, self._classes))
        intercepts = np.full(self._classes, -math.inf)
        if self._lower is None:
            found = np.zeros((self._mean.size, slopes.shape[1]))
            found[self._seen] = slopes
        else:
            shares = solve_triangular(self._lower, slopes, lower=True, trans="T")
            found = self._rows.T @ shares - np.outer(self._mean, shares.sum(0))
            found /= self._scale[:, None]
        found /= self._scale[:, None]
        weights[:, model.classes_] = found
        intercepts[model.classes_] = biases - self._mean @ found
        return weights, intercepts
