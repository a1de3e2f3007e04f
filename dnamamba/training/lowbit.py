"""AdamW whose moments are kept in 8 bits, in blocks of 256 with a scale each (arXiv 2110.02861).

torchao's; what is unusual here is that it steps without torch.compile, which would ask for a C++
compiler and a minute, and that its state dict holds plain tensors. Import it where it was chosen:
torchao is an extra.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torchao.optim import AdamW8bit
from torchao.optim.subclass_8bit import OptimState8bit

_SIGNED: Final = {"exp_avg": True, "exp_avg_sq": False}
"""The moments, and whether they have a sign."""


class LowBitAdamW(AdamW8bit):  # type: ignore[misc]
    """AdamW in 8 bits; moments of tensors below 4,096 numbers, or no multiple of 256, stay fp32."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take a step; as `torch.optim.Optimizer.step`."""
        for group in self.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32)
        with torch.compiler.set_stance("force_eager"):
            loss: float | None = super().step(closure)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return plain tensors: of a moment in 8 bits its codes (uint8) and scales (float32)."""
        found = super().state_dict()
        return {**found, "state": _each(found["state"], _parted)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what `state_dict` gave."""
        super().load_state_dict({**state_dict, "state": _each(state_dict["state"], _joined)})


def _each(
    states: Mapping[int, Mapping[str, Tensor]],
    change: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
) -> dict[int, dict[str, Tensor]]:
    return {index: change(moments) for index, moments in states.items()}


def _parted(moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in moments.items():
        if isinstance(value, OptimState8bit):
            found |= {f"{name}_codes": value.codes, f"{name}_scale": value.scale}
        else:
            found[name] = value
    return found


def _joined(moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(moments)
    for name, signed in _SIGNED.items():
        if f"{name}_codes" not in found:
            continue
        codes, scale = found.pop(f"{name}_codes"), found.pop(f"{name}_scale")
        # The table that codes point into is the same for all that have a sign, or have none.
        table = OptimState8bit.zeros((1,), signed, 1, codes.device).qmap
        found[name] = OptimState8bit(codes, scale, table, signed, torch.float32)
    return found
