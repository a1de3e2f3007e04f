"""`dnamamba finetune` and `dnamamba predict`, on small tables whose labels lie in the sequence."""

import csv
import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dnamamba import cli
from dnamamba.alphabet import decode, encode, reverse_complement
from dnamamba.data.outcomes import Outcomes
from dnamamba.models.predictor import load_predictor
from dnamamba.pipelines.finetune_config import FinetuneConfig
from dnamamba.pipelines.finetune_data import read_sides
from dnamamba.pipelines.finetune_job import Fit, balanced
from tests.pipelines.runs import one_line, table, without_times

ROWS = 48


def write(path: Path, seed: int, rows: int = ROWS, header: str = "sequence,label") -> Path:
    """Write sequences of 20 to 60 bases that are rich in A and T, or in G and C."""
    rng = random.Random(seed)
    lines = [header]
    for number in range(rows):
        weights = [4, 1, 1, 4] if number % 2 else [1, 4, 4, 1]
        bases = "".join(rng.choices("ACGT", weights, k=rng.randint(20, 60)))
        gc = sum(base in "GC" for base in bases) / len(bases)
        cells = {
            "sequence,label": (("rich", "poor")[number % 2],),
            "sequence,gc": (f"{gc:.4f}",),
            "sequence,gc_rich,starts_a": (str(1 - number % 2), str(int(bases[0] in "AT"))),
        }[header]
        lines.append(",".join([bases, *cells]))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tables") / "train.csv", 0)


@pytest.fixture(scope="module")
def test_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tables") / "test.csv", 1, 30)


def arguments(train: Path, backbone: Path, output: Path, *more: str | Path) -> list[str]:
    return [
        *("finetune", str(train), "-m", str(backbone), "-o", str(output)),
        *("--batch", "8", "--steps", "12", "--validate-every", "4", "--checkpoint-every", "2"),
        *("--device", "cpu", "-t", "1", *map(str, more)),
    ]


def results(run: Path) -> dict[tuple[str, str, str], float]:
    rows = table((run / "results.tsv").read_text())
    return {(row["side"], row["name"], row["measure"]): float(row["value"]) for row in rows}


@pytest.mark.parametrize("method", ["full", "frozen", "lora", "dora"])
def test_classes_are_learnt_and_predicted(
    method: str,
    train: Path,
    test_table: Path,
    backbone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if method in ("lora", "dora"):
        pytest.importorskip("peft")
    run = tmp_path / "run"
    command = arguments(train, backbone, run, "--test", test_table, "--method", method)
    if method == "frozen":
        command = [each for each in command if each not in ("--steps", "12")]
    assert cli.run(command) == 0
    printed = capsys.readouterr().out
    found = results(run)
    assert found["test", "the model", "accuracy"] > 0.9
    assert found["test", "5-mers", "accuracy"] > 0.5
    assert printed == (run / "results.tsv").read_text()
    holds_weights = (run / "model.safetensors").exists()
    assert holds_weights == (method == "full"), "what stands still is not copied"
    assert (run / "adapter.safetensors").exists() == (method in ("lora", "dora"))

    assert cli.run(["predict", str(run), str(test_table), "--device", "cpu", "-t", "1"]) == 0
    rows = table(capsys.readouterr().out)
    wanted = table((run / "predictions.tsv").read_text())
    assert [row["line"] for row in rows] == [str(line) for line in range(2, 32)]
    for row, tested in zip(rows, wanted, strict=True):
        assert row["predicted"] == tested["predicted"]
        assert float(row["p_rich"]) == pytest.approx(float(tested["p_rich"]), abs=1e-5)
        assert float(row["p_rich"]) + float(row["p_poor"]) == pytest.approx(1, abs=1e-5)
    right = sum(row["predicted"] == row["label"] for row in wanted) / len(wanted)
    assert right == pytest.approx(found["test", "the model", "accuracy"], abs=1e-5)


def test_both_strands_of_a_fasta_get_the_same_prediction(
    train: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, fasta = tmp_path / "run", tmp_path / "some.fa"
    assert cli.run(arguments(train, backbone, run, "--method", "frozen")) == 0
    capsys.readouterr()
    with train.open() as handle:
        sequences = [row["sequence"] for row in csv.DictReader(handle)][:5]
    with fasta.open("w") as out:
        for number, bases in enumerate(sequences):
            other = decode(reverse_complement(encode(bases)))
            out.write(f">s{number}\n{bases}\n>s{number}_reversed\n{other}\n")
    assert cli.run(["predict", str(run), str(fasta), "--device", "cpu"]) == 0
    rows = table(capsys.readouterr().out)
    assert [row["record"] for row in rows][:2] == ["s0", "s0_reversed"]
    for here, there in zip(rows[::2], rows[1::2], strict=True):
        assert float(here["p_rich"]) == pytest.approx(float(there["p_rich"]), rel=1e-4)


def test_another_precision_says_how_far_it_diverges(
    train: Path, backbone: Path, tmp_path: Path
) -> None:
    for precision in ("fp32", "bf16"):
        more = ("--method", "frozen", "--precision", precision)
        assert cli.run(arguments(train, backbone, tmp_path / precision, *more)) == 0
    found = results(tmp_path / "bf16")
    assert 0 < found["valid", "the model", "divergence"] < 0.05
    assert found["valid", "the model", "perturbation"] > 0
    assert ("valid", "the model", "divergence") not in results(tmp_path / "fp32")


def test_labels_and_values(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = "sequence,gc_rich,starts_a"
    labels = write(tmp_path / "labels.csv", 0, header=header)
    tested = write(tmp_path / "others.csv", 1, header=header)
    columns = ("--label", "gc_rich", "--label", "starts_a", "--method", "frozen")
    assert cli.run(arguments(labels, backbone, tmp_path / "l", "--test", tested, *columns)) == 0
    found = results(tmp_path / "l")
    assert found["test", "the model", "auroc"] > 0.6
    assert "p_gc_rich" in (tmp_path / "l/predictions.tsv").read_text().splitlines()[0]

    values = write(tmp_path / "values.csv", 0, header="sequence,gc")
    tested = write(tmp_path / "new.csv", 1, header="sequence,gc")
    more = ("--label", "gc", "--method", "full", "--test", tested)
    assert cli.run(arguments(values, backbone, tmp_path / "v", *more)) == 0
    found = results(tmp_path / "v")
    assert found["test", "the model", "pearson"] > 0.9
    assert found["test", "the model", "rmse"] < 0.15
    predictor = load_predictor(tmp_path / "v")
    assert predictor.config.centres[0] == pytest.approx(0.5, abs=0.1)
    capsys.readouterr()


def test_a_resume_is_exact_and_ends_where_the_run_ends(
    train: Path,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    more = ("--method", "full", "--patience", "9")
    assert cli.run(arguments(train, backbone, straight, *more)) == 0
    read = Fit.batches

    def stopping(fit: Fit, start: int, workers: int) -> Iterator[torch.Tensor]:
        for step, codes in enumerate(read(fit, start, workers), start):
            yield codes
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Fit, "batches", stopping)
    assert cli.run(arguments(train, backbone, broken, *more)) == 0
    monkeypatch.undo()
    assert not (broken / "results.tsv").exists()
    assert cli.run(arguments(train, backbone, broken, *more, "--resume")) == 0
    assert without_times(broken / "metrics.tsv") == without_times(straight / "metrics.tsv")
    for name in ("model.safetensors", "predictor.safetensors", "results.tsv", "predictions.tsv"):
        assert (broken / name).read_bytes() == (straight / name).read_bytes(), name
    capsys.readouterr()
    assert cli.run(arguments(train, backbone, broken, *more, "--resume", "--batch", "4")) == 2
    assert "batch 8 (now 4)" in one_line(capsys)


def test_patience_has_an_end(train: Path, backbone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = ("--method", "full", "--lr", "0", "--validate-every", "1", "--patience", "2")
    assert cli.run(arguments(train, backbone, run, *more)) == 0
    steps = [row["step"] for row in table((run / "metrics.tsv").read_text())]
    assert int(steps[-1]) == 2
    assert (run / "results.tsv").exists()


def test_a_base_that_has_moved_is_named(
    train: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, moved, run = (tmp_path / name for name in ("model", "moved", "run"))
    model.mkdir()
    for path in backbone.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    assert cli.run(arguments(train, model, run, "--method", "frozen")) == 0
    model.rename(moved)
    capsys.readouterr()
    assert cli.run(["predict", str(run), str(train)]) == 1
    assert "--base MODEL" in one_line(capsys)
    assert cli.run(["predict", str(run), str(train), "--base", str(moved)]) == 0
    weights = moved / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    capsys.readouterr()
    assert cli.run(["predict", str(run), str(train), "--base", str(moved)]) == 1
    assert "SHA-256 differs" in one_line(capsys)


def test_what_is_kept_to_choose_on(train: Path, tmp_path: Path) -> None:
    """A share of each class, and the same sequence, on either strand, on one side alone."""
    lines = train.read_text().splitlines()
    bases, label = lines[1].split(",")
    other = decode(reverse_complement(encode(bases)))
    repeated = tmp_path / "repeated.csv"
    repeated.write_text("\n".join([*lines, *[f"{other.lower()},{label}"] * 10]) + "\n")
    for seed in range(4):
        config = FinetuneConfig("m", seed=seed)
        sides = read_sides(repeated, None, None, config)
        assert len(sides.train) + len(sides.valid) == ROWS + 10
        assert set(sides.train.numbers).isdisjoint(sides.valid.numbers)
        twins = {2, *range(ROWS + 2, ROWS + 12)}
        assert twins <= set(sides.train.numbers) or twins <= set(sides.valid.numbers)
        valid = sides.valid.outcomes.values[[n not in twins for n in sides.valid.numbers]]
        assert 4 <= np.bincount(valid)[0] <= 6
        assert 4 <= np.bincount(valid)[1] <= 6
    drawn = [tuple(read_sides(train, None, None, FinetuneConfig("m", seed=s)).valid.numbers)
             for s in (0, 0, 1)]  # fmt: skip
    assert drawn[0] == drawn[1] != drawn[2]


def test_balanced_weights_make_classes_count_the_same() -> None:
    classes = Outcomes("classes", ("a", "b", "c"), np.array([0, 0, 0, 1, 1, 2]))
    weights = balanced(classes)
    sums = np.bincount(classes.values, weights)
    np.testing.assert_allclose(sums, [2, 2, 2], rtol=1e-6)
    labels = Outcomes("labels", ("x", "y"), np.array([[1, 0], [1, 1], [0, 1], [1, 1]], bool))
    weights = balanced(labels)
    for column in range(2):
        ones = weights[labels.values[:, column], column].sum()
        np.testing.assert_allclose([ones, weights[:, column].sum() - ones], [2, 2], rtol=1e-6)


BAD = {
    "no column": ("sequence,label\nACGT,a\n", ["--label", "lable"], "no column `lable`"),
    "empty label": ("sequence,label\nACGT,a\nACGG,\n", [], "line 3: the column `label` is empty"),
    "empty sequence": ("sequence,label\n,a\nACGG,b\n", [], "line 2: the column `sequence`"),
    "no DNA": ("sequence,label\nACGT,a\nMKLV!,b\n", [], "line 3: no DNA"),
    "one example": ("sequence,label\nAC,a\nAG,a\nCC,b\n", [], "line 4: a class with one example"),
    "one class": ("sequence,label\nAC,a\nAG,a\n", [], "all rows have the same `label`"),
    "cut short": ("sequence,label\nAC,a\nAG,a\nCC", [], "line 4: 1 columns; the header has 2"),
    "the same twice": ("sequence,label\nAC,a\nAC,a\nGG,b\nCC,b\n", [], "1 sequences that differ"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_tables_are_refused_with_their_lines(
    fault: str, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, more, message = BAD[fault]
    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert cli.run(arguments(path, backbone, tmp_path / "run", *more)) == 1
    assert message in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_test_sequences_in_train_are_refused_unless_forced(
    train: Path, test_table: Path, backbone: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    leaking = tmp_path / "leaking.csv"
    line = train.read_text().splitlines()[5]
    leaking.write_text(test_table.read_text() + line + "\n")
    command = arguments(train, backbone, tmp_path / "run", "--test", leaking, "--method", "frozen")
    assert cli.run(command) == 1
    assert "line 32: 1 of 31 sequences stand in" in one_line(capsys)
    assert not (tmp_path / "run").exists()
    assert cli.run([*command, "--allow-overlap"]) == 0
    rows = table((tmp_path / "run/results.tsv").read_text())
    assert {(row["side"], row["sequences"]) for row in rows} >= {
        ("test", "31"), ("test, new", "30"),
    }  # fmt: skip


def test_flags_that_do_not_go_together(
    train: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    bad = {
        ("--epochs", "2"): "steps and epochs",
        ("--method", "full", "--state-space"): "state_space",
        ("--label", "sequence"): "`sequence` holds the sequences",
        ("--label", "label", "--label", "label"): "a column is named twice",
    }
    for more, message in bad.items():
        assert cli.run(arguments(train, backbone, run, *more)) == 2
        assert message in one_line(capsys)
    assert cli.run(["finetune", str(train), "-o", str(run)]) == 2
    assert "-m MODEL" in one_line(capsys)


def test_a_run_says_what_it_is_made_of(train: Path, backbone: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    run = tmp_path / "run"
    assert cli.run(arguments(train, backbone, run, "--class-weights", "balanced")) == 0
    record = json.loads((run / "run.json").read_text())
    assert record["verb"] == "finetune"
    assert record["config"]["method"] == "lora"
    assert len(record["inputs"]) == 2
    about = json.loads((run / "predictor.json").read_text())
    assert about["base"] == str(backbone)
    assert "LoRA of rank 16" in (run / "README.md").read_text()
    predictor = load_predictor(run)
    assert all(type(module) is not torch.nn.Module for module in predictor.modules())
