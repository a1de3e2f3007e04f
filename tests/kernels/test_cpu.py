"""What compiled CPU code shares: arithmetic against fp64, rows as they lie, threads."""

import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numba import njit

from dnamamba.kernels import (
    causal_conv1d,
    causal_conv1d_update,
    selective_scan,
    selective_state_update,
)
from dnamamba.kernels.cpu import exp, exp2, place, rows, run, sigmoid, softplus


def over(function: object, x: torch.Tensor) -> torch.Tensor:
    """Apply compiled arithmetic to each number."""

    @njit
    def apply(x, y):  # type: ignore[no-untyped-def]
        for i in range(len(x)):
            y[i] = function(x[i])  # type: ignore[operator]

    y = torch.empty_like(x)
    apply(x.numpy(), y.numpy())
    return y


def worst(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(((got.double() - wanted) / wanted).abs().max())


def test_arithmetic_is_right_to_a_few_units_in_the_last_place() -> None:
    """Relative to the result, where it is e-9 as where it is 20."""
    x = torch.linspace(-20, 20, 100_001)
    wide, unit = x.double(), 2.0**-24
    assert worst(over(exp, x), wide.exp()) < 6 * unit
    assert worst(over(exp2, x), wide.exp2()) < 4 * unit
    assert worst(over(sigmoid, x), wide.sigmoid()) < 8 * unit
    assert worst(over(softplus, x), wide.exp().log1p()) < 8 * unit


def test_powers_of_nothing_are_one() -> None:
    """Exactly, because a state is multiplied by them a million times."""
    zeros = torch.zeros(8)
    assert over(exp, zeros).eq(1).all()
    assert over(exp2, zeros).eq(1).all()


def test_extremes_stay_in_range_and_nan_stays_nan() -> None:
    x = torch.tensor([-math.inf, -1e4, 1e4, math.inf, math.nan])
    for function in (exp, exp2, sigmoid, softplus):
        y = over(function, x)
        assert y[:3].isfinite().all()
        assert y[0] < 1e-37
        assert y[4].isnan()
    assert over(softplus, x)[2] == 1e4
    assert over(softplus, x)[3] == math.inf


@pytest.mark.parametrize("reverse", [False, True], ids=["ahead", "reverse"])
def test_rows_are_read_where_they_lie(reverse: bool) -> None:
    wide = torch.arange(2 * 7 * 10.0).view(2, 7, 10)
    for tensor in (wide, wide[:, 1:6, 3:7], wide[:, :, ::2], wide.transpose(0, 1), wide.bfloat16()):
        found = rows(tensor, reverse)
        _, length, width = tensor.shape
        read = tensor.float().flip(1) if reverse else tensor.float()
        for row, t in np.ndindex(len(tensor), length):
            at = place(found, row, t)
            assert found.values[at : at + width].tolist() == read[row, t].tolist()
    view = rows(wide[:, 1:6, 3:7], reverse)
    assert np.shares_memory(view.values, wide.numpy())


def test_tasks_are_shared_by_threads_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    ran: set[tuple[int, str]] = set()
    meet = threading.Barrier(2, timeout=60)

    def task(number: int) -> None:
        meet.wait()
        ran.add((number, threading.current_thread().name))

    for _ in range(2):
        run(task, [(0,), (1,)])
    assert {number for number, _ in ran} == {0, 1}
    assert len({name for _, name in ran}) == 2
    with pytest.raises(ZeroDivisionError):
        run(lambda number: 1 // number, [(1,), (0,)])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    run(lambda number: None, [(0,), (1,)])
    child = os.fork()
    if child == 0:
        done: list[int] = []
        run(done.append, [(0,), (1,)])
        os._exit(0 if sorted(done) == [0, 1] else 1)
    assert os.waitpid(child, 0)[1] == 0


FRESH = """
import hashlib
import torch
from dnamamba.kernels import causal_conv1d, selective_scan, selective_state_update

torch.manual_seed(0)
u, delta, z = (torch.randn(2, 70, 96).requires_grad_() for _ in range(3))
A, B, C = -torch.rand(96, 16), torch.randn(2, 70, 16), torch.randn(2, 70, 16)
D, bias, weight = torch.randn(96), torch.randn(96), torch.randn(96, 4)
leaves = [u, delta, z, *(t.requires_grad_() for t in (A, B, C, D, bias, weight))]
x = causal_conv1d(u, weight, bias, activation="silu")
y, state = selective_scan(
    x, delta, A, B, C, D=D, z=z, delta_bias=bias, delta_softplus=True, return_last_state=True
)
y.square().sum().backward()
step = selective_state_update(state, u[:, 0], delta[:, 0], A, B[:, 0], C[:, 0])
found = [y, state, *step, *(leaf.grad for leaf in leaves)]
print(hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in found)).hexdigest())
"""


@pytest.mark.slow
def test_what_was_just_compiled_gives_the_bits_of_what_is_cached(tmp_path: Path) -> None:
    """A run that is gone on with in another process would not be exact otherwise."""
    call = [sys.executable, "-c", FRESH]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    digests = [subprocess.check_output(call, env=environment) for _ in range(2)]
    assert list(tmp_path.rglob("*.nbc"))
    assert digests[0] == digests[1]


@pytest.mark.parametrize("steps", [1, 5])
def test_storages_of_parameters_can_be_freed_afterwards(steps: int) -> None:
    """As FSDP frees those of whole parameters."""
    u, B = torch.randn(2, steps, 8), torch.randn(2, steps, 4)
    A, D, bias = -torch.rand(8, 4), torch.randn(8), torch.randn(8)
    weight, offset = torch.randn(8, 4), torch.randn(8)
    options = {"D": D, "delta_bias": bias}
    selective_scan(u, u, A, B, B, **options, backend="numba")
    causal_conv1d(u, weight, offset, backend="numba")
    state, past = torch.zeros(2, 8, 4), torch.zeros(2, 3, 8)
    first, b = u[:, 0], B[:, 0]
    selective_state_update(state, first, first, A, b, b, **options, backend="numba")
    causal_conv1d_update(first, past, weight, offset, backend="numba")
    for parameter in (A, D, bias, weight, offset):
        parameter.untyped_storage().resize_(0)
