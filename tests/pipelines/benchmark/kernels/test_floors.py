"""Bytes, exponentials and floors, against what was counted by hand."""

import subprocess
from types import SimpleNamespace

import pytest
import torch

from dnamamba.pipelines.benchmark.kernels.floors import Machine, floor, max_clock, traffic
from dnamamba.pipelines.benchmark.kernels.workloads import (
    BOTH,
    FORWARD,
    OPS,
    Draw,
    Shape,
    Workload,
    timed,
)

SHAPE = Shape(2, 5, 3)
STEP = Shape(2, 1, 3)
BF16, FP32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("work", "forward", "backward"),
    [
        # Sequences of 30 elements, B and C of 40 each, A of 12, D and delta_bias of 3.
        (Workload("scan", SHAPE, 4, BF16), 4 * 60 + 2 * 80 + 72, 7 * 60 + 4 * 80 + 144),
        (Workload("scan", SHAPE, 4, FP32), 4 * 120 + 2 * 160 + 72, 7 * 120 + 4 * 160 + 144),
        # 12 taps and 3 biases.
        (Workload("conv", SHAPE, 0, BF16), 2 * 60 + 60, 3 * 60 + 120),
        # x and y, residual and sum; dy and dx, the sum, its gradient, and the residual's.
        (Workload("norm", SHAPE, 0, BF16, FP32), 120 + 240 + 12, 120 + 360 + 24),
        (Workload("norm", SHAPE, 0, BF16, BF16), 240 + 12, 240 + 24),
        # States of 24 elements read and written; u, delta, z and y of 6; B and C of 8.
        (Workload("update", STEP, 4, BF16), 2 * 96 + 4 * 12 + 2 * 16 + 72, 0),
    ],
)
def test_traffic(work: Workload, forward: int, backward: int) -> None:
    assert traffic(work) == (forward, backward)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", [BF16, FP32])
def test_traffic_is_that_of_the_tensors(op: str, dtype: torch.dtype) -> None:
    work = Workload(op, STEP if op == "update" else SHAPE, 4 if OPS[op].stateful else 0, dtype)
    draw = Draw(torch.device("cpu"))
    trial = OPS[op].prepare(work, "reference", draw)
    outputs = trial.call()
    given, made = (sum(tensor.nbytes for tensor in some) for some in (trial.inputs, outputs))
    counted = traffic(work)
    assert counted is not None
    assert counted[0] == given + made
    gradients = timed(trial, BOTH, draw)() if BOTH in OPS[op].passes else ()
    assert isinstance(gradients, tuple)
    for tensor, gradient in zip(trial.inputs, gradients, strict=bool(gradients)):
        assert (gradient.shape, gradient.dtype) == (tensor.shape, tensor.dtype)
    if op in ("scan", "conv"):
        assert counted[1] == 2 * given + made


def test_the_floor_is_the_larger_of_the_two() -> None:
    work = Workload("scan", SHAPE, 4, BF16)  # 120 exponentials, 472 bytes, and 884 backward
    machine = Machine(bandwidth=1000.0, exponentials=100.0)
    assert floor(work, FORWARD, machine) == (472, 1.2, "exponentials")
    assert floor(work, BOTH, machine) == (1356, 2.4, "exponentials")
    assert floor(work, BOTH, Machine(500.0, 100.0)) == (1356, 2.712, "memory")
    assert floor(work, FORWARD, Machine(1000.0, None)) == (472, 0.472, "memory")
    conv = Workload("conv", SHAPE, 0, BF16)
    assert floor(conv, BOTH, machine) == (480, 0.48, "memory")


def test_attention_has_no_floor() -> None:
    work = Workload("attention", SHAPE, 0, BF16)
    assert floor(work, FORWARD, Machine(1.0, 1.0)) is None


def test_the_million_base_scan_on_an_h200_takes_a_millisecond_of_exponentials() -> None:
    work = Workload("scan", Shape(1, 2**20, 256), 16, BF16)
    machine = Machine(4.25e12, 16 * 132 * 1.98e9)
    one, two = floor(work, FORWARD, machine), floor(work, BOTH, machine)
    assert one is not None
    assert two is not None
    assert one.of == two.of == "exponentials"
    assert one.seconds * 1e3 == pytest.approx(1.03, abs=0.005)
    assert two.seconds == 2 * one.seconds


@pytest.mark.parametrize(
    ("properties", "printed", "clock"),
    [
        (SimpleNamespace(clock_rate=1_980_000), "", 1.98e9),
        (SimpleNamespace(uuid="a-b"), "1980\n", 1.98e9),
        (SimpleNamespace(uuid="a-b"), "[N/A]\n", None),
    ],
)
def test_max_clock(
    properties: SimpleNamespace, printed: str, clock: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> SimpleNamespace:
        assert command[0] == "nvidia-smi"
        assert command[-2:] == ["-i", "GPU-a-b"]
        return SimpleNamespace(stdout=printed)

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(subprocess, "run", run)
    assert max_clock(torch.device("cuda")) == clock


def test_max_clock_without_the_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="a-b"))
    monkeypatch.setenv("PATH", "")
    assert max_clock(torch.device("cuda")) is None
