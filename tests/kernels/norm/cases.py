"""What tests of the norm share: inputs in fp64, and results and gradients by name."""

import torch
from torch import Tensor

from dnamamba.kernels import rms_norm

BACKENDS = ("reference", "triton")
GPU = torch.cuda.is_available()


def draw(*shape: int, seed: int = 0, residual: bool = True) -> dict[str, Tensor]:
    """Inputs and the gradients of the results, in fp64."""
    generator = torch.Generator().manual_seed(seed)
    names = ("x", "residual", "dy", "dtotal") if residual else ("x", "dy")
    drawn = {n: torch.randn(shape, generator=generator, dtype=torch.float64) for n in names}
    drawn["weight"] = torch.randn(shape[-1:], generator=generator, dtype=torch.float64)
    return {name: 3 * tensor for name, tensor in drawn.items()}


def cast(
    inputs: dict[str, Tensor], dtype: torch.dtype, stream: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Inputs in a type, the residual stream in another, the weight in fp32 at least."""
    types = {
        "weight": torch.promote_types(dtype, torch.float32),
        "residual": stream or dtype,
        "dtotal": stream or dtype,
    }
    return {name: tensor.to(types.get(name, dtype)) for name, tensor in inputs.items()}


def results(
    inputs: dict[str, Tensor], backend: str = "reference", device: str | None = None
) -> dict[str, Tensor]:
    """Every result and every input's gradient, by name; on a GPU where Triton has one."""
    device = device or ("cuda" if GPU and backend != "reference" else "cpu")
    names = [name for name in ("x", "weight", "residual") if name in inputs]
    leaves = {name: inputs[name].detach().to(device).requires_grad_() for name in names}
    found = rms_norm(**leaves, backend=backend)  # type: ignore[arg-type]
    named = dict(zip(("y", "total"), found if isinstance(found, tuple) else (found,), strict=False))
    upstream = [inputs[f"d{name}"].to(device) for name in named]
    gradients = torch.autograd.grad(list(named.values()), list(leaves.values()), upstream)
    named |= {f"d{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return {name: tensor.detach().to(inputs["x"].device) for name, tensor in named.items()}
