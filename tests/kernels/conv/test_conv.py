"""The convolution in PyTorch against PyTorch's own, and Triton's against that, by name."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from dnamamba.errors import UsageError
from dnamamba.kernels import causal_conv1d, causal_conv1d_update
from tests.kernels.closeness import assert_close
from tests.kernels.conv.cases import (
    BACKENDS,
    FUSED,
    GPU,
    cast,
    draw,
    precise,
    results,
)

pytestmark = pytest.mark.usefixtures("small_tiles")

LENGTHS = (1, 2, 3, 4, 63, 64, 65, 129, 257)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 50])
def test_the_reference_equals_a_padded_depthwise_convolution(length: int, width: int) -> None:
    inputs = draw(length, width)
    x, weight, bias = (inputs[name] for name in ("x", "weight", "bias"))
    y = causal_conv1d(x, weight, bias, activation="silu", backend="reference")
    padded = F.pad(x.transpose(1, 2), (width - 1, 0))
    wanted = F.silu(F.conv1d(padded, weight[:, None], bias, groups=5)).transpose(1, 2)
    torch.testing.assert_close(y, wanted)


@pytest.mark.parametrize("sequences", [False, True], ids=["one", "packed"])
def test_gradients_of_the_reference(sequences: bool) -> None:
    inputs = draw(6, 3, sequences=sequences)
    names = ("x", "weight", "bias", "initial_state")

    def run(*tensors: torch.Tensor) -> Any:
        return causal_conv1d(
            **dict(zip(names, tensors, strict=True)),
            seq_idx=inputs.get("seq_idx"),
            activation="silu",
            return_final_state=True,
        )

    assert torch.autograd.gradcheck(run, [inputs[name].requires_grad_() for name in names])


@pytest.mark.parametrize("length", LENGTHS, ids=lambda length: f"L{length}")
@pytest.mark.parametrize("width", [1, 2, 3, 4], ids=lambda width: f"W{width}")
@pytest.mark.parametrize("backend", FUSED)
def test_equals_the_reference(backend: str, width: int, length: int) -> None:
    inputs = draw(length, width, batch=2 if length < 100 else 1)
    assert_close(results(cast(inputs, torch.float32), backend), results(inputs))


@pytest.mark.parametrize("reverse", [False, True], ids=["ahead", "reverse"])
@pytest.mark.parametrize("sequences", [False, True], ids=["one", "packed"])
@pytest.mark.parametrize("left_out", [(), ("bias",), ("initial_state",), ("bias", "initial_state")])
@pytest.mark.parametrize("backend", FUSED)
def test_options(backend: str, left_out: tuple[str, ...], sequences: bool, reverse: bool) -> None:
    inputs = draw(66, 3, batch=1, sequences=sequences, left_out=left_out)
    got = results(cast(inputs, torch.float32), backend, reverse=reverse)
    assert_close(got, results(inputs, reverse=reverse))


@pytest.mark.parametrize("sequences", [False, True], ids=["one", "packed"])
@pytest.mark.parametrize("backend", FUSED)
def test_without_activation(backend: str, sequences: bool) -> None:
    inputs = draw(66, batch=1, sequences=sequences)
    got = results(cast(inputs, torch.float32), backend, activation=None)
    assert_close(got, results(inputs, activation=None))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("width", [1, 2, 3, 4], ids=lambda width: f"W{width}")
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision(backend: str, width: int, dtype: torch.dtype) -> None:
    narrow = cast(draw(65, width, batch=1, sequences=width % 2 == 0), dtype)
    wanted = results(cast(narrow, torch.float64))
    got = results(narrow, backend)
    assert got["y"].dtype == got["final"].dtype == got["dx"].dtype == dtype
    assert got["dweight"].dtype == got["dbias"].dtype == torch.float32
    assert_close(got, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (1, 16), (2, 24), (1, 37)], ids=str)
@pytest.mark.parametrize("backend", FUSED)
def test_odd_and_even_shapes(backend: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    batch, channels = shape
    narrow = cast(draw(19, batch=batch, channels=channels), dtype)
    assert_close(results(narrow, backend), results(cast(narrow, torch.float64)))


@pytest.mark.parametrize("reverse", [False, True], ids=["ahead", "reverse"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_views_need_no_copy(backend: str, reverse: bool) -> None:
    """Half of a projection, channels first, every other step, and a gradient of equal numbers."""
    inputs = cast(draw(20, batch=2, channels=5, left_out=("initial_state",)), precise(backend))
    x = inputs["x"]
    wide = torch.cat([x, x.new_full(x.shape, torch.nan)], -1)
    apart = torch.stack([x, x.new_full(x.shape, torch.nan)], 2).flatten(1, 2)
    wanted = results(inputs, backend, reverse=reverse)
    for view in (wide[..., :5], x.transpose(1, 2).contiguous().transpose(1, 2), apart[:, ::2]):
        assert not view.is_contiguous()
        assert torch.equal(view, x)
        got = results({**inputs, "x": view}, backend, reverse=reverse)
        assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    dy = torch.ones(()).expand_as(x)
    got = results({**inputs, "dy": dy}, backend)
    wanted = results({**inputs, "dy": dy.contiguous()}, backend)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("asked", ["y", "final"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_through_one_result(backend: str, asked: str) -> None:
    inputs = draw(2, 4)
    inputs["dfinal" if asked == "y" else "dy"].zero_()
    wanted = results(inputs)
    device = "cuda" if GPU and backend == "triton" else "cpu"
    leaves = [
        inputs[name].to(device, precise(backend)).requires_grad_()
        for name in ("x", "weight", "bias", "initial_state")
    ]
    x, weight, bias, initial_state = leaves
    both = causal_conv1d(
        x,
        weight,
        bias,
        activation="silu",
        initial_state=initial_state,
        return_final_state=True,
        backend=backend,
    )
    chosen = dict(zip(("y", "final"), both, strict=True))[asked]
    chosen.backward(inputs["dy" if asked == "y" else "dfinal"].to(chosen))
    got = {
        f"d{name}": torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in zip(("x", "weight", "bias", "initial_state"), leaves, strict=True)
    }
    assert_close({n: g.cpu() for n, g in got.items()}, {name: wanted[name] for name in got})


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_changes_nothing(backend: str) -> None:
    inputs = cast(draw(30), torch.float32)
    wanted = results(inputs, backend)
    with torch.autocast("cuda" if GPU and backend == "triton" else "cpu", dtype=torch.bfloat16):
        got = results(inputs, backend)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("width", [1, 4], ids=lambda width: f"W{width}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_equal_the_convolution(backend: str, dtype: torch.dtype, width: int) -> None:
    device = "cuda" if GPU and backend == "triton" else "cpu"
    inputs = {n: t.to(device) for n, t in cast(draw(6, width), dtype).items()}
    parameters = inputs["weight"], inputs["bias"]
    y, final = causal_conv1d(
        inputs["x"],
        *parameters,
        activation="silu",
        initial_state=inputs["initial_state"],
        return_final_state=True,
        backend=backend,
    )
    state = inputs["initial_state"]
    for t in range(6):
        before = state.clone()
        out, following = causal_conv1d_update(
            inputs["x"][:, t], state, *parameters, activation="silu", backend=backend
        )
        assert torch.equal(state, before)
        torch.testing.assert_close(out, y[:, t])
        state = following
    assert torch.equal(state, final)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("backend", FUSED)
def test_gradients_of_a_step(backend: str, width: int) -> None:
    inputs = draw(1, width)
    wanted = results(inputs)
    device = "cuda" if GPU and backend == "triton" else "cpu"
    names = ("x", "initial_state", "weight", "bias")
    leaves = [inputs[name].to(device, torch.float32).requires_grad_() for name in names]
    x, state, weight, bias = leaves
    out, following = causal_conv1d_update(
        x[:, 0], state, weight, bias, activation="silu", backend=backend
    )
    upstream = [inputs["dy"][:, 0].to(out), inputs["dfinal"].to(out)]
    gradients = torch.autograd.grad([out, following], leaves, upstream)
    got = {f"d{n}": gradient.cpu() for n, gradient in zip(names, gradients, strict=True)}
    assert_close(got, {name: wanted[name] for name in got})


@pytest.mark.parametrize("width", [5, 9])
def test_numba_and_auto_take_wide_taps(width: int) -> None:
    inputs = cast(draw(20, width), torch.float32)
    for backend in ("auto", "numba"):
        assert_close(results(inputs, backend), results(draw(20, width)))


def test_auto_is_numba_on_a_cpu_and_fp64_stays_fp64() -> None:
    inputs = draw(20)
    assert all(t.dtype == torch.float64 for t in results(inputs, "auto", "cpu").values())
    single = cast(inputs, torch.float32)
    auto, numba = (results(single, backend, "cpu") for backend in ("auto", "numba"))
    assert all(torch.equal(auto[name], numba[name]) for name in numba)


def test_what_a_backend_cannot_take_is_refused() -> None:
    inputs = cast(draw(20, 5), torch.float32)
    with pytest.raises(UsageError, match="width 5"):
        results(inputs, "triton")
    for backend in FUSED:
        with pytest.raises(UsageError, match="float64"):
            results(draw(20), backend)
    with pytest.raises(UsageError, match="float64"):
        results({**cast(draw(20), torch.float32), "weight": draw(20)["weight"]}, "triton")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.ones(2, 6)}, ("x has shape (2, 6)", "(batch, length, channels)")),
        ({"x": torch.ones(2, 6, 5, dtype=torch.int64)}, ("x has type torch.int64",)),
        ({"weight": torch.ones(4, 3)}, ("weight has shape (4, 3)", "(5, 3)")),
        ({"weight": torch.ones(5, 1, 3)}, ("weight has shape (5, 1, 3)", "(channels, width)")),
        ({"bias": torch.ones(3)}, ("bias has shape (3,)", "(5,)")),
        ({"bias": torch.ones(5, device="meta")}, ("bias is on meta", "cpu")),
        ({"activation": "relu"}, ("activation 'relu'",)),
        ({"initial_state": torch.ones(2, 3, 5)}, ("initial_state has shape (2, 3, 5)",)),
        ({"seq_idx": torch.zeros(2, 5).int()}, ("seq_idx has shape (2, 5)", "(2, 6)")),
        ({"seq_idx": torch.zeros(2, 6)}, ("seq_idx has type torch.float32", "int32 or int64")),
        ({"seq_idx": torch.zeros(2, 6, device="meta").int()}, ("seq_idx is on meta", "cpu")),
        ({"backend": "cuda"}, ("backend 'cuda'", "auto, reference, numba, triton")),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], words: tuple[str, ...]) -> None:
    inputs = cast(draw(6, 3, left_out=("dy", "dfinal")), torch.float32)
    with pytest.raises(UsageError) as error:
        causal_conv1d(**{**inputs, **change})
    assert all(word in str(error.value) for word in words)
