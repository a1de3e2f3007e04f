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
from dnamamba.evaluation.probe import deviations, fit_probe
from dnamamba.log import logger
from dnamamba.models.classifier import Head
from dnamamba.pipelines.classify_job import Fit

BASES: Final = 1 << 26
"""Training bases that a probe is fitted on, at most."""
SHARE: Final = 0.25
"""Of the bases of a training, those that its head starts from, at most, and those that the heads
of all contexts are fitted on in the end."""
LENGTH: Final = 1 << 14
"""A probe is fitted on windows no longer than this: there are more of them."""
_FEWEST: Final = 8
"""Windows of a species, at least, whatever they cost."""


def windows_affordable(fit: Fit, length: int, shares: int = 1) -> int:
    """Return how many windows of a species a head may be fitted on.

    Parameters
    ----------
    length
        Bases of a window.
    shares
        Among how many fits the time is shared out.
    """
    bases = BASES if fit.config.freeze else min(BASES, int(SHARE * fit.bases(fit.loop.steps)))
    return max(_FEWEST, bases // (shares * length * len(fit.sides.species)))


def standardise(fit: Fit) -> None:
    """Give the head the means and deviations of features on the training side.

    That is all that is fitted where the backbone is to be trained from scratch, as it will soon
    make other features.
    """
    length = min(fit.length, LENGTH)
    windows = spread(tile_tracks(fit.sides.train, length), windows_affordable(fit, length))
    train = fit.embeddings(fit.sides.train, windows)
    _keep(fit.classifier.head, mean=train.mean(0), scale=deviations(train))


def fit_head(
    fit: Fit,
    context: int,
    valid: NDArray[np.float32] | None = None,
    wanted: NDArray[np.int64] | None = None,
    shares: int = 1,
) -> Head:
    """Fit a head by logistic regression, its penalty chosen on the valid side.

    Features are the mean of both strands', and standardised: their means and deviations on the
    training side stay in the head.

    Parameters
    ----------
    context
        Bases of a window; those that it is fitted on are no longer than `LENGTH`.
    valid, wanted
        Embeddings and species of the windows that the penalty is chosen on; None reads some.
    shares
        As in `windows_affordable`.
    """
    length = min(context, LENGTH)
    most = windows_affordable(fit, length, shares)
    windows = spread(tile_tracks(fit.sides.train, length), most)
    train, labels = fit.embeddings(fit.sides.train, windows), species_of(windows)
    if valid is None or wanted is None:
        windows = spread(tile_tracks(fit.sides.valid, length), most)
        valid, wanted = fit.embeddings(fit.sides.valid, windows), species_of(windows)
    probe = fit_probe(train, labels, valid, wanted, threads=torch.get_num_threads())
    logger.info(
        "head fitted on the embeddings of %s windows of %s bases: %.4f bits a valid window (C %g)",
        *(f"{len(labels):,}", f"{length:,}", probe.tuned_loss / math.log(2), probe.strength),
    )
    head = Head(probe.weights.shape[1], probe.weights.shape[0])
    _keep(head, mean=probe.mean, scale=probe.scale, weight=probe.weights, bias=probe.intercepts)
    return head.to(fit.device)


def species_of(windows: Sequence[LabelledWindow]) -> NDArray[np.int64]:
    """Return the species of each, (windows,)."""
    return np.array([window.species for window in windows])


@torch.no_grad()
def _keep(head: Head, **arrays: NDArray[Any]) -> None:
    for name, array in arrays.items():
        getattr(head, name).copy_(torch.from_numpy(array))
