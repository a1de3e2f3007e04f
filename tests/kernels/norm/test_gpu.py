"""The compiled norm at the sizes it is for, with the tiles it runs with."""

import pytest
import torch
from torch import Tensor

from dnamamba.kernels import rms_norm
from tests.kernels.closeness import assert_close
from tests.kernels.norm.cases import cast, draw, results

pytestmark = pytest.mark.gpu


def on_gpu(inputs: dict[str, Tensor], cuda: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(cuda) for name, tensor in inputs.items()}


@pytest.mark.parametrize("stream", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 70001, 128), (2, 1000, 256), (3, 77, 1000), (9, 4096), (2, 8192), (5, 1)], ids=str
)
def test_usual_shapes(cuda: torch.device, shape: tuple[int, ...], stream: torch.dtype) -> None:
    narrow = on_gpu(cast(draw(*shape), torch.bfloat16, stream), cuda)
    got = results(narrow, "triton")
    exact = {name: tensor.double() for name, tensor in narrow.items()}
    exact["x"], exact["residual"] = got["total"].double(), torch.zeros_like(exact["x"])
    wanted = results(exact, device="cuda")
    if shape[-1] == 1:
        # One channel is its own root mean square: what is left of its gradient is rounding.
        got, wanted = ({n: t for n, t in d.items() if n in ("y", "total")} for d in (got, wanted))
    assert_close(got, wanted)


def test_a_hundred_runs_give_the_same_bits(cuda: torch.device) -> None:
    inputs = on_gpu(cast(draw(20_000, 96), torch.bfloat16, torch.float32), cuda)
    first = results(inputs, "triton")
    for _ in range(100):
        again = results(inputs, "triton")
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.slow
def test_more_elements_than_32_bits_count(cuda: torch.device) -> None:
    rows, channels = 2**20 + 3, 2048
    x = torch.randn(rows, channels, device=cuda, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(channels, device=cuda)
    dy = torch.randn_like(x)
    y = rms_norm(x, weight, backend="triton")
    (dx,) = torch.autograd.grad(y, x, dy)
    for place in (slice(0, 9), slice(rows // 2, rows // 2 + 9), slice(rows - 9, rows)):
        exact = x[place].detach().double().requires_grad_()
        wanted = rms_norm(exact, weight, backend="reference")
        (dwanted,) = torch.autograd.grad(wanted, exact, dy[place].double())
        assert_close(
            {"y": y[place].detach(), "dx": dx[place]}, {"y": wanted.detach(), "dx": dwanted}
        )
