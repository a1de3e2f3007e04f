from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from dnamamba import cli
from tests.pipelines.runs import one_line, table

RANDOM = np.random.default_rng(0)


def draw(label: str, bases: int) -> str:
    """Return a sequence whose composition tells its label."""
    shares = {"rich": (0.15, 0.35, 0.35, 0.15), "poor": (0.35, 0.15, 0.15, 0.35)}
    return "".join(RANDOM.choice(list("ACGT"), bases, p=shares[label]))


def write(path: Path, rows: Iterable[tuple[str, str]]) -> Path:
    path.write_text("sequence,label\n" + "".join(f"{codes},{label}\n" for codes, label in rows))
    return path


@pytest.fixture
def examples(tmp_path: Path) -> tuple[Path, Path]:
    """Sequences of many lengths; a fifth of TEST stands in TRAIN."""
    labels = ["rich", "poor"] * 40
    rows = [(draw(label, 20 + number), label) for number, label in enumerate(labels)]
    test = [*rows[:10], *((draw(label, 60), label) for label in labels[:40])]
    return write(tmp_path / "train.csv", rows), write(tmp_path / "test.csv", test)


def test_probes_are_tested_on_the_same_sequences(
    examples: tuple[Path, Path], backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["benchmark", "probe", *map(str, examples), "-m", str(backbone), "--k", "2"]
    assert cli.run([*command, "--device", "cpu", "-t", "1"]) == 0
    captured = capsys.readouterr()
    assert "10 of 50 test sequences stand in TRAIN, too" in captured.err
    rows = table(captured.out)
    assert [(row["features"], row["tested"]) for row in rows] == [
        (name, tested)
        for name in ("2-mers", f"{backbone.name}, untrained", backbone.name)
        for tested in ("all", "new")
    ]
    for row in rows:
        assert (row["train"], row["tuning"], row["classes"]) == ("64", "16", "2")
        assert row["test"] == {"all": "50", "new": "40"}[row["tested"]]
        assert float(row["accuracy"]) > 0.8
        assert float(row["low"]) <= float(row["accuracy"]) <= float(row["high"])
        assert (row["gain"] == "") == (row["features"] == "2-mers") == (row["layer"] == "")
    for row, against in zip(rows[2:], rows[:2] * 2, strict=True):
        gain = float(row["accuracy"]) - float(against["accuracy"])
        assert float(row["gain"]) == pytest.approx(gain, abs=1e-5)


@pytest.mark.parametrize(
    ("train", "test", "fault"),
    [
        ([("ACGT", "a")] * 20, [("ACGT", "a")], "20 sequences of 1 classes"),
        ([("ACGT", "a"), ("TTTT", "b")], [("ACGT", "a")], "2 sequences of 2 classes; at least 10"),
        ([("ACGT", "a"), ("C", "b")] * 9, [("ACGT", "c")], "TRAIN has no label c; it has a, b"),
        ([("ACGT", "a"), ("NN", "b")] * 9, [("ACGT", "a")], "TRAIN: sequence 2 is all N"),
    ],
)
def test_what_cannot_be_probed_is_refused(
    train: list[tuple[str, str]],
    test: list[tuple[str, str]],
    fault: str,
    backbone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = write(tmp_path / "train.csv", train), write(tmp_path / "test.csv", test)
    command = ["benchmark", "probe", *map(str, paths), "-m", str(backbone), "--device", "cpu"]
    assert cli.run(command) == 1
    assert fault in one_line(capsys)
