"""Every backend against the sequential reference in fp64, values and gradients by name."""

import math
from typing import Any

import pytest
import torch

from dnamamba.errors import UsageError
from dnamamba.kernels import selective_scan, selective_state_update
from dnamamba.kernels.scan import chunked, cpu
from tests.kernels.scan.cases import (
    BACKENDS,
    OPTIONAL,
    assert_close,
    assert_equals_reference,
    draw,
    grid,
    leaves_of,
    results,
    rowwise,
    scan,
    to,
)


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every walk take several segments of a few chunks."""
    monkeypatch.setitem(chunked.WIDTH, "cpu", 3 * 2 * 5 * 8)
    monkeypatch.setattr(cpu, "SEGMENT", 3 * 2 * 5 * 32)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(("backend", "length"), grid())
def test_equals_the_reference(backend: str, length: int, reverse: bool) -> None:
    assert_equals_reference(backend, draw(length), reverse=reverse)


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_many_segments_equal_the_reference(backend: str, reverse: bool) -> None:
    seq_idx = (torch.arange(500) // 130).expand(2, -1)
    assert_equals_reference(backend, draw(500), reverse=reverse)
    assert_equals_reference(backend, draw(500), reverse=reverse, seq_idx=seq_idx)


@pytest.mark.parametrize("softplus", [False, True], ids=["plain", "softplus"])
@pytest.mark.parametrize("left_out", [*OPTIONAL, "all"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_optional_inputs(backend: str, left_out: str, softplus: bool) -> None:
    kept = () if left_out == "all" else tuple(name for name in OPTIONAL if name != left_out)
    assert_equals_reference(backend, draw(70, optional=kept), delta_softplus=softplus)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 7, 16), (1, 70, 2), (2, 130, 3), (1, 3, 256)], ids=str
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_odd_shapes(backend: str, shape: tuple[int, int, int]) -> None:
    batch, channels, state = shape
    assert_equals_reference(backend, draw(67, batch=batch, channels=channels, state=state))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_inputs(backend: str, dtype: torch.dtype) -> None:
    inputs = draw(151, optional=("D", "z", "delta_bias"))
    wide = ("A", "D", "delta_bias")
    narrow = {n: t.to(torch.float32 if n in wide else dtype) for n, t in inputs.items()}
    got = results(narrow, backend=backend)
    wanted = results(to(narrow, torch.float64), backend="reference")
    assert got["y"].dtype == got["du"].dtype == got["dB"].dtype == dtype
    assert got["dA"].dtype == got["last"].dtype == torch.float32
    assert_close(got, wanted, 3e-3 if dtype == torch.float16 else 3e-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_inputs(backend: str) -> None:
    """Halves of a projection, and (batch, channels, length) turned round, are read as they lie."""
    inputs = to(draw(75), torch.float32)
    strided = {
        name: torch.stack([t, t.new_full(t.shape, math.nan)], dim=-1)[..., 0]
        for name, t in inputs.items()
    }
    strided["u"] = inputs["u"].transpose(1, 2).contiguous().transpose(1, 2)
    got, wanted = scan(strided, backend=backend), scan(inputs, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert got[0].is_contiguous()


@pytest.mark.parametrize("used", [0, 1], ids=["y", "last"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_through_one_output(backend: str, used: int) -> None:
    grads = {}
    for name in ("reference", backend):
        leaves = leaves_of(to(draw(40), torch.float32))
        scan(leaves, backend=name)[used].square().sum().backward()
        grads[name] = {
            n: torch.zeros_like(t) if t.grad is None else t.grad for n, t in leaves.items()
        }
    assert_close(grads[backend], grads["reference"], 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_of_a_batch_equals_a_batch_of_one(backend: str) -> None:
    inputs = to(draw(200, batch=3), torch.float32)
    row = rowwise(inputs, slice(1, 2))
    got, wanted = scan(row, backend=backend), scan(inputs, backend=backend)
    for one, all_ in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, all_[1:2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_runs_give_the_same_bits(backend: str) -> None:
    inputs = to(draw(333, channels=70), torch.float32)
    first, second = (results(inputs, backend=backend) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("delta", [0.0, 1e-6, 1e3], ids=lambda value: f"delta{value:g}")
@pytest.mark.parametrize("A", [-1e-6, -1e4], ids=lambda value: f"A{value:g}")
def test_extreme_inputs(backend: str, delta: float, A: float) -> None:
    inputs = draw(130)
    inputs["delta"] = torch.full_like(inputs["delta"], delta)
    inputs["A"] = torch.full_like(inputs["A"], A)
    del inputs["delta_bias"]
    wanted = results(inputs, backend="reference", delta_softplus=False)
    got = results(to(inputs, torch.float32), backend=backend, delta_softplus=False)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in got.values())
    # The decay of a state may round to 0 where fp64 still holds e-200; such gradients are nothing.
    scale = {name: value for name, value in wanted.items() if value.abs().max() > 1e-6}
    assert_close({n: got[n] for n in scale}, scale, 1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_softplus_of_what_exp_cannot_hold(backend: str) -> None:
    """Softplus of 100 is 100, though e^100 is more than bf16 and fp32 hold; of -100 nearly 0."""
    inputs = draw(64, optional=("D", "z"))
    inputs["delta"] = (
        torch.tensor([-100.0, -30.0, 0.0, 30.0, 100.0, 3e3, 1.0, 2.0])
        .repeat(8)[None, :, None]
        .expand(2, 64, 5)
    )
    narrow = to(inputs, torch.bfloat16)
    wanted = results(to(narrow, torch.float64), backend="reference")
    got = results(narrow, backend=backend)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in got.values())
    assert_close(got, wanted, 1e-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_where_it_can_reach(backend: str) -> None:
    inputs = to(draw(90), torch.float32)
    inputs["u"][0, 50, 2] = math.nan
    y, _ = scan(inputs, backend=backend)
    assert y[0, 50:, 2].isnan().all()
    assert not y[0, :50].isnan().any()
    assert not y[0, 50:, [0, 1, 3, 4]].isnan().any()
    assert not y[1].isnan().any()


@pytest.mark.parametrize("form", ["varying", "constant", 3])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("poisoned")
def test_every_element_is_written(backend: str, form: str | int) -> None:
    """Freshly allocated buffers hold NaN; none may be left."""
    inputs = to(draw(101, channels=6, B=form, C=form), torch.float32)
    seq_idx = (torch.arange(101) // 40).expand(2, -1)
    for options in ({}, {"seq_idx": seq_idx, "reverse": True}):
        got = results(inputs, backend=backend, **options)
        assert all(bool(value.isfinite().all()) for value in got.values())


def test_auto_takes_a_fast_path_and_fp64_stays_fp64() -> None:
    inputs = draw(40)
    torch.testing.assert_close(scan(inputs)[0], scan(inputs, backend="reference")[0])
    single = to(inputs, torch.float32)
    assert torch.equal(scan(single)[0], scan(single, backend="numba")[0])


@pytest.mark.parametrize("groups", [None, 3])
def test_steps_equal_the_scan(groups: int | None) -> None:
    form = "varying" if groups is None else groups
    inputs = draw(20, channels=6, B=form)
    y, last = scan(inputs, backend="reference")
    state = inputs["initial_state"]
    for t in range(20):
        out, state = selective_state_update(
            state,
            *(inputs[n][:, t] for n in ("u", "delta")),
            inputs["A"],
            *(inputs[n][:, t] for n in ("B", "C")),
            D=inputs["D"],
            z=inputs["z"][:, t],
            delta_bias=inputs["delta_bias"],
            delta_softplus=True,
        )
        torch.testing.assert_close(out, y[:, t])
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"u": torch.ones(2, 9)}, ("u has shape (2, 9)", "(batch, length, channels)")),
        ({"delta": torch.ones(2, 8, 6)}, ("delta has shape (2, 8, 6)", "(2, 9, 6)")),
        ({"A": torch.ones(4, 8)}, ("A has shape (4, 8)", "(6, 8)")),
        ({"A": torch.ones(6, 8).cfloat()}, ("A has type torch.complex64", "floating-point")),
        ({"B": torch.ones(2, 9, 7)}, ("B has shape (2, 9, 7)", "(2, 9, 8)")),
        ({"B": torch.ones(8, 6)}, ("B has shape (8, 6)", "constant (channels, state)", "(6, 8)")),
        ({"C": torch.ones(2, 9, 4, 8)}, ("C has 4 groups", "6 channels")),
        ({"C": torch.ones(2, 9, 3, 7)}, ("C has shape (2, 9, 3, 7)", "(2, 9, 3, 8)")),
        ({"C": torch.ones(8)}, ("C has shape (8,)", "(2, 9, 8)")),
        ({"z": torch.ones(2, 9, 6, dtype=torch.int64)}, ("z has type torch.int64",)),
        ({"D": torch.ones(6, device="meta")}, ("D is on meta", "cpu")),
        ({"initial_state": torch.ones(2, 8, 6)}, ("initial_state has shape", "(2, 6, 8)")),
        ({"seq_idx": torch.ones(9).int()}, ("seq_idx has shape (9,)", "(2, 9)")),
        ({"seq_idx": torch.ones(2, 9)}, ("seq_idx has type torch.float32", "int32 or int64")),
        ({"seq_idx": torch.ones(2, 9, device="meta").int()}, ("seq_idx is on meta", "cpu")),
        ({"backend": "cuda"}, ("backend 'cuda'", "reference, chunked, numba")),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], words: tuple[str, ...]) -> None:
    inputs: dict[str, Any] = to(draw(9, channels=6), torch.float32)
    with pytest.raises(UsageError) as error:
        selective_scan(**{**inputs, **change})
    assert all(word in str(error.value) for word in words), str(error.value)


def test_numba_refuses_fp64() -> None:
    with pytest.raises(UsageError, match="float64"):
        scan(draw(4), backend="numba")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_million_steps(backend: str) -> None:
    """The longest length against the chunked path in fp64, which shorter lengths prove."""
    inputs = draw(2**20 + 3, batch=1, channels=4, state=8)
    wanted = results(inputs, backend="chunked")
    assert_close(results(to(inputs, torch.float32), backend=backend), wanted, 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("length", [1, 33, 372, 2049, 6145], ids=lambda length: f"L{length}")
def test_chunked_on_a_gpu_equals_the_reference(
    cuda: torch.device, length: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(chunked.WIDTH, "cuda", 2**14)
    wide = ("A", "D", "delta_bias", "initial_state")
    narrow = {n: t.to(torch.float32 if n in wide else dtype) for n, t in draw(length).items()}
    on_gpu = {name: tensor.to(cuda) for name, tensor in narrow.items()}
    got = {name: tensor.cpu() for name, tensor in results(on_gpu, backend="chunked").items()}
    wanted = results(to(narrow, torch.float64), backend="reference")
    assert_close(got, wanted, 1e-5 if dtype == torch.float32 else 3e-2)
