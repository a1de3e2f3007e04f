"""RMSNorm against PyTorch's, the fused residual sum against the two in turn, by name."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dnamamba.errors import UsageError
from dnamamba.kernels import rms_norm
from dnamamba.kernels.norm.autograd import differentiate, normalise
from tests.kernels.closeness import assert_close
from tests.kernels.norm.cases import BACKENDS, GPU, cast, draw, results

HALF = (torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a few rows take several programs, and a program several blocks."""
    from dnamamba.kernels.norm import gpu

    for name in ("FORWARD", "BACKWARD"):
        monkeypatch.setattr(gpu, name, gpu.Tiles(64, 1))
    monkeypatch.setattr(gpu, "PROGRAMS", 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_reference_equals_pytorch_in_full_precision(dtype: torch.dtype) -> None:
    inputs = draw(2, 7, 12, residual=False)
    x, weight = inputs["x"].to(dtype), inputs["weight"].float()
    wanted = F.rms_norm(x.double(), (12,), weight.double(), 1e-5).to(dtype)
    got = rms_norm(x, weight)
    assert got.dtype == dtype
    torch.testing.assert_close(got, wanted)


def test_gradients_of_the_reference() -> None:
    inputs = draw(3, 5)
    names = ("x", "weight", "residual")

    def run(x: Tensor, weight: Tensor, residual: Tensor) -> Any:
        return rms_norm(x, weight, residual=residual)

    assert torch.autograd.gradcheck(run, [inputs[name].requires_grad_() for name in names])


@pytest.mark.parametrize("residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize(
    "shape", [(1, 2), (7, 5), (2, 3, 16), (65, 8), (3, 37, 24), (5, 130), (2, 2, 2, 64)], ids=str
)
def test_triton_equals_the_reference(shape: tuple[int, ...], residual: bool) -> None:
    inputs = draw(*shape, residual=residual)
    assert_close(results(cast(inputs, torch.float32), "triton"), results(inputs))


@pytest.mark.parametrize("stream", ["wide", "same", "alone"])
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision(backend: str, dtype: torch.dtype, stream: str) -> None:
    narrow = cast(
        draw(4, 9, 24, residual=stream != "alone"),
        dtype,
        torch.float32 if stream == "wide" else dtype,
    )
    got = results(narrow, backend)
    assert got["y"].dtype == got["dx"].dtype == dtype
    assert got["dweight"].dtype == torch.float32
    exact = {name: tensor.double() for name, tensor in narrow.items()}
    if stream != "alone":
        assert got["total"].dtype == got["dresidual"].dtype == narrow["residual"].dtype
        # What follows the sum starts from the sum as it was rounded.
        exact["x"] = got["total"].double()
        exact["residual"] = torch.zeros_like(exact["x"])
        total = narrow["x"].double() + narrow["residual"].double()
        assert_close({"total": got["total"]}, {"total": total})
    assert_close(got, results(exact))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_normalised_is_the_sum_as_given_back(backend: str, dtype: torch.dtype) -> None:
    inputs = cast(draw(6, 8), dtype)
    device = "cuda" if GPU and backend == "triton" else "cpu"
    x, residual, weight = (inputs[name].to(device) for name in ("x", "residual", "weight"))
    y, total = rms_norm(x, weight, residual=residual, backend=backend)
    assert torch.equal(y, rms_norm(total, weight, backend=backend))
    assert_close({"total": total}, {"total": x.double() + residual.double()})


@pytest.mark.parametrize("asked", [0, 1], ids=["y", "total"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_through_one_result(backend: str, asked: int) -> None:
    inputs = draw(6, 8)
    inputs["dtotal" if asked == 0 else "dy"].zero_()
    wanted = results(inputs)
    device = "cuda" if GPU and backend == "triton" else "cpu"
    names = ("x", "weight", "residual")
    x, weight, residual = (inputs[n].to(device, torch.float32).requires_grad_() for n in names)
    result = rms_norm(x, weight, residual=residual, backend=backend)[asked]
    result.backward(inputs["dtotal" if asked else "dy"].to(result))
    got = {"dx": x.grad, "dresidual": residual.grad, "dweight": weight.grad}
    found = {name: torch.zeros(8) if grad is None else grad.cpu() for name, grad in got.items()}
    assert_close(found, {name: wanted[name] for name in found})


@pytest.mark.parametrize("backend", BACKENDS)
def test_views(backend: str) -> None:
    """Half of the channels, channels apart, and a gradient of equal numbers."""
    inputs = cast(draw(2, 9, 8), torch.float32)
    wanted = results(inputs, backend)
    for view in (
        lambda t: torch.cat([t, torch.full_like(t, math.nan)], -1)[..., :8],
        lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
        lambda t: torch.stack([t, t], 1)[:, 1],
    ):
        viewed = {name: t if name == "weight" else view(t) for name, t in inputs.items()}
        got = results(viewed, backend)
        assert_close(got, wanted)
    ones = {"dy": torch.ones(()).expand(2, 9, 8), "dtotal": torch.ones(()).expand(2, 9, 8)}
    got = results({**inputs, **ones}, backend)
    wanted = results({**inputs, **{n: t.contiguous() for n, t in ones.items()}}, backend)
    assert_close(got, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_zero_row_stays_finite(backend: str) -> None:
    device = "cuda" if GPU and backend == "triton" else "cpu"
    x = torch.zeros(1, 3, device=device, requires_grad=True)
    y = rms_norm(x, torch.ones(3, device=device), backend=backend)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(y, torch.zeros_like(x))
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_runs_give_the_same_bits(backend: str) -> None:
    inputs = cast(draw(70, 12), torch.float32)
    first, second = results(inputs, backend), results(inputs, backend)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_changes_nothing(backend: str) -> None:
    inputs = cast(draw(7, 12), torch.float32)
    wanted = results(inputs, backend)
    with torch.autocast("cuda" if GPU and backend == "triton" else "cpu", dtype=torch.bfloat16):
        got = results(inputs, backend)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_row(backend: str) -> None:
    inputs = cast(draw(9, 12), torch.float32)
    inputs["x"][4, 3] = math.nan
    found = results(inputs, backend)
    rows = torch.zeros(9, 12, dtype=torch.bool)
    rows[4] = True
    assert torch.equal(found["y"].isnan(), rows)
    assert torch.equal(found["dx"].isnan(), rows)


@pytest.mark.usefixtures("poisoned")
def test_every_element_is_written() -> None:
    """Freshly allocated buffers hold NaN; none may be left."""
    for stream in (torch.float32, torch.bfloat16):
        found = results(cast(draw(67, 11), torch.bfloat16, stream), "triton")
        assert all(bool(tensor.isfinite().all()) for tensor in found.values())


@pytest.mark.parametrize("stream", [None, torch.float32, torch.bfloat16], ids=str)
def test_the_ops_are_registered_soundly(stream: torch.dtype | None) -> None:
    inputs = cast(draw(3, 8, residual=stream is not None), torch.bfloat16, stream)
    device = "cuda" if GPU else "cpu"
    moved = {name: tensor.to(device) for name, tensor in inputs.items()}
    x, weight = moved["x"].requires_grad_(), moved["weight"].requires_grad_()
    residual = moved["residual"].requires_grad_() if stream else None
    torch.library.opcheck(normalise, (x, weight, residual, 1e-5))
    total = (x if residual is None else residual).detach()
    dtotal = moved["dtotal"] if stream else None
    torch.library.opcheck(differentiate, (total, weight.detach(), moved["dy"], dtotal, 1e-5))


def test_compiles_as_one_graph() -> None:
    inputs = cast(draw(5, 8), torch.bfloat16, torch.float32)
    wanted = results(inputs, "triton")
    device = "cuda" if GPU else "cpu"
    names = ("x", "weight", "residual")
    x, weight, residual = (inputs[name].to(device).requires_grad_() for name in names)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def run(x: Tensor, weight: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        return rms_norm(x, weight, residual=residual, backend="triton")

    y, total = run(x, weight, residual)
    upstream = [inputs[name].to(device) for name in ("dy", "dtotal")]
    gradients = torch.autograd.grad([y, total], (x, weight, residual), upstream)
    got = dict(zip(wanted, (y.detach(), total.detach(), *gradients), strict=True))
    assert all(torch.equal(got[name].cpu(), wanted[name]) for name in wanted)


def test_fp64_wide_rows_and_no_rows_run_in_pytorch() -> None:
    with pytest.raises(UsageError, match="float64"):
        results(draw(2, 3), "triton")
    with pytest.raises(UsageError, match="8192"):
        results(cast(draw(1, 8193), torch.float32), "triton")
    assert rms_norm(torch.ones(0, 3), torch.ones(3)).shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": torch.ones(4)}, ("weight has shape (4,)", "(3,)")),
        ({"weight": torch.ones(3, 1)}, ("weight has shape (3, 1)", "(channels)")),
        ({"x": torch.ones(2, 3).int()}, ("x has type torch.int32",)),
        ({"residual": torch.ones(3)}, ("residual has shape (3,)", "(2, 3)")),
        ({"residual": torch.ones(2, 3, device="meta")}, ("residual is on meta", "cpu")),
        ({"backend": "numba"}, ("backend 'numba'", "auto, reference, triton")),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as error:
        rms_norm(**{"x": torch.ones(2, 3), "weight": torch.ones(3), **change})
    assert all(word in str(error.value) for word in words)
