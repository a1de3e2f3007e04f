"""What tests of the convolution share: inputs in fp64, and results and gradients by name."""

from typing import Any

import torch
from torch import Tensor

from dnamamba.kernels import causal_conv1d

BACKENDS = ("reference", "numba", "triton")
FUSED = ("numba", "triton")
TENSORS = ("x", "weight", "bias", "initial_state")
WIDE = ("weight", "bias")
"""fp32 where the activations are narrower, as in a model."""
GPU = torch.cuda.is_available()


def draw(
    length: int,
    width: int = 4,
    *,
    batch: int = 2,
    channels: int = 5,
    seed: int = 0,
    sequences: bool = False,
    left_out: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Inputs and the gradients of the results; `sequences` draws seq_idx, which may return."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    drawn = {
        "x": normal(batch, length, channels),
        "weight": normal(channels, width),
        "bias": normal(channels),
        "initial_state": normal(batch, width - 1, channels),
        "dy": normal(batch, length, channels),
        "dfinal": normal(batch, width - 1, channels),
    }
    if sequences:
        drawn["seq_idx"] = torch.randint(3, (batch, length), generator=generator).sort(1)[0] % 2
        drawn["seq_idx"][:, length // 3 : length // 2] = 7
    return {name: tensor for name, tensor in drawn.items() if name not in left_out}


def cast(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Inputs in a type; parameters in fp32 at least."""
    parameter = torch.promote_types(dtype, torch.float32)
    return {
        name: tensor.to(parameter if name in WIDE else dtype) if name != "seq_idx" else tensor
        for name, tensor in inputs.items()
    }


def results(
    inputs: dict[str, Tensor], backend: str = "reference", device: str | None = None, **options: Any
) -> dict[str, Tensor]:
    """Output, final state, and every input's gradient, by name; on a GPU where Triton has one."""
    device = device or ("cuda" if GPU and backend == "triton" else "cpu")
    leaves = {
        name: inputs[name].detach().to(device).requires_grad_()
        for name in TENSORS
        if name in inputs
    }
    seq_idx = inputs["seq_idx"].to(device) if "seq_idx" in inputs else None
    keywords = {"activation": "silu", "return_final_state": True, **options}
    y, final = causal_conv1d(**leaves, seq_idx=seq_idx, backend=backend, **keywords)  # type: ignore[misc]
    upstream = [
        inputs[name].to(device, tensor.dtype) for name, tensor in (("dy", y), ("dfinal", final))
    ]
    gradients = torch.autograd.grad([y, final], list(leaves.values()), upstream, allow_unused=True)
    found = {f"d{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    if inputs["dfinal"].numel() == 0:
        found.pop("dinitial_state", None)
    assert all(gradient is not None for gradient in found.values())
    every = {"y": y, "final": final, **found}
    return {name: tensor.detach().to(inputs["x"].device) for name, tensor in every.items()}


def precise(backend: str) -> torch.dtype:
    """The widest type that a backend takes."""
    return torch.float64 if backend == "reference" else torch.float32
