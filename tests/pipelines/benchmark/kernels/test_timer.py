"""The median of runs within a budget."""

import itertools
import time

import pytest
import torch

from dnamamba.pipelines.benchmark.kernels import timer
from dnamamba.pipelines.benchmark.kernels.timer import Timer


@pytest.mark.parametrize(
    ("seconds", "runs"),
    [(0.5, 1), (1.0, timer.FEWEST), (12.0, 12), (1e9, timer.MOST)],
    ids=["too long for one", "at least", "in between", "at most"],
)
def test_as_many_runs_as_the_budget_holds(
    seconds: float, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    calls: list[None] = []
    figure = Timer(torch.device("cpu"), seconds).measure(lambda: calls.append(None))
    assert len(calls) == 2 + runs
    assert (figure.first, figure.seconds) == (1.0, 1.0)
    assert (figure.launch, figure.peak) == (None, None)


def test_the_median_leaves_the_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = [100.0, 1.0, 7.0, 2.0, 3.0]
    clock = itertools.accumulate(itertools.chain(*((1.0, duration) for duration in durations)))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    figure = Timer(torch.device("cpu"), 3.0).measure(lambda: None)
    assert (figure.first, figure.seconds) == (100.0, 3.0)


@pytest.mark.gpu
def test_a_gpu_is_waited_for_and_its_memory_counted(cuda: torch.device) -> None:
    matrix = torch.randn(4096, 4096, device=cuda)
    figure = Timer(cuda, 0.05).measure(lambda: matrix @ matrix)
    assert figure.seconds > 2 * 4096**3 / 1e15
    assert figure.peak is not None
    assert figure.peak >= matrix.nbytes
    assert figure.launch is not None
    assert figure.launch < figure.seconds


@pytest.mark.gpu
def test_the_gpu_does_not_wait_for_python(cuda: torch.device) -> None:
    """A slow launch is told apart from what is launched."""
    vector = torch.zeros(1024, device=cuda)

    def call() -> None:
        time.sleep(1e-3)
        vector.zero_()

    figure = Timer(cuda, 0.05).measure(call)
    assert figure.launch is not None
    assert figure.launch > 1e-3
    assert figure.seconds < 5e-4
