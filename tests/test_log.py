import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnamamba import __version__
from dnamamba.log import Metrics, configure, logger, progress, read_metrics, write_run_record


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.mark.parametrize(
    ("verbosity", "said"),
    [
        (-1, "warning: careful\n"),
        (0, "hello\nwarning: careful\n"),
        (1, "detail\nhello\nwarning: careful\n"),
    ],
)
def test_messages_go_to_stderr(
    verbosity: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(verbosity)
    configure(verbosity)
    logger.debug("detail")
    logger.info("hello")
    logger.warning("careful")
    captured = capsys.readouterr()
    assert captured.err == said
    assert captured.out == ""


def test_importing_sets_up_nothing() -> None:
    code = "import logging, dnamamba.log as log; print(log.logger.handlers, logging.root.handlers)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"


def test_no_bar_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(10, "work", "B") as bar:
        bar.update(10)
    assert capsys.readouterr().err == ""


def test_metrics_grow_and_rewind(tmp_path: Path) -> None:
    path = tmp_path / "metrics.tsv"
    metrics = Metrics(path, ["step", "loss", "note"])
    metrics.add({"step": 1, "loss": 1.23456789})
    metrics.add({"step": 2, "loss": 1.5, "note": "ok"})
    metrics.add({"step": 3, "loss": 1.25})
    assert path.read_text() == "step\tloss\tnote\n1\t1.23457\t\n2\t1.5\tok\n3\t1.25\t\n"
    with path.open("a") as handle:
        handle.write("4\t1.")
    resumed = Metrics(path, ["step", "loss", "note"])
    resumed.rewind(2)
    resumed.add({"step": 3, "loss": 9.0})
    assert read_metrics(path) == {
        "step": ["1", "2", "3"],
        "loss": ["1.23457", "1.5", "9"],
        "note": ["", "ok", ""],
    }


def test_metrics_of_an_older_version_get_the_columns_they_lack(tmp_path: Path) -> None:
    path = tmp_path / "metrics.tsv"
    path.write_text("step\tloss\tgone\n1\t2\tx\n2\t1.5\ty\n3\t1\tz\n")
    metrics = Metrics(path, ["step", "rate", "loss"])
    metrics.rewind(2)
    metrics.add({"step": 3, "rate": 100.0, "loss": 0.5})
    assert path.read_text() == "step\trate\tloss\n1\t\t2\n2\t\t1.5\n3\t100\t0.5\n"


def test_a_row_without_the_end_of_its_line_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.tsv"
    path.write_text("step\tloss\n1\t1.25\n2\t1.2")
    assert read_metrics(path) == {"step": ["1"], "loss": ["1.25"]}
    path.write_text("")
    assert Metrics(path, ["step", "loss"]).path.read_text() == "step\tloss\n"


def test_run_record(tmp_path: Path) -> None:
    write_run_record(tmp_path, "pretrain", {"seed": 7})
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["verb"] == "pretrain"
    assert record["seed"] == 7
    assert record["version"] == __version__
    assert isinstance(record["argv"], list)
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
