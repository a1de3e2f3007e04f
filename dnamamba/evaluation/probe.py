"""A linear probe: logistic regression on standardised features, its penalty chosen on others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from threadpoolctl import threadpool_limits

STRENGTHS: Final = tuple(10.0**power for power in range(-4, 5))
"""Inverse strengths of the penalty to choose from."""


@dataclass(frozen=True)
class Probe:
    """A probe that is tuned and fitted.

    Attributes
    ----------
    mean, scale
        (features,), what is taken from features, and what they are divided by then.
    weights, intercepts
        (classes, features) and (classes,), of the logits.
    strength
        The inverse strength of its penalty.
    tuned_loss
        The log loss, in nats, on the data that it was chosen on.
    """

    mean: NDArray[np.floating]
    scale: NDArray[np.floating]
    weights: NDArray[np.floating]
    intercepts: NDArray[np.floating]
    strength: float
    tuned_loss: float

    def probabilities(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return (items, classes), each row summing to one, of (items, features)."""
        standard = (features - self.mean) / self.scale
        return np.asarray(softmax(standard @ self.weights.T + self.intercepts, axis=1), float)


def fit_probe(
    train: NDArray[np.floating],
    labels: NDArray[np.int64],
    tuning: NDArray[np.floating],
    tuning_labels: NDArray[np.int64],
    *,
    strengths: Sequence[float] = STRENGTHS,
    threads: int = 1,
) -> Probe:
    """Fit a probe, and choose its penalty by the log loss on other data.

    Parameters
    ----------
    train, labels
        (items, features), and (items,) the numbers of their classes; each class is there.
    tuning, tuning_labels
        Likewise.
    strengths
        To choose from.
    threads
        Of matrix products.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = train.mean(0), deviations(train)
    train, tuning = (train - mean) / scale, (tuning - mean) / scale
    best: tuple[float, float, Any] = (math.inf, 0.0, None)
    for strength in strengths:
        with threadpool_limits(threads):
            model = LogisticRegression(C=strength, solver="newton-cg").fit(train, labels)
            found = np.maximum(model.predict_proba(tuning), np.finfo(float).tiny)
        loss = float(-np.log(found[np.arange(len(tuning_labels)), tuning_labels]).mean())
        if loss < best[0]:
            best = loss, strength, model
    loss, strength, model = best
    weights, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one row, of the second class against the first
        weights = np.concatenate([-weights, weights]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    return Probe(mean, scale, weights, intercepts, strength, loss)


def deviations(features: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the standard deviation of each of (items, features); 1 of those that do not vary."""
    found = features.std(0)
    return np.where(found > 0, found, features.dtype.type(1))
