"""A predictor's head, fitted on the features of a backbone that stands still.

That is all of a frozen fit, and where the others begin: a head that knows nothing would undo what
the backbone has learnt before it is of use (Kumar et al., arXiv 2202.10054).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.evaluation.probe import STRENGTHS, deviations, fit_probe
from dnamamba.inference.predict import features_of
from dnamamba.log import logger
from dnamamba.pipelines.finetune_job import Fit
from dnamamba.pipelines.finetune_sides import Side

ROWS: Final = 4096
"""Training rows that a head is fitted on, at most, where training follows."""
BASES: Final = 1 << 14
"""Bases that a head of each base is fitted on where training follows; else four times as many."""
SPREAD: Final = 16
"""They are drawn from sequences of so many times more bases, each of which has to be read."""
GENTLE: Final = tuple(strength for strength in STRENGTHS if strength <= 0.01)
"""Inverse strengths of the penalty where training follows: a head with weights that are large to
part a few sequences is thrown about by what the backbone's first steps change."""
PENALTIES: Final = tuple(10.0**power for power in range(-4, 5))
"""Of a ridge regression, in rows."""


def fit_head(fit: Fit) -> None:
    """Fit the head by logistic or ridge regression, its penalty chosen on the valid side."""
    still = fit.config.method == "frozen"
    strengths = STRENGTHS if still else GENTLE
    penalties = PENALTIES if still else [penalty for penalty in PENALTIES if penalty >= 100]
    train = fit.sides.train
    if fit.predictor.config.per_base:
        most = BASES * (4 if still else 1)
        features, labels = _features_of_bases(fit, train, most)
        tuning, wanted = _features_of_bases(fit, fit.sides.valid, most)
    else:
        train = train if still else _some(train, ROWS, fit.config.seed)
        features, tuning = (_features(fit, side) for side in (train, fit.sides.valid))
        labels, wanted = train.outcomes.values, fit.sides.valid.outcomes.values
    if train.outcomes.kind == "classes":
        names = len(train.outcomes.names)
        weights, intercepts = _classes(features, labels, tuning, wanted, names, strengths)
    elif train.outcomes.kind == "labels":
        each = [_label(*known, strengths) for known in _columns(features, labels, tuning, wanted)]
        weights = np.stack([weight for weight, _ in each])
        intercepts = np.array([intercept for _, intercept in each])
    else:
        config = fit.predictor.config
        numbers, tested = (
            (values - np.array(config.centres)) / np.array(config.scales)
            for values in (labels, wanted)
        )
        each = [_value(*known, penalties) for known in _columns(features, numbers, tuning, tested)]
        weights = np.stack([weight for weight, _ in each])
        intercepts = np.array([intercept for _, intercept in each])
    with torch.no_grad():
        fit.predictor.head.weight.copy_(torch.from_numpy(weights))
        fit.predictor.head.bias.copy_(torch.from_numpy(intercepts))
    logger.info("head fitted on the features of %s %ss", f"{len(features):,}", fit.unit)


def _some(side: Side, rows: int, seed: int) -> Side:
    """Draw so many rows of a side, or take all where it has no more."""
    if len(side) <= rows:
        return side
    return side.of(np.sort(np.random.default_rng(seed).permutation(len(side))[:rows]))


def _features_of_bases(fit: Fit, side: Side, most: int) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return the features and labels of bases that are drawn from some of the sequences."""
    random = np.random.default_rng(fit.config.seed)
    order = random.permutation(len(side))
    enough = int(np.searchsorted(np.cumsum(side.lengths[order]), SPREAD * most)) + 1
    side = side.of(np.sort(order[:enough]))
    known = np.flatnonzero(~np.isnan(side.outcomes.values).all(1))
    drawn = np.sort(random.permutation(known)[:most])
    cuts = np.searchsorted(drawn, side.outcomes.ends)
    begins = side.outcomes.ends - side.lengths
    positions = [
        here - begin for here, begin in zip(np.split(drawn, cuts[:-1]), begins, strict=True)
    ]
    found = features_of(
        fit.predictor,
        side.sequences,
        device=fit.device,
        autocast=fit.autocast,
        positions=positions,
    )
    return found.astype(np.float64), side.outcomes.values[drawn]


def _columns(
    features: NDArray[np.float64],
    labels: NDArray[Any],
    tuning: NDArray[np.float64],
    wanted: NDArray[Any],
) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Yield the same for each column by itself, where it is known."""
    for here, there in zip(labels.T, wanted.T, strict=True):
        known, tested = ~np.isnan(here), ~np.isnan(there)
        yield features[known], here[known], tuning[tested], there[tested]


def _features(fit: Fit, side: Side) -> NDArray[np.float64]:
    found = features_of(fit.predictor, side.sequences, device=fit.device, autocast=fit.autocast)
    return found.astype(np.float64)


def _classes(
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    tuning: NDArray[np.float64],
    wanted: NDArray[np.int64],
    names: int,
    strengths: Sequence[float],
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the weights and intercepts of classes, (names, width) and (names,).

    A class that the sample lacks begins without weights, and with a low intercept.
    """
    there, places = np.unique(labels, return_inverse=True)
    weights = np.zeros((names, features.shape[1]))
    intercepts = np.full(names, -math.log(2 * len(labels)))
    known = np.isin(wanted, there)
    if len(there) < 2 or not known.any():
        intercepts[there] = 0.0
        return weights, intercepts
    probe = fit_probe(
        features,
        places,
        tuning[known],
        np.searchsorted(there, wanted[known]),
        strengths=strengths,
        threads=torch.get_num_threads(),
    )
    weights[there] = probe.weights / probe.scale
    intercepts[there] = probe.intercepts - weights[there] @ probe.mean
    return weights, intercepts


def _label(
    features: NDArray[np.float64],
    labels: NDArray[np.bool_],
    tuning: NDArray[np.float64],
    wanted: NDArray[np.bool_],
    strengths: Sequence[float],
) -> tuple[NDArray[np.floating], float]:
    """Return the weights (width,) and the intercept of a label: its odds over those of none."""
    weights, intercepts = _classes(
        features, labels.astype(np.int64), tuning, wanted.astype(np.int64), 2, strengths
    )
    return weights[1] - weights[0], float(intercepts[1] - intercepts[0])


def _value(
    features: NDArray[np.float64],
    numbers: NDArray[np.float64],
    tuning: NDArray[np.float64],
    wanted: NDArray[np.float64],
    penalties: Sequence[float],
) -> tuple[NDArray[np.floating], float]:
    """Return the weights (width,) and the intercept of a number."""
    from sklearn.linear_model import Ridge

    if not len(numbers) or not len(wanted):
        return np.zeros(features.shape[1]), 0.0
    mean, scale = features.mean(0), deviations(features)
    features, tuning = (features - mean) / scale, (tuning - mean) / scale
    fits = [Ridge(alpha=penalty).fit(features, numbers) for penalty in penalties]
    errors = [((each.predict(tuning) - wanted) ** 2).mean() for each in fits]
    best = fits[int(np.argmin(errors))]
    weights = best.coef_ / scale
    return weights, float(best.intercept_ - weights @ mean)
