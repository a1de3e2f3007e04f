"""The compiled kernels at the sizes they are for, with the tiles they run with."""

import pytest
import torch
from torch import Tensor

from dnamamba.kernels import causal_conv1d
from tests.kernels.closeness import assert_close
from tests.kernels.conv.cases import cast, draw, results

pytestmark = pytest.mark.gpu


def on_gpu(inputs: dict[str, Tensor], cuda: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(cuda) for name, tensor in inputs.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 5003, 256), (2, 300, 1536), (64, 128, 48), (3, 1, 512), (1, 1000, 37)], ids=str
)
def test_usual_shapes(cuda: torch.device, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    batch, length, channels = shape
    narrow = on_gpu(cast(draw(length, batch=batch, channels=channels), dtype), cuda)
    wanted = results(cast(narrow, torch.float64), device="cuda")
    assert_close(results(narrow, "triton"), wanted)


@pytest.mark.parametrize("reverse", [False, True], ids=["ahead", "reverse"])
@pytest.mark.parametrize("sequences", [False, True], ids=["one", "packed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_million_steps(
    cuda: torch.device, dtype: torch.dtype, sequences: bool, reverse: bool
) -> None:
    inputs = draw(2**20 + 3, batch=1, channels=40, sequences=sequences)
    narrow = on_gpu(cast(inputs, dtype), cuda)
    wanted = results(cast(narrow, torch.float64), device="cuda", reverse=reverse)
    assert_close(results(narrow, "triton", reverse=reverse), wanted)


def test_half_of_a_projection_is_read_in_place(cuda: torch.device) -> None:
    """Nothing as long as x is allocated but y, dx and what autograd needs of dy."""
    length, channels = 2**18, 256
    both = torch.randn(1, length, 2 * channels, device=cuda, dtype=torch.bfloat16)
    x = both[..., :channels].detach().requires_grad_()
    weight = torch.randn(channels, 4, device=cuda, requires_grad=True)
    dy = torch.randn(1, length, channels, device=cuda, dtype=torch.bfloat16)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y = causal_conv1d(x, weight, activation="silu")
    y.backward(dy)
    extra = torch.cuda.max_memory_allocated() - before
    assert extra <= 2.2 * dy.nbytes


def test_a_hundred_runs_give_the_same_bits(cuda: torch.device) -> None:
    inputs = on_gpu(cast(draw(4099, batch=2, channels=96), torch.bfloat16), cuda)
    first = results(inputs, "triton")
    for _ in range(100):
        again = results(inputs, "triton")
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True], ids=["ahead", "reverse"])
def test_more_elements_than_32_bits_count(cuda: torch.device, reverse: bool) -> None:
    """Right at the start, the middle and the end; dy is zero elsewhere."""
    length, channels, size = 2**20 + 3, 2048, 40
    generator = torch.Generator(cuda).manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(*shape, generator=generator, device=cuda, dtype=dtype)

    x = normal(1, length, channels).requires_grad_()
    weight = normal(channels, 4, dtype=torch.float32).requires_grad_()
    bias = normal(channels, dtype=torch.float32).requires_grad_()
    assert x.numel() > 2**31
    places = [slice(0, size), slice(length // 2, length // 2 + size), slice(length - size, length)]
    dy = torch.zeros_like(x)
    for place in places:
        dy[:, place.start + 8 : place.stop - 8] = normal(1, size - 16, channels)
    y = causal_conv1d(x, weight, bias, activation="silu", reverse=reverse, backend="triton")
    dx, dweight, dbias = torch.autograd.grad(y, (x, weight, bias), dy)
    dweight_wanted, dbias_wanted = (
        torch.zeros_like(weight).double(),
        torch.zeros_like(bias).double(),
    )
    for place in places:
        exact = [t.detach().double().requires_grad_() for t in (x[:, place], weight, bias)]
        wanted = causal_conv1d(*exact, activation="silu", reverse=reverse, backend="reference")
        gradients = torch.autograd.grad(wanted, exact, dy[:, place].double())
        # The first inputs read have others before them, which this window leaves out.
        inner = slice(8, size - 8)
        close = {"y": y[:, place][:, inner].detach(), "dx": dx[:, place]}
        assert_close(close, {"y": wanted[:, inner].detach(), "dx": gradients[0]})
        dweight_wanted += gradients[1]
        dbias_wanted += gradients[2]
    assert_close({"dweight": dweight}, {"dweight": dweight_wanted})
    assert_close({"dbias": dbias}, {"dbias": dbias_wanted})
