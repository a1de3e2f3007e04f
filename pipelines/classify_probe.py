"""A classifier's head, fitted on what its backbone makes of windows: a probe, or where it starts.

The training of a pretrained backbone starts from it as well: a head that knows nothing would undo
what the backbone has learnt before it is of use (Kumar et al., arXiv 2202.10054).
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.data.tracks import LabelledWindow, spread, tile_tracks
from dnamamba.log import logger
from dnamamba.pipelines.classify_job import Fit

BASES: Final = 1 << 26
"""Training bases that a probe is fitted on, at most."""
SHARE: Final = 0.25
"""Of the bases of a training, those that its head starts from, at most."""
LENGTH: Final = 1 << 14
"""A probe is fitted on windows no longer than this: there are more of them."""
STRENGTHS: Final = tuple(10.0**power for power in range(-4, 5))
"""Inverse strengths of the penalty to choose from."""
_FEWEST: Final = 8
"""Windows of a species, at least, whatever they cost."""


def fit_head(fit: Fit) -> None:
    """Fit the head by logistic regression, its penalty chosen on the valid side.

    Features are the mean of both strands', and standardised: their means and deviations on the
    training side stay in the head. That is all that is fitted where the backbone is to be trained
    from scratch, as it will soon make other features.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    head = fit.classifier.head
    length = min(fit.length, LENGTH)
    bases = BASES if fit.config.freeze else min(BASES, int(SHARE * fit.bases(fit.loop.steps)))
    most = max(_FEWEST, bases // (length * len(fit.sides.species)))
    windows = spread(tile_tracks(fit.sides.train, length), most)
    train, labels = fit.embeddings(fit.sides.train, windows), _species(windows)
    scaler = StandardScaler().fit(train)
    with torch.no_grad():
        head.mean.copy_(torch.from_numpy(scaler.mean_))
        head.scale.copy_(torch.from_numpy(scaler.scale_))
    if not (fit.config.freeze or fit.config.model):
        return
    windows = spread(tile_tracks(fit.sides.valid, length), most)
    valid, wanted = fit.embeddings(fit.sides.valid, windows), _species(windows)
    train, valid = scaler.transform(train), scaler.transform(valid)
    best: tuple[float, float, Any] = (math.inf, 0.0, None)
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, solver="newton-cg").fit(train, labels)
        logs = np.log(np.maximum(model.predict_proba(valid), np.finfo(float).tiny))
        loss = float(-logs[np.arange(len(wanted)), wanted].mean())
        if loss < best[0]:
            best = loss, strength, model
    loss, strength, model = best
    logger.info(
        "head fitted on the embeddings of %s windows of %s bases: %.4f bits a valid window (C %g)",
        *(f"{len(labels):,}", f"{length:,}", loss / math.log(2), strength),
    )
    weight, bias = model.coef_, model.intercept_
    if len(fit.sides.species) == 2:  # one row, of the second class against the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))


def _species(windows: Sequence[LabelledWindow]) -> NDArray[np.int64]:
    return np.array([window.species for window in windows])
