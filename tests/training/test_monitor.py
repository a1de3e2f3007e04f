import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from dnamamba.evaluation.language import Score
from dnamamba.log import read_metrics
from dnamamba.training import monitor
from dnamamba.training.loop import Row
from dnamamba.training.monitor import Monitor, count_text, duration_text, peak_memory

CPU = torch.device("cpu")


def build(path: Path, start: int = 0) -> Monitor:
    return Monitor(path, start=start, steps=100, step_bases=1000, device=CPU)


def row(step: int, bits: float = 1.9) -> Row:
    return Row(step, 1e-3, bits, 0.5)


def test_rows_go_to_metrics_and_a_resume_forgets_later_ones(tmp_path: Path) -> None:
    path = tmp_path / "metrics.tsv"
    first = build(path)
    first.report([row(1), row(2)])
    first.validated(2, Score(np.full(9, 190.0), np.full(9, 100), accuracy=0.4))
    first.report([row(3)])
    first.close()
    with path.open("a") as handle:
        handle.write("4\t40")  # a row that was cut short
    build(path, start=2).close()
    metrics = read_metrics(path)
    assert metrics["step"] == ["1", "2", "2"]
    assert metrics["bases"] == ["1000", "2000", "2000"]
    assert metrics["train_bits"] == ["1.9", "1.9", ""]
    assert metrics["valid_bits"] == ["", "", "1.9"]


def test_seconds_go_on_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.tsv"
    build(path).close()
    with path.open("a") as handle:
        handle.write("5\t5000\t77.5" + "\t" * 8 + "\n")
    assert build(path, start=5).seconds >= 77.5


def test_without_a_terminal_a_line_is_logged_now_and_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "dnamamba"):
        build(tmp_path / "metrics.tsv").report([row(1, 2.0), row(2, float("nan")), row(3, 1.8)])
    assert "step 3/100: 1.900 bits" in caplog.text
    assert "left" in caplog.text
    assert "GiB" in caplog.text


def test_texts() -> None:
    assert [count_text(value) for value in (7, 1234, 2.5e6, 3.1e9)] == [
        "7",
        "1.23k",
        "2.5M",
        "3.1G",
    ]
    assert [duration_text(value) for value in (3, 300, 10_000)] == ["3 s", "5 min", "2.8 h"]
    assert 10**7 < peak_memory(CPU) < 10**12
