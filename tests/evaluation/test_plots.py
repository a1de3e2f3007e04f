import importlib.util
import logging
from pathlib import Path

import pytest

from dnamamba.errors import DnamambaError
from dnamamba.evaluation import plots
from dnamamba.evaluation.plots import plot_run

COLUMNS = [
    "bases",
    "train_bits",
    "bases_per_second",
    "wait_share",
    "valid_bits",
    "valid_low",
    "valid_high",
]
ROWS = [
    ["100", "2.9", "", "", "", "", ""],
    ["200", "1.95", "1200", "0.01", "", "", ""],
    ["200", "", "", "", "1.96", "1.95", "1.97"],
    ["300", "1.9", "1300", "0.03", "", "", ""],
]


def write_metrics(folder: Path, columns: int, rows: int) -> None:
    """Write so many of the columns and rows to metrics.tsv."""
    kept = [[*COLUMNS[:2], *COLUMNS[-columns + 2 :]]] + [
        [*row[:2], *row[-columns + 2 :]] for row in ROWS[:rows]
    ]
    (folder / "metrics.tsv").write_text("".join("\t".join(row) + "\n" for row in kept))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_metrics(tmp_path, len(COLUMNS), len(ROWS))
    header = "model\tbits_per_base\n"
    levels = "order-0 Markov\t1.99\norder-1 Markov\t1.95\norder-2 Markov\t1.97\n"
    (tmp_path / "baselines.tsv").write_text(header + levels)
    return tmp_path


def drawn(folder: Path) -> set[str]:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    paths = plot_run(folder)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert not list(folder.glob(".*"))
    return {path.name for path in paths}


def test_draws_loss_and_throughput(run: Path) -> None:
    assert drawn(run) == {"loss.png", "throughput.png"}


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_run_is_drawn_as_far_as_it_has_come(run: Path, rows: int) -> None:
    write_metrics(run, len(COLUMNS), rows)
    (run / "baselines.tsv").unlink()
    assert drawn(run) == {"loss.png"} | ({"throughput.png"} if rows > 1 else set())


def test_nothing_is_drawn_before_the_first_step(run: Path) -> None:
    write_metrics(run, len(COLUMNS), 0)
    assert drawn(run) == set()


def test_a_run_that_did_not_time_its_steps_has_its_loss(run: Path) -> None:
    write_metrics(run, len(COLUMNS) - 2, len(ROWS))
    assert drawn(run) == {"loss.png"}


def test_the_levels_are_the_simplest_and_the_best(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    monkeypatch.setattr(plots, "plot_loss", lambda metrics, levels, path, **_: seen.update(levels))
    monkeypatch.setattr(plots, "plot_throughput", lambda metrics, path: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    plot_run(run)
    assert seen == {"order-0 Markov": 1.99, "order-1 Markov": 1.95}


def test_without_matplotlib_one_line_says_how_to_get_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO, "dnamamba"):
        assert plot_run(run) == []
    (line,) = caplog.messages
    assert "pip install 'dnamamba[plot]'" in line
    assert not list(run.glob("*.png"))


def test_a_folder_that_cannot_be_written_is_named(run: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    (run / "loss.png").mkdir()
    with pytest.raises(DnamambaError, match=r"loss\.png"):
        plot_run(run)
