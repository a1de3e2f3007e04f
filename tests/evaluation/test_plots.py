import importlib.util
import logging
from pathlib import Path

import pytest

from dnamamba.evaluation.plots import plot_loss

METRICS = {
    "bases": ["100", "200", "200", "300"],
    "train_bits": ["2.1", "1.95", "", "1.9"],
    "valid_bits": ["", "", "1.96", ""],
    "valid_low": ["", "", "1.95", ""],
    "valid_high": ["", "", "1.97", ""],
}


def test_draws_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    path = tmp_path / "loss.png"
    assert plot_loss(METRICS, {"order-0 Markov": 1.99}, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in tmp_path.iterdir()] == ["loss.png"]


def test_without_matplotlib_a_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO, "dnamamba"):
        assert not plot_loss(METRICS, {}, tmp_path / "loss.png")
    assert "pip install 'dnamamba[plot]'" in caplog.text
    assert not list(tmp_path.iterdir())
