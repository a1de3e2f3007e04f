"""Weights in 8 bits: projections that stand still are kept as int8 or fp8, a scale for each row.

torchao quantises. A projection makes its matrix anew wherever its `weight` is read, so that what
reads it (adapters, a fused block) takes it as it takes a plain one. Products are computed as they
were: what is saved is the memory that weights take between their uses.
"""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

import torch
from torch import Tensor, nn

from dnamamba.errors import UsageError

Bits8 = Literal["int8", "fp8"]
"""Whole numbers, or floats with 4 bits of exponent and 3 of mantissa (e4m3)."""
_LOUD: Final = ("torchao", "torch.utils._pytree")


@contextmanager
def hushed() -> Iterator[None]:
    """Keep what torchao's import says of its own libraries, which are not used, off the terminal.

    peft imports it, too, where it is installed.
    """
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def require_torchao(what: str) -> None:
    """Say early that something wants torchao, and import it.

    Parameters
    ----------
    what
        What errors name, such as a setting and its value.

    Raises
    ------
    UsageError
        Where it is missing.
    """
    if importlib.util.find_spec("torchao") is None:
        raise UsageError(f"{what}: torchao is missing; pip install 'dnamamba[lowbit]'")
    with hushed():
        importlib.import_module("torchao")


def require_bits(kind: Bits8, device: torch.device) -> None:
    """Say early that weights cannot be kept so.

    Raises
    ------
    UsageError
        Where torchao is missing, or the device has no such numbers.
    """
    if kind == "fp8" and device.type not in ("cuda", "cpu"):
        raise UsageError(f"weights fp8: {device.type} has no such numbers; take int8 or fp32")
    require_torchao(f"weights {kind}")


class QuantisedLinear(nn.Linear):
    """A projection whose matrix is kept in 8 bits; nothing trains it, and no state dict has it.

    Parameters
    ----------
    linear
        What torchao has quantised.
    """

    stored: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("stored", linear.weight.detach(), persistent=False)
        self.register_parameter("bias", linear.bias)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The matrix (out, in), made anew, in the type that it had."""
        return self.stored.dequantize()

    def plain(self) -> nn.Linear:
        """Return a plain projection with this matrix, that nothing trains."""
        found = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        found.weight = nn.Parameter(self.weight, requires_grad=False)
        found.bias = self.bias
        return found


def quantise(model: nn.Module, kind: Bits8) -> None:
    """Keep the projections of a language model in 8 bits from here on, in place.

    Adapters are added behind. Left as they are: the projection of delta, the embedding, the head,
    and the network that makes Hyena's filters, whose sines would turn rounding into noise.

    Parameters
    ----------
    model
        Without adapters.
    kind
        Of the numbers.

    Raises
    ------
    UsageError
        As `require_bits`, or for a model without projections.
    """
    require_bits(kind, next(model.parameters()).device)
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    # What else it would set decides on the precision of products everywhere.
    config = {"int8": Int8WeightOnlyConfig, "fp8": Float8WeightOnlyConfig}[kind](
        set_inductor_config=False
    )
    found = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and ".mixer." in name and name.endswith("_proj")
    }
    if not found:
        raise UsageError(f"weights {kind}: the model has no projection to keep in 8 bits")
    for path, linear in found.items():
        quantize_(linear, config)
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, QuantisedLinear(linear))
