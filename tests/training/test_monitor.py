"""What a run writes down while it goes."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dnamamba.evaluation.language import Score
from dnamamba.log import read_metrics
from dnamamba.training.loop import Row
from dnamamba.training.monitor import Monitor, count_text, duration_text

CPU = torch.device("cpu")


def test_rows_are_written_and_a_resume_drops_those_after_its_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.tsv"
    options = {"steps": 4, "bases": lambda steps: 100 * steps, "device": torch.device("cpu")}
    first = Monitor(path, start=0, **options)  # type: ignore[arg-type]
    first.report([Row(1, 0.1, 2.0, 1.0), Row(2, 0.2, 1.5, 0.5)])
    first.validated(2, Score(np.array([20.0, 30.0]), np.array([10, 10]), 0.4))
    first.report([Row(3, 0.3, 1.0, 0.5)])
    first.close()
    again = Monitor(path, start=2, **options)  # type: ignore[arg-type]
    again.close()
    metrics = read_metrics(path)
    assert metrics["step"] == ["1", "2", "2"]
    assert metrics["bases"] == ["100", "200", "200"]
    assert metrics["train_bits"] == ["2", "1.5", ""]
    assert metrics["valid_bits"] == ["", "", "2.5"]
    assert again.seconds >= float(metrics["seconds"][-1])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What `time.monotonic` says, to be set."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def batches(clock: list[float], seconds: float) -> Iterator[torch.Tensor]:
    while True:
        clock[0] += seconds
        yield torch.zeros(1)


def test_throughput_is_that_of_steps_alone(tmp_path: Path, clock: list[float]) -> None:
    path = tmp_path / "metrics.tsv"
    monitor = Monitor(path, start=0, steps=4, bases=lambda steps: 100 * steps, device=CPU)
    coming = monitor.waiting(batches(clock, 0.5))
    for _ in range(2):
        next(coming)
        clock[0] += 1.5
    monitor.report([Row(1, 0.1, 2.0, 1.0), Row(2, 0.1, 2.0, 1.0)])
    with monitor.aside():
        clock[0] += 60.0
    next(coming)
    clock[0] += 4.5
    monitor.report([Row(3, 0.1, 2.0, 1.0)])
    monitor.close()
    metrics = read_metrics(path)
    assert metrics["bases_per_second"] == ["50", "50", "20"]
    assert metrics["wait_share"] == ["0.25", "0.25", "0.1"]
    assert metrics["seconds"] == ["4", "4", "69"]


def test_the_clock_begins_anew_after_a_rollback(tmp_path: Path, clock: list[float]) -> None:
    monitor = Monitor(
        tmp_path / "metrics.tsv", start=0, steps=4, bases=lambda steps: 100 * steps, device=CPU
    )
    next(monitor.waiting(batches(clock, 7.0)))
    monitor.rewind(0)
    clock[0] += 2.0
    monitor.report([Row(1, 0.1, 2.0, 1.0)])
    metrics = read_metrics(tmp_path / "metrics.tsv")
    assert (metrics["bases_per_second"], metrics["wait_share"]) == (["50"], ["0"])


@pytest.mark.parametrize(
    ("wait", "workers", "line"),
    [
        (0.01, 0, "trained on 100b/s, 1.0 % of the time spent waiting for the feeder"),
        (0.1, 0, "10.0 % of the time spent waiting for the feeder: --workers 2 reads ahead"),
        (0.1, 4, "--workers 8 reads ahead"),
    ],
)
def test_the_end_says_what_the_feeder_cost(
    tmp_path: Path,
    clock: list[float],
    caplog: pytest.LogCaptureFixture,
    wait: float,
    workers: int,
    line: str,
) -> None:
    monitor = Monitor(
        tmp_path / "metrics.tsv", start=0, steps=1, bases=lambda steps: 100 * steps, device=CPU
    )
    next(monitor.waiting(batches(clock, wait)))
    clock[0] += 1.0 - wait
    with caplog.at_level(logging.INFO, "dnamamba"):
        monitor.log_pace(workers)
        assert not caplog.text
        monitor.report([Row(1, 0.1, 2.0, 1.0)])
        monitor.log_pace(workers)
    assert line in caplog.messages[0]
    assert ("--workers" in caplog.text) == (wait > 0.02)


def test_metrics_of_a_run_that_did_not_time_its_steps_go_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.tsv"
    path.write_text("step\tbases\tseconds\tlr\ttrain_bits\tgrad_norm\tvalid_bits\n")
    with path.open("a") as handle:
        handle.write("1\t100\t0.5\t0.1\t2\t1\t\n1\t100\t0.6\t\t\t\t1.9\n")
    monitor = Monitor(path, start=1, steps=2, bases=lambda steps: 100 * steps, device=CPU)
    assert monitor.is_validated(1)
    monitor.report([Row(2, 0.1, 1.5, 1.0)])
    metrics = read_metrics(path)
    assert metrics["step"] == ["1", "1", "2"]
    assert metrics["valid_bits"] == ["", "1.9", ""]
    assert metrics["bases_per_second"][:2] == ["", ""]
    assert float(metrics["bases_per_second"][2]) > 0


def test_texts_have_three_digits_and_a_unit() -> None:
    assert [count_text(value) for value in (12, 1050, 1.05e6, 3.1e9)] == [
        "12",
        "1.05k",
        "1.05M",
        "3.1G",
    ]
    assert [duration_text(value) for value in (5, 300, 10_000)] == ["5 s", "5 min", "2.8 h"]
