"""What the kernels are held against."""

import sys
from types import ModuleType

import pytest
import torch

from dnamamba.kernels import compat
from dnamamba.pipelines.benchmark.kernels import peers
from dnamamba.pipelines.benchmark.kernels.timer import Timer
from dnamamba.pipelines.benchmark.kernels.workloads import (
    BOTH,
    FORWARD,
    OPS,
    Draw,
    Shape,
    Workload,
    timed,
)

CPU = torch.device("cpu")
SHAPE = Shape(2, 6, 8)


@pytest.mark.parametrize(
    ("op", "module", "name"),
    [
        ("scan", "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn"),
        ("conv", "causal_conv1d", "causal_conv1d_fn"),
    ],
)
def test_packages_are_called_as_their_signatures_want(
    op: str, module: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = ModuleType(module)
    setattr(package, name, getattr(compat, name))
    monkeypatch.setitem(sys.modules, module, package)
    work = Workload(op, SHAPE, 4, torch.float32)
    _, prepare = peers.PACKAGES[op]
    trial = prepare(work, Draw(CPU))
    (y,) = trial.call()
    assert y.shape == (2, 8, 6)
    own = OPS[op].prepare(work, "reference", Draw(CPU))
    assert [tensor.numel() for tensor in trial.inputs] == [t.numel() for t in own.inputs]
    gradients = timed(trial, BOTH, Draw(CPU))()
    assert isinstance(gradients, tuple)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_what_is_installed() -> None:
    assert peers.installed("torch")
    assert not peers.installed("no_such_package")


def test_the_scan_step_by_step_is_shortened_to_what_it_can_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def steps(shape: Shape) -> tuple[int, str]:
        contender = peers.sequential(Workload("scan", shape, 16, torch.float32))
        assert contender.path == "reference"
        return contender.work.shape.length, contender.note

    assert steps(Shape(1, 100, 256)) == (100, "one step at a time")
    assert steps(Shape(1, 2**20, 256))[0] == peers.SEQUENTIAL_STEPS
    wide = Shape(64, 2048, 1024)
    assert steps(wide) == (64, "one step at a time, shortened from 2048")
    monkeypatch.setattr(peers, "SEQUENTIAL_STATES", 1)
    assert steps(wide)[0] == 1


@pytest.mark.parametrize(
    ("length", "reached"),
    [(1, 1), (1000, 1000), (2**13, 2**13), (2**20, 2**14), (3 * 2**14, 3 * 2**12), (2**14, 2**14)],
)
def test_what_grows_with_the_square_stops_in_time(length: int, reached: int) -> None:
    tried = []

    def seconds(steps: int) -> float:
        tried.append(steps)
        return (steps / 2**14) ** 2

    assert peers.within(seconds, length, limit=1.0) == reached
    assert all(steps <= reached for steps in tried)


def test_a_length_that_fails_is_left_to_the_measurement() -> None:
    def seconds(steps: int) -> float:
        raise torch.OutOfMemoryError(str(steps))

    assert peers.within(seconds, 2**20, limit=1.0) == 512


def test_attention_says_what_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = Timer(CPU, 0.001)
    whole = peers.longest_attention(2, 600, torch.float32, timer)
    assert (whole.work.shape, whole.note) == (Shape(2, 600, 128), "2 heads of 64")
    monkeypatch.setattr(peers, "ATTENTION_SECONDS", 0.0)
    shorter = peers.longest_attention(1, 1200, torch.float32, timer)
    assert (shorter.work.shape, shorter.note) == (
        Shape(1, 600, 128),
        "2 heads of 64, shortened from 1200",
    )
    (y,) = shorter.prepare(Draw(CPU)).call()
    assert y.shape == (1, 2, 600, 64)
    assert shorter.passes == (FORWARD, BOTH)
