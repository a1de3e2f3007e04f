"""What a run writes down while it goes."""

from pathlib import Path

import numpy as np
import torch

from dnamamba.evaluation.language import Score
from dnamamba.log import read_metrics
from dnamamba.training.loop import Row
from dnamamba.training.monitor import Monitor, count_text, duration_text


def test_rows_are_written_and_a_resume_drops_those_after_its_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.tsv"
    options = {"steps": 4, "step_bases": 100, "device": torch.device("cpu")}
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


def test_texts_have_three_digits_and_a_unit() -> None:
    assert [count_text(value) for value in (12, 1050, 1.05e6, 3.1e9)] == [
        "12",
        "1.05k",
        "1.05M",
        "3.1G",
    ]
    assert [duration_text(value) for value in (5, 300, 10_000)] == ["5 s", "5 min", "2.8 h"]
