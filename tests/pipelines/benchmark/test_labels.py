from pathlib import Path

import pytest

from dnamamba import cli
from dnamamba.evaluation import cnn
from dnamamba.pipelines.benchmark import labels as labels_command
from dnamamba.pipelines.benchmark.fits import tuned_bits
from dnamamba.pipelines.benchmark.labels import Task, _best
from dnamamba.pipelines.finetune_config import FinetuneConfig
from dnamamba.training.optimizer import OptimizerConfig
from tests.pipelines.runs import one_line, table
from tests.pipelines.test_finetune import write


@pytest.fixture
def tables(tmp_path: Path) -> list[str]:
    return [str(write(tmp_path / f"{seed}.csv", seed, 40)) for seed in range(2)]


def test_all_learn_from_the_same_labels(
    tables: list[str],
    tmp_path: Path,
    backbone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cnn, "EPOCHS", 2)
    work = tmp_path / "work"
    command = ["benchmark", "labels", *tables, "-m", str(backbone), "--labels", "8,12"]
    command += ["--method", "full", "--steps", "2", "--seeds", "2", "--work", str(work)]
    command += ["--lr", "1e-3", "--device", "cpu", "-t", "1"]
    assert cli.run(command) == 0
    rows = table(capsys.readouterr().out)
    names = ["5-mers", "convolutional network", "pretrained", "from scratch"]
    assert [(row["labels"], row["name"]) for row in rows] == [
        (size, name) for size in ("8", "12") for name in names
    ]
    for row in rows:
        assert (row["seeds"], row["test"]) == ("2", "40")
        assert float(row["low"]) <= float(row["accuracy"]) <= float(row["high"])
        assert (row["gain"] == "") == (row["name"] == "5-mers")
    drawn = [(work / f"labels-8/seed-{seed}/train.tsv").read_text() for seed in range(2)]
    assert drawn[0] != drawn[1]
    for text in drawn:
        labels = [line.split("\t")[1] for line in text.splitlines()[1:]]
        assert sorted(labels) == ["poor"] * 4 + ["rich"] * 4
    monkeypatch.setattr(labels_command, "_plain", None)
    assert cli.run(command) == 0
    assert table(capsys.readouterr().out) == rows, "what is fitted is not fitted again"
    tables[1] = str(write(tmp_path / "2.csv", 2, 40))
    command[2:4] = tables
    with pytest.raises(TypeError, match="not callable"):
        cli.run(command)


def test_the_best_rate_is_chosen_on_what_is_kept(
    tables: list[str], tmp_path: Path, backbone: Path
) -> None:
    rates = (3e-2, 1e-5)
    configs = tuple(
        FinetuneConfig(str(backbone), "full", steps=4, optimizer=OptimizerConfig(lr=rate))
        for rate in rates
    )
    train, test = map(Path, tables)
    task = Task(train, test, configs, tmp_path / "work", "cpu")
    found = _best(train, task, configs, 0, tmp_path / "fits")
    bits = [tuned_bits(tmp_path / f"fits/lr-{rate:g}") for rate in rates]
    kept = tmp_path / f"fits/lr-{rates[int(bits[1] < bits[0])]:g}/predictions.tsv"
    wanted = [row["label"] == row["predicted"] for row in table(kept.read_text())]
    assert found.tolist() == wanted


def test_too_few_labels_are_said(
    tables: list[str], backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["benchmark", "labels", *tables, "-m", str(backbone), "--labels", "3"]
    assert cli.run([*command, "--work", str(tmp_path / "work")]) == 1
    assert "3 labels of 2 classes" in one_line(capsys)
