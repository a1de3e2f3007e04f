"""How far a precision moves what a predictor says, where its input is perturbed a little.

Rounding is a small perturbation at every step of a recurrence. Where a model does not let such
grow, as Mamba's recurrence does not (arXiv 2406.00209), its outputs in two precisions stay as close
as the precisions are, however long the sequence. So the same noise is added to the embeddings of
bases in both precisions, and outputs are compared: with each other, and with those in fp32 without
noise.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dnamamba.alphabet import Codes
from dnamamba.inference.predict import predict_sequences
from dnamamba.models.precision import Autocast
from dnamamba.models.predictor import Predictor, PredictorConfig

STRENGTH: Final = 1e-3
"""The noise's root mean square, as a share of the embeddings'."""


@dataclass(frozen=True)
class Divergence:
    """Distances between outputs: shares of probability, or of a number's deviation.

    Attributes
    ----------
    between
        (sequences,), of the precision's outputs from those in fp32, both with noise.
    own
        (sequences,), of the outputs in fp32 with noise from those without.
    """

    between: NDArray[np.float64]
    own: NDArray[np.float64]


def measure_divergence(
    predictor: Predictor,
    sequences: Sequence[Codes],
    *,
    device: torch.device,
    autocast: Autocast,
    strength: float = STRENGTH,
    seed: int = 0,
) -> Divergence:
    """Compare a precision with fp32 on perturbed sequences.

    Parameters
    ----------
    predictor
        With weights in fp32; its mode is restored.
    sequences
        (bases,) uint8 store codes each, one or more.
    device
        Where the predictor lies.
    autocast
        The context of a forward pass in the precision.
    strength
        The noise's root mean square, as a share of the embeddings'.
    seed
        Of the noise.

    Returns
    -------
    Of classes half the sum, of labels the mean of the absolute differences of probabilities; of
    numbers the mean of theirs, in `scales`. Of predictors of each base, the means over bases.
    """
    exact = predict_sequences(predictor, sequences, device=device)
    with _perturbed(predictor, strength, seed, device):
        full = predict_sequences(predictor, sequences, device=device)
    with _perturbed(predictor, strength, seed, device):
        low = predict_sequences(predictor, sequences, device=device, autocast=autocast)
    between, own = (_distances(predictor.config, *pair) for pair in ((low, full), (full, exact)))
    if len(between) > len(sequences):  # a row for each base
        sizes = np.array([len(codes) for codes in sequences])
        starts = np.cumsum(sizes) - sizes
        between, own = (np.add.reduceat(each, starts) / sizes for each in (between, own))
    return Divergence(between, own)


def _distances(
    config: PredictorConfig, one: NDArray[np.float64], other: NDArray[np.float64]
) -> NDArray[np.float64]:
    apart = np.abs(one - other)
    if config.kind == "classes":
        return np.asarray(apart.sum(1) / 2)
    return np.asarray((apart / config.scales if config.kind == "values" else apart).mean(1))


@contextmanager
def _perturbed(
    predictor: Predictor, strength: float, seed: int, device: torch.device
) -> Iterator[None]:
    """Add the same noise to the embeddings of each pass over the same batches."""
    draw = torch.Generator(device).manual_seed(seed)

    def add(_block: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, *others = inputs
        size = strength * x.float().square().mean().sqrt()
        noise = torch.randn(x.shape, generator=draw, device=device)
        return x + (size * noise).to(x.dtype), *others

    hook = predictor.language.backbone.layers[0].register_forward_pre_hook(add)
    try:
        yield
    finally:
        hook.remove()
