"""The scan as an op: its schema and fake, torch.compile, autocast, checkpointing and memory."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dnamamba.kernels.scan import chunked, cpu
from dnamamba.kernels.scan.autograd import implementation
from dnamamba.kernels.scan.autograd import scan as op
from dnamamba.kernels.scan.inputs import ScanInputs
from tests.kernels.scan.cases import (
    BACKENDS,
    OPTIONAL,
    assert_close,
    draw,
    gradients,
    leaves_of,
    results,
    scan,
    to,
)


def arguments(
    optional: tuple[str, ...], B: str | int, *, backend: str, keep: bool = True
) -> tuple[Any, ...]:
    """Draw the op's arguments, in order."""
    inputs = leaves_of(to(draw(40, channels=6, B=B, C=1, optional=optional), torch.float32))
    starts = torch.zeros(2, 40, dtype=torch.bool)
    starts[:, 30] = True
    names = ("u", "delta", "A", "B", "C", *OPTIONAL)
    tensors = (inputs.get(name) for name in names)
    return (*tensors, starts if optional else None, True, not optional, keep, backend)


@pytest.mark.parametrize("optional", [OPTIONAL, ()], ids=["all", "least"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_op_is_what_it_says(backend: str, optional: tuple[str, ...]) -> None:
    torch.library.opcheck(op, arguments(optional, "constant" if optional else 1, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_backward_op_is_what_it_says(backend: str) -> None:
    *tensors, starts, softplus, reverse, keep, name = arguments(OPTIONAL, 1, backend=backend)
    tensors = [tensor.detach() for tensor in tensors]
    y, last, saved = op(*tensors, starts, softplus, reverse, keep, name)
    given = (y, last, saved, *tensors, starts, softplus, reverse, name)
    torch.library.opcheck(torch.ops.dnamamba.selective_scan_backward.default, given)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_kept_where_no_gradient_is_wanted(backend: str) -> None:
    kept, dropped = (
        op(*arguments(OPTIONAL, 1, backend=backend, keep=keep)) for keep in (True, False)
    )
    assert kept[2].numel() > 0
    assert dropped[2].shape == (0,)
    assert torch.equal(kept[0], dropped[0])
    assert torch.equal(kept[1], dropped[1])


@pytest.mark.parametrize("grad", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_compiles_into_one_graph(backend: str, grad: bool) -> None:
    """Under autocast too, packed and grouped, at two lengths: shapes become symbols."""
    torch.compiler.reset()

    def run(inputs: dict[str, Tensor], seq_idx: Tensor) -> tuple[Tensor, Tensor]:
        return scan(inputs, backend=backend, seq_idx=seq_idx)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for length in (45, 71):
        inputs = to(draw(length, channels=6, B=2, C="constant"), torch.float32)
        seq_idx = (torch.arange(length) // 20).repeat(2, 1)
        with torch.set_grad_enabled(grad):
            wanted = run(inputs, seq_idx)
            leaves = leaves_of(inputs) if grad else inputs
            with torch.autocast("cpu", dtype=torch.bfloat16):
                got = compiled(leaves, seq_idx)
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
        if grad:
            wanted_all = results(inputs, backend=backend, seq_idx=seq_idx)
            assert_close(gradients(*got, leaves), wanted_all, 1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_activation_checkpointing(backend: str) -> None:
    inputs = to(draw(50), torch.float32)
    leaves = leaves_of(inputs)
    y, last = checkpoint(scan, leaves, backend=backend, use_reentrant=False)
    got, wanted = gradients(y, last, leaves), results(inputs, backend=backend)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_autocast_leaves_the_scan_in_fp32(backend: str) -> None:
    inputs = to(draw(64), torch.float32)
    wanted = results(inputs, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = results(inputs, backend=backend)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_some_gradients_only(backend: str) -> None:
    inputs = to(draw(30), torch.float32)
    wanted = results(inputs, backend=backend)
    for name in inputs:
        leaves = {**inputs, name: inputs[name].clone().requires_grad_()}
        got = gradients(*scan(leaves, backend=backend), {name: leaves[name]})
        assert torch.equal(got[f"d{name}"], wanted[f"d{name}"])


def test_there_is_no_second_derivative() -> None:
    """It is refused, never wrong."""
    leaves = leaves_of(to(draw(10), torch.float32))
    y, _ = scan(leaves, backend="chunked")
    (du,) = torch.autograd.grad(y.square().sum(), leaves["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        du.sum().backward()


@pytest.mark.parametrize("form", ["varying", "constant"])
@pytest.mark.parametrize("backend", ["chunked", "numba"])
def test_memory_never_holds_length_by_state(
    backend: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    length, channels, state = 5_000, 8, 16
    monkeypatch.setitem(chunked.WIDTH, "cpu", 2**10)
    monkeypatch.setattr(cpu, "SEGMENT", 2**12)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    weight: str | int = 1 if form == "varying" else form
    drawn = draw(length, batch=1, channels=channels, state=state, B=weight, C=weight)
    given = to(drawn, torch.float32)
    initial = given.pop("initial_state")
    inputs = ScanInputs(**given, starts=None, delta_softplus=True, reverse=False)
    run = implementation(backend)
    with Watch():
        y, last, saved = run.forward(inputs, initial, True)
        run.backward(inputs, initial, saved, y, last)
    assert length * channels <= largest <= 2 * length * max(channels, state)
