"""What must hold of every convolution: cuts, packing, direction, repetition, and where NaN goes."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dnamamba.kernels import causal_conv1d, causal_conv1d_update
from dnamamba.kernels.conv.autograd import convolve, differentiate, update
from tests.kernels.closeness import assert_close
from tests.kernels.conv.cases import BACKENDS, FUSED, GPU, cast, draw, precise, results

pytestmark = pytest.mark.usefixtures("small_tiles")

quick = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DEVICE = {"reference": "cpu", "numba": "cpu", "triton": "cuda" if GPU else "cpu"}


def on(backend: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs in the widest type that a backend takes, where it runs."""
    return {n: t.to(DEVICE[backend]) for n, t in cast(inputs, precise(backend)).items()}


def differentiated(
    inputs: dict[str, Tensor], run: Callable[..., tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Results of `run` on leaves, and their gradients, as `results` names them."""
    names = ("x", "weight", "bias", "initial_state")
    leaves = {name: inputs[name].detach().requires_grad_() for name in names}
    y, final = run(**leaves)
    gradients = torch.autograd.grad([y, final], leaves.values(), [inputs["dy"], inputs["dfinal"]])
    named = {f"d{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return {n: t.detach().cpu() for n, t in {"y": y, "final": final, **named}.items()}


@quick
@given(
    length=st.integers(2, 40),
    cut=st.integers(1, 39),
    width=st.integers(2, 4),
    reverse=st.booleans(),
    backend=st.sampled_from(BACKENDS),
)
def test_split_anywhere_equals_the_whole(
    length: int, cut: int, width: int, reverse: bool, backend: str
) -> None:
    at = min(cut, length - 1)
    drawn = draw(length, width, batch=1)

    def halves(x: Tensor, initial_state: Tensor, **parameters: Tensor) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = {
            **parameters,
            "activation": "silu",
            "return_final_state": True,
            "reverse": reverse,
            "backend": backend,
        }
        first, second = (x[:, at:], x[:, :at]) if reverse else (x[:, :at], x[:, at:])
        y1, carried = causal_conv1d(first, initial_state=initial_state, **options)
        y2, final = causal_conv1d(second, initial_state=carried, **options)
        return torch.cat([y2, y1] if reverse else [y1, y2], dim=1), final

    assert_close(differentiated(on(backend, drawn), halves), results(drawn, reverse=reverse))


@quick
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    width=st.integers(2, 4),
    reverse=st.booleans(),
    backend=st.sampled_from(BACKENDS),
)
def test_packed_equals_separate(
    lengths: list[int], width: int, reverse: bool, backend: str
) -> None:
    drawn = draw(sum(lengths), width, batch=1)

    def separate(x: Tensor, initial_state: Tensor, **parameters: Tensor) -> tuple[Tensor, Tensor]:
        state: Tensor | None = initial_state
        outputs = []
        pieces = x.split(lengths, dim=1)
        for piece in reversed(pieces) if reverse else pieces:
            y, final = causal_conv1d(
                piece,
                **parameters,
                activation="silu",
                initial_state=state,
                return_final_state=True,
                reverse=reverse,
                backend="reference",
            )
            outputs.append(y)
            state = None
        return torch.cat(outputs[::-1] if reverse else outputs, dim=1), final

    # 0, 1, 0, 1: a number may return, and it is another sequence then.
    numbers = torch.arange(len(lengths)) % 2
    packed = {"seq_idx": numbers.repeat_interleave(torch.tensor(lengths))[None]}
    got = results({**cast(drawn, precise(backend)), **packed}, backend, reverse=reverse)
    # A sequence that no result depends on has gradient zero either way.
    names = ("x", "weight", "bias", "initial_state")
    leaves = {name: drawn[name].requires_grad_() for name in names}
    y, final = separate(**leaves)
    loss = (y * drawn["dy"]).sum() + (final * drawn["dfinal"]).sum()
    loss.backward()
    wanted = {"y": y.detach(), "final": final.detach()}
    wanted |= {f"d{n}": leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}
    assert_close(got, wanted)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_final_state_of_a_short_last_sequence_is_filled_with_zeros(
    backend: str, dtype: torch.dtype
) -> None:
    inputs = on(backend, draw(6, 4, batch=1))
    x, state = inputs["x"].requires_grad_(), inputs["initial_state"].requires_grad_()
    packed = torch.tensor([[0, 0, 0, 0, 1, 1]], dtype=dtype, device=x.device)
    options: dict[str, Any] = {"return_final_state": True, "backend": backend}
    weight = inputs["weight"]
    _, final = causal_conv1d(x, weight, seq_idx=packed, initial_state=state, **options)
    assert torch.equal(final, torch.cat([torch.zeros_like(x[:, :1]), x[:, 4:]], 1))
    dx, dstate = torch.autograd.grad(final, (x, state), torch.ones_like(final))
    assert torch.equal(dx, torch.cat([torch.zeros_like(x[:, :4]), torch.ones_like(x[:, 4:])], 1))
    assert not dstate.any()
    one = packed[:, 4:]
    _, final = causal_conv1d(x[:, 4:], weight, seq_idx=one, initial_state=state, **options)
    assert torch.equal(final, torch.cat([state[:, 2:], x[:, 4:]], 1))


@pytest.mark.parametrize("sequences", [False, True], ids=["one", "packed"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_reverse_equals_flipped_copies(backend: str, sequences: bool) -> None:
    inputs = cast(draw(70, batch=1, sequences=sequences), precise(backend))
    along = ("x", "dy", "seq_idx")
    flipped = {name: t.flip(1) if name in along else t for name, t in inputs.items()}
    got, wanted = results(inputs, backend, reverse=True), results(flipped, backend)
    for name, tensor in wanted.items():
        assert torch.equal(got[name], tensor.flip(1) if name in ("y", "dx") else tensor), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_of_a_batch_equals_a_batch_of_one(backend: str) -> None:
    inputs = cast(draw(20, batch=3, sequences=True), precise(backend))
    row = {n: t if n in ("weight", "bias") else t[1:2] for n, t in inputs.items()}
    got, whole = results(row, backend), results(inputs, backend)
    for name in ("y", "final", "dx", "dinitial_state"):
        assert torch.equal(got[name], whole[name][1:2]), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_runs_give_the_same_bits(backend: str) -> None:
    inputs = cast(draw(67, batch=1, channels=9, sequences=True), precise(backend))
    first, second = results(inputs, backend), results(inputs, backend)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_tiles_change_nothing_beyond_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    from dnamamba.kernels.conv import gpu

    inputs = draw(20, batch=1, channels=9)
    for tiles in (gpu.Tiles(1, 16, 16, 8, 1), gpu.Tiles(2, 4, 4, 2, 2), gpu.Tiles(4, 8, 2, 1, 4)):
        monkeypatch.setitem(gpu.FORWARD, 4, tiles)
        monkeypatch.setitem(gpu.BACKWARD, 4, tiles)
        assert_close(results(cast(inputs, torch.float32), "triton"), results(inputs))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_where_it_can_reach(backend: str) -> None:
    inputs = cast(draw(20), precise(backend))
    inputs["seq_idx"] = (torch.arange(20) >= 12).int().expand(2, 20)
    inputs["x"][0, 10, 2] = math.nan
    found = results(inputs, backend)
    reached = torch.zeros(2, 20, 5, dtype=torch.bool)
    reached[0, 10:12, 2] = True
    assert torch.equal(found["y"].isnan(), reached)
    reached[0, 7:12, 2] = True
    assert torch.equal(found["dx"].isnan(), reached)
    assert found["dweight"].isnan().nonzero()[:, 0].unique().tolist() == [2]


@pytest.mark.filterwarnings("ignore:overflow encountered")  # NumPy's, in the interpreter
@pytest.mark.parametrize("backend", BACKENDS)
def test_large_sums_stay_finite(backend: str) -> None:
    inputs = cast(draw(20), precise(backend))
    inputs["x"] *= 80 / inputs["x"].abs().max()
    exact = results({n: t.double() for n, t in inputs.items()})
    found = results(inputs, backend)
    assert all(bool(tensor.isfinite().all()) for tensor in found.values())
    assert_close(found, exact)


@pytest.mark.usefixtures("poisoned")
def test_every_element_is_written() -> None:
    """Freshly allocated buffers hold NaN; none may be left."""
    for backend, (length, width) in product(FUSED, ((1, 4), (67, 4), (9, 1))):
        inputs = cast(draw(length, width, channels=11), torch.float32)
        found = results(inputs, backend)
        assert all(bool(tensor.isfinite().all()) for tensor in found.values())
    for backend in FUSED:
        device = DEVICE[backend]
        x, state, weight = (torch.ones(s, device=device) for s in ((2, 11), (2, 3, 11), (11, 4)))
        step = causal_conv1d_update(x, state, weight, backend=backend)
        assert all(bool(tensor.isfinite().all()) for tensor in step)


@pytest.mark.parametrize("given", ["all", "few"])
@pytest.mark.parametrize("backend", FUSED)
def test_the_ops_are_registered_soundly(backend: str, given: str) -> None:
    inputs = on(backend, draw(2, 3, batch=1, channels=3))
    names = ("x", "weight", "bias", "initial_state")
    leaves = [inputs[name].requires_grad_() for name in names]
    seq_idx = torch.zeros(1, 2, dtype=torch.int32, device=inputs["x"].device)
    if given == "few":
        leaves, seq_idx = [*leaves[:2], None, None], None
    torch.library.opcheck(convolve, (*leaves, seq_idx, True, False, given == "all", backend))
    constant = [None if leaf is None else leaf.detach() for leaf in leaves]
    dfinal = inputs["dfinal"] if given == "all" else None
    arguments = (*constant, seq_idx, inputs["dy"], dfinal, True, False, backend)
    torch.library.opcheck(differentiate, arguments)


@pytest.mark.parametrize("backend", FUSED)
def test_the_op_of_a_step_is_registered_soundly(backend: str) -> None:
    inputs = on(backend, draw(2, 3, batch=1, channels=3))
    x, weight, bias, state = (inputs[n] for n in ("x", "weight", "bias", "initial_state"))
    state, weight, bias = (leaf.requires_grad_() for leaf in (state, weight, bias))
    x = x.detach()[:, 0].requires_grad_()
    torch.library.opcheck(update, (x, state, weight, bias, True, backend))


@pytest.mark.parametrize("backend", FUSED)
def test_compiles_as_one_graph(backend: str) -> None:
    inputs = cast(draw(9, sequences=True), torch.float32)
    inputs["x"] = torch.cat([inputs["x"], inputs["x"]], -1)[..., :5]
    wanted = results(inputs, backend)
    compiled = torch.compile(results_of, fullgraph=True, backend="aot_eager")
    device = DEVICE[backend]
    names = ("x", "weight", "bias", "initial_state")
    leaves = [inputs[name].detach().to(device).requires_grad_() for name in names]
    y, final = compiled(*leaves, inputs["seq_idx"].to(device), backend)
    gradients = torch.autograd.grad(
        [y, final], leaves, [inputs[name].to(device) for name in ("dy", "dfinal")]
    )
    got = dict(zip(wanted, (y.detach(), final.detach(), *gradients), strict=True))
    assert all(torch.equal(got[name].cpu(), wanted[name]) for name in wanted)


def results_of(
    x: Tensor, weight: Tensor, bias: Tensor, initial_state: Tensor, seq_idx: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    return causal_conv1d(
        x,
        weight,
        bias,
        activation="silu",
        initial_state=initial_state,
        return_final_state=True,
        seq_idx=seq_idx,
        backend=backend,
    )
