"""Controls of a classifier: what can be told from a window without reading it.

Composition, N and gaps, soft masking, and counts of k-mers, each with a linear model that is tuned
as the classifier is: on data cut from what it trains on. Where one of them does as well, the
classifier has not shown that it reads sequence.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from dnamamba.alphabet import BASE, SOFT_MASK, Codes, N, reverse_complement

KS: Final = tuple(range(3, 9))
"""Lengths of k-mers to choose from."""
STRENGTHS: Final = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse strengths of the L2 penalty to choose from."""
BUCKETS: Final = 2**16
"""Columns that longer k-mers are hashed into."""
_MIX: Final = 0x9E3779B97F4A7C15


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
        columns.append(found)
        values.append(shares)
        ends.append(ends[-1] + found.size)
    shape = (len(ends) - 1, min(4**k, BUCKETS))
    return csr_matrix((np.concatenate(values), np.concatenate(columns), ends), shape=shape)


@dataclass(frozen=True)
class Control:
    """A control that is tuned and fitted.

    Attributes
    ----------
    name
        One of `CONTROLS`.
    k
        Of its k-mers; 0 where it counts none.
    strength
        The inverse strength of its penalty.
    tuned_accuracy
        On the data that both were chosen on.
    """

    name: str
    k: int
    strength: float
    tuned_accuracy: float
    _scaling: Any
    _model: Any
    _classes: int

    def probabilities(self, windows: Iterable[Codes]) -> NDArray[np.float64]:
        """Return (windows, classes), each row summing to one."""
        found = self._model.predict_proba(
            self._scaling.transform(features(self.name, windows, self.k))
        )
        probabilities = np.zeros((len(found), self._classes))
        probabilities[:, self._model.classes_] = found
        return probabilities


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
) -> Control:
    """Choose a control's settings on windows cut from train, and fit it on all of them.

    Parameters
    ----------
    name
        One of `CONTROLS`.
    train, labels
        Windows of store codes, and (windows,) int64 classes; two classes or more.
    tuning, tuning_labels
        Likewise, of other loci.
    classes
        How many there are.
    ks, strengths
        To choose from; the first of equals.
    """
    best = -1.0, 0, 0.0
    rows: tuple[csr_matrix, csr_matrix] | None = None
    for k in ks if name == KMERS else (0,):
        these = features(name, train, k), features(name, tuning, k)
        scaling = _Scaling(these[0])
        scaled = [scaling.transform(each) for each in these]
        for strength in strengths:
            model = _linear(strength).fit(scaled[0], labels)
            accuracy = float(model.score(scaled[1], tuning_labels))
            if accuracy > best[0]:
                best, rows = (accuracy, k, strength), these
    accuracy, k, strength = best
    together = vstack(rows).tocsr()
    scaling = _Scaling(together)
    wanted = np.concatenate([labels, tuning_labels])
    model = _linear(strength).fit(scaling.transform(together), wanted)
    return Control(name, k, strength, accuracy, scaling, model, classes)


class _Scaling:
    """Columns divided by their largest value, then turned to as many axes as there are windows.

    A linear model with an L2 penalty has its weights in the span of what it is fitted on, so that
    nothing is lost, and k-mers of which there are many times more than windows cost no more.
    """

    def __init__(self, rows: csr_matrix) -> None:
        from scipy.linalg import eigh
        from sklearn.preprocessing import MaxAbsScaler

        self._scaler = MaxAbsScaler()
        scaled = csr_matrix(self._scaler.fit_transform(rows))
        self._span: tuple[csr_matrix, NDArray[np.float64]] | None = None
        if scaled.shape[0] < scaled.shape[1]:
            squares, axes = eigh((scaled @ scaled.T).toarray())
            large = squares > squares[-1] * scaled.shape[0] * np.finfo(float).eps
            self._span = scaled, axes[:, large] / np.sqrt(squares[large])

    def transform(self, rows: csr_matrix) -> Any:
        """Describe windows, (windows, columns) sparse or (windows, axes) dense."""
        scaled = csr_matrix(self._scaler.transform(rows))
        if self._span is None:
            return scaled
        fitted, axes = self._span
        return (scaled @ fitted.T).toarray() @ axes


def _linear(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=1000)
