"""`dnamamba finetune --cross-validate`, `--fold` and `--group`, on small tables."""

import gzip
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from dnamamba import cli
from dnamamba.evaluation.metrics import measure
from dnamamba.pipelines.finetune_config import FinetuneConfig
from dnamamba.pipelines.finetune_data import read_sides
from tests.pipelines.runs import one_line, table

ROWS, FOLDS = 48, 3
COLUMNS = "sequence,label,gc,gc_rich,starts_a,family"


def write(path: Path, seed: int = 0) -> Path:
    """Write sequences that are rich in A and T, or in G and C, in eight families of six."""
    rng = random.Random(seed)
    lines = [COLUMNS]
    for number in range(ROWS):
        weights = [4, 1, 1, 4] if number % 2 else [1, 4, 4, 1]
        bases = "".join(rng.choices("ACGT", weights, k=rng.randint(20, 60)))
        gc = sum(base in "GC" for base in bases) / len(bases)
        label = ("rich", "poor")[number % 2]
        cells = (bases, label, gc, 1 - number % 2, int(bases[0] in "AT"), f"f{number // 6}")
        lines.append(",".join(map(str, cells)))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tables") / "train.csv")


def arguments(train: Path, backbone: Path, output: Path, *more: str | Path) -> list[str]:
    call = ["finetune", train, "-m", backbone, "-o", output, "--method", "frozen", *more]
    return [*map(str, call), "--device", "cpu", "-t", "1"]


def crossed(train: Path, backbone: Path, output: Path, *more: str | Path) -> list[str]:
    return arguments(train, backbone, output, "--cross-validate", "--folds", str(FOLDS), *more)


@pytest.fixture(scope="module")
def run(train: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "families"
    assert cli.run(crossed(train, backbone, output, "--group", "family")) == 0
    return output


def results(run: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    rows = table((run / "results.tsv").read_text())
    return {(row["side"], row["name"], row["measure"]): row for row in rows}


def test_every_row_is_tested_once_and_groups_are_never_parted(train: Path, run: Path) -> None:
    rows = table((run / "predictions.tsv").read_text())
    cells = [line.split(",") for line in train.read_text().splitlines()]
    assert [row["line"] for row in rows] == [str(number) for number in range(2, ROWS + 2)]
    assert [row["group"] for row in rows] == [each[-1] for each in cells[1:]]
    assert list(rows[0])[-2:] == ["fold", "group"]
    assert len({(row["group"], row["fold"]) for row in rows}) == 8
    for fold in range(1, FOLDS + 1):
        own = table((run / f"fold-{fold}/predictions.tsv").read_text())
        pooled = [row for row in rows if row["fold"] == str(fold)]
        assert own == [{name: row[name] for name in own[0]} for row in pooled]
    for fold in range(1, FOLDS + 1):
        config = FinetuneConfig("m", group="family", folds=FOLDS, fold=fold)
        sides = read_sides(train, None, None, config)
        assert sides.test is not None
        parts = [set(side.groups or ()) for side in (sides.train, sides.valid, sides.test)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 8
        assert sides.new.all()
        tested = {row["group"] for row in rows if row["fold"] == str(fold)}
        chosen = {row["group"] for row in rows if row["fold"] == str(fold % FOLDS + 1)}
        assert (parts[2], parts[1]) == (tested, chosen)


def test_pooled_measures_are_those_of_the_pooled_predictions(run: Path) -> None:
    found = results(run)
    rows = table((run / "predictions.tsv").read_text())
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    pooled = found["test", "the model", "accuracy"]
    assert float(pooled["value"]) == pytest.approx(right, abs=1e-5)
    assert right > 0.9
    assert found["test", "5-mers", "accuracy"]["sequences"] == str(ROWS)
    for fold in range(1, FOLDS + 1):
        own = results(run / f"fold-{fold}")
        for name in ("the model", "5-mers"):
            one, other = own["test", name, "auroc"], found[f"fold {fold} test", name, "auroc"]
            assert {**one, "side": ""} == {**other, "side": ""}
    names = [name.removeprefix("p_") for name in rows[0] if name.startswith("p_")]
    wanted = np.array([names.index(row["label"]) for row in rows])
    probabilities = np.array([[float(row[f"p_{name}"]) for name in names] for row in rows])
    groups = np.array([int(row["group"][1:]) for row in rows])
    again = measure("classes", wanted, probabilities, groups)["auroc"]
    told = found["test", "the model", "auroc"]
    assert [float(told[name]) for name in ("value", "low", "high")] == pytest.approx(
        again, abs=1e-4
    )
    pytest.importorskip("matplotlib")
    assert (run / "confusion.png").exists()
    assert (run / "reliability.png").exists()


def test_a_resume_ends_where_the_run_ends(
    train: Path, backbone: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    command = crossed(train, backbone, broken, "--group", "family", "--resume")
    for name in ("results.tsv", "predictions.tsv", "fold-2/results.tsv", "fold-2/tested.npz"):
        (broken / name).unlink()
    shutil.rmtree(broken / "fold-3")
    kept = (broken / "fold-1/predictor.json").stat().st_mtime_ns
    assert cli.run(command) == 0
    for name in ("results.tsv", "predictions.tsv", "fold-2/results.tsv", "fold-3/results.tsv"):
        assert (broken / name).read_bytes() == (run / name).read_bytes(), name
    assert (broken / "fold-1/predictor.json").stat().st_mtime_ns == kept
    (broken / "results.tsv").unlink()
    (broken / "fold-2/tested.npz").write_bytes(b"PK")
    capsys.readouterr()
    assert cli.run(command) == 1
    assert "fold-2, and --resume fits it again" in one_line(capsys)
    shutil.rmtree(broken / "fold-2")
    assert cli.run(command) == 0
    assert (broken / "results.tsv").read_bytes() == (run / "results.tsv").read_bytes()
    assert cli.run(command) == 0, "what is finished is not fitted again"
    capsys.readouterr()
    assert cli.run([*command, "--folds", "4"]) == 2
    assert "folds 3 (now 4)" in one_line(capsys)
    assert cli.run(arguments(train, backbone, broken, "--resume")) == 2
    assert "is a cross-validation: give it to --resume" in one_line(capsys)
    assert cli.run(crossed(train, backbone, broken / "fold-1", "--resume")) == 2
    assert "is no cross-validation" in one_line(capsys)
    assert cli.run([each for each in command if each != "--resume"]) == 2
    assert "--resume goes on with it" in one_line(capsys)
    forced = [each if each != "--resume" else "--force" for each in command]
    assert cli.run([*forced, "--folds", "4"]) == 0
    assert (broken / "fold-4/results.tsv").exists()


def test_training_goes_on_with_the_unfinished_fold(
    train: Path, backbone: Path, tmp_path: Path
) -> None:
    run, more = tmp_path / "run", ("--method", "full", "--steps", "2", "--batch", "8")
    assert cli.run(crossed(train, backbone, run, *more)) == 0
    names = ("results.tsv", "predictions.tsv", "fold-3/model.safetensors")
    before = [(run / name).read_bytes() for name in names]
    for name in ("results.tsv", "fold-3/results.tsv"):
        (run / name).unlink()
    assert cli.run(crossed(train, backbone, run, *more, "--resume")) == 0
    assert [(run / name).read_bytes() for name in names] == before
    assert "group" not in (run / "predictions.tsv").read_text().splitlines()[0].split("\t")


def test_predict_wants_a_fold(train: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.run(["predict", str(run), str(train), "--device", "cpu"]) == 2
    assert f"name one: {run / 'fold-1'}" in one_line(capsys)
    assert cli.run(["predict", str(run / "fold-1"), str(train), "--device", "cpu"]) == 0
    assert len(table(capsys.readouterr().out)) == ROWS
    record = json.loads((run / "run.json").read_text())
    assert record["verb"] == "finetune"
    assert record["config"]["fold"] is None
    assert cli.run(["info", str(run)]) == 0


def test_labels_and_values_are_pooled(train: Path, backbone: Path, tmp_path: Path) -> None:
    group = ("--group", "family")
    labels = ("--label", "gc_rich", "--label", "starts_a")
    assert cli.run(crossed(train, backbone, tmp_path / "l", *labels, *group)) == 0
    assert float(results(tmp_path / "l")["test", "the model", "auroc"]["value"]) > 0.6
    assert cli.run(crossed(train, backbone, tmp_path / "v", "--label", "gc", *group)) == 0
    found = results(tmp_path / "v")
    rows = table((tmp_path / "v/predictions.tsv").read_text())
    pairs = np.array([[float(row["gc"]), float(row["predicted_gc"])] for row in rows])
    pearson = float(found["test", "the model", "pearson"]["value"])
    assert pearson == pytest.approx(np.corrcoef(pairs.T)[0, 1], abs=1e-4)
    assert pearson > 0.9
    assert not any(name == "5-mers" for _, name, _ in found)
    centres = {
        tuple(json.loads((tmp_path / f"v/fold-{fold}/predictor.json").read_text())["centres"])
        for fold in range(1, FOLDS + 1)
    }
    assert len(centres) == FOLDS, "centres are those of what is trained on"


def test_one_fold_alone_is_that_of_all(
    train: Path, backbone: Path, run: Path, tmp_path: Path
) -> None:
    more = ("--folds", str(FOLDS), "--fold", "2", "--group", "family")
    assert cli.run(arguments(train, backbone, tmp_path / "two", *more)) == 0
    for name in ("results.tsv", "predictions.tsv", "predictor.safetensors"):
        assert (tmp_path / "two" / name).read_bytes() == (run / "fold-2" / name).read_bytes()


def test_the_test_side_of_a_named_set_is_left_alone(
    train: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "genomic-benchmarks/human_enhancers_ensembl"
    for side in ("train", "test"):
        with gzip.open(tmp_path / f"human_enhancers_ensembl.{side}.csv.gz", "wt") as out:
            out.write(train.read_text())
    more = ("--data", tmp_path, "--folds", "4", "--fold", "1")
    command = arguments(Path(name), backbone, tmp_path / "run", *more)
    assert cli.run(command) == 0
    assert "test.csv.gz is left alone" in capsys.readouterr().err
    assert len(table((tmp_path / "run/predictions.tsv").read_text())) == ROWS // 4
