"""Projections as matrices: plain ones, and those that an adapter changes.

A function that multiplies with a whole block's weights can take an adapted projection like a plain
one: as a matrix made anew for each pass, through which gradients reach the adapter. That costs a
product of the adapter's size, whatever the sequence's is.
"""

import sys
from typing import Any, cast

import torch
from torch import Tensor, nn

from dnamamba.models.mixers.mamba import DeltaProjection
from dnamamba.models.quantised import QuantisedLinear


def is_matrix(module: nn.Module) -> bool:
    """Tell whether `matrix_of` gives all that a projection without bias does.

    It does not for weights that are more than a tensor (but `QuantisedLinear`'s), hooks, dropout,
    and adapters of other kinds than LoRA and DoRA.
    """
    if _is_watched(module):
        return False
    if not _is_adapted(module):
        return _is_plain(module)
    adapted: Any = module
    return (
        _is_plain(adapted.base_layer)
        and not _is_watched(adapted.base_layer)
        and not adapted.merged
        and not adapted.fan_in_fan_out
        and all(_can_add(adapted, name) for name in _adapters_of(adapted))
    )


def matrix_of(module: nn.Module) -> Tensor:
    """Return what a projection for which `is_matrix` holds multiplies with, (out, in).

    Of DoRA the norm of the sum counts as a constant for gradients (arXiv 2402.09353, section 4.3).
    """
    if not _is_adapted(module):
        return cast(Tensor, module.weight)
    adapted: Any = module
    weight: Tensor = adapted.base_layer.weight
    with torch.autocast(weight.device.type, enabled=False):
        for name in _adapters_of(adapted):
            weight = weight + adapted.get_delta_weight(name)
            if name in adapted.lora_magnitude_vector:
                magnitude = adapted.lora_magnitude_vector[name].weight
                weight = weight * (magnitude / weight.detach().norm(dim=1))[:, None]
    return weight


def _is_plain(module: nn.Module) -> bool:
    kind = type(module)
    if kind in (nn.Linear, DeltaProjection):
        return type(module.weight) is nn.Parameter
    return kind is QuantisedLinear


def _is_watched(module: nn.Module) -> bool:
    return any(
        (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
    )


def _is_adapted(module: nn.Module) -> bool:
    lora = sys.modules.get("peft.tuners.lora.layer")
    return lora is not None and type(module) is lora.Linear


def _adapters_of(adapted: Any) -> list[str]:
    if adapted.disable_adapters:
        return []
    return [name for name in adapted.active_adapters if name in adapted.lora_A]


def _can_add(adapted: Any, name: str) -> bool:
    known = not adapted.lora_variant or name in adapted.lora_magnitude_vector
    no_dropout = type(adapted.lora_dropout[name]) is nn.Identity or not adapted.training
    return known and no_dropout and not adapted.lora_bias[name]
