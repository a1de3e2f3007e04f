"""What tests of the scan share: inputs as the peers' tests draw them, and results by name."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from dnamamba.kernels import selective_scan
from dnamamba.kernels.scan import chunked, cpu

BACKENDS = ("chunked", "numba")
"""Those of a CPU; `test_triton` holds the kernels against the same reference."""
CHUNKS = {"chunked": (chunked, "STEPS"), "numba": (cpu, "STEPS")}
"""Where each backend says how many steps a chunk has."""
LENGTHS = (
    *(1, 2, 8, 16, 31, 32, 33, 63, 64, 65, 127, 128, 129, 151, 256, 257, 372, 512),
    *(784, 1024, 1134, 2047, 2048, 2049, 4096, 6145),
)
QUICK = 400
"""Longer ones are for the slow tests, but for one."""
TENSORS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
OPTIONAL = ("D", "z", "delta_bias", "initial_state")
LONG = ("u", "delta", "z")
"""Tensors of (batch, length, channels); B and C are as long unless constant."""


def grid() -> list[Any]:
    """Every backend at every length."""
    return [
        pytest.param(
            backend,
            length,
            id=f"{backend}-L{length}",
            marks=() if length <= QUICK or length == 1134 else pytest.mark.slow,
        )
        for backend, length in product(BACKENDS, LENGTHS)
    ]


def precision(backend: str) -> tuple[torch.dtype, float]:
    """Return the widest type that a backend takes, and the error allowed in it."""
    return (torch.float64, 1e-12) if backend == "chunked" else (torch.float32, 1e-5)


def draw(
    length: int,
    *,
    batch: int = 2,
    channels: int = 5,
    state: int = 8,
    seed: int = 0,
    optional: tuple[str, ...] = OPTIONAL,
    B: str | int = "varying",
    C: str | int = "varying",
) -> dict[str, Tensor]:
    """Inputs in fp64; B and C are `varying`, `constant`, or have that number of groups."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return 0.5 * torch.rand(*shape, generator=generator, dtype=torch.float64)

    def weight(form: str | int) -> Tensor:
        if form == "constant":
            return normal(channels, state)
        return normal(batch, length, *([] if isinstance(form, str) else [form]), state)

    drawn = {
        "u": normal(batch, length, channels),
        "delta": uniform(batch, length, channels),
        "A": -uniform(channels, state),
        "B": weight(B),
        "C": weight(C),
        "D": normal(channels),
        "z": normal(batch, length, channels),
        "delta_bias": uniform(channels),
        "initial_state": normal(batch, channels, state),
    }
    return {name: drawn[name] for name in TENSORS if name not in OPTIONAL or name in optional}


def lengthwise(inputs: dict[str, Tensor], index: Any) -> dict[str, Tensor]:
    """Index the length of whatever has one."""
    long = {*LONG, *(name for name in "BC" if inputs[name].dim() > 2)}
    return {name: t[:, index] if name in long else t for name, t in inputs.items()}


def rowwise(inputs: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    """Take some rows of a batch of whatever has one."""
    batched = {*LONG, "initial_state", *(name for name in "BC" if inputs[name].dim() > 2)}
    return {name: t[rows] if name in batched else t for name, t in inputs.items()}


def to(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) for name, tensor in inputs.items()}


def scan(inputs: dict[str, Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    keywords = {"delta_softplus": True, **options}
    return selective_scan(**inputs, return_last_state=True, **keywords)  # type: ignore[arg-type]


def leaves_of(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in inputs.items()}


def loss_weights(y: Tensor, last: Tensor) -> list[Tensor]:
    """Draw what an output and a last state are weighed by, the same each time."""
    generator = torch.Generator().manual_seed(99)
    return [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in (y, last)]


def weighted(y: Tensor, last: Tensor) -> Tensor:
    """Weigh an output and a last state, the same way each time, into a loss."""
    weights = loss_weights(y, last)
    return (y * weights[0].to(y.device)).sum() + (last * weights[1].to(y.device)).sum()


def gradients(y: Tensor, last: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Differentiate the weighted loss: output, last state and gradients, by name."""
    weighted(y, last).backward()
    named = {f"d{name}": tensor.grad for name, tensor in leaves.items()}
    assert all(gradient is not None for gradient in named.values())
    return {"y": y.detach(), "last": last.detach(), **named}  # type: ignore[dict-item]


def results(inputs: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    leaves = leaves_of(inputs)
    return gradients(*scan(leaves, **options), leaves)


def assert_close(got: dict[str, Tensor], wanted: dict[str, Tensor], bound: float) -> None:
    """Bound the relative error, in the norm, of every result."""
    errors = {
        name: float((got[name].double() - value.double()).norm() / value.norm().clamp_min(1e-30))
        for name, value in wanted.items()
    }
    assert max(errors.values()) <= bound, errors


def assert_equals_reference(backend: str, inputs: dict[str, Tensor], **options: Any) -> None:
    """Hold a backend, in its widest type, against the sequential reference in fp64."""
    dtype, bound = precision(backend)
    wanted = results(inputs, backend="reference", **options)
    assert_close(results(to(inputs, dtype), backend=backend, **options), wanted, bound)
