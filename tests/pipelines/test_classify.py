"""Fitting a classifier from the command line, on genomes that a linear model can tell apart."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dnamamba import cli
from dnamamba.evaluation.language import Score
from dnamamba.models.classifier import (
    Classifier,
    load_classifier,
    read_classifier_config,
)
from dnamamba.pipelines import classify_job, classify_run
from dnamamba.pipelines.classify_job import Fit
from tests.pipelines.runs import one_line, table, without_times

STEPS = 6


def arguments(sheet: Path, backbone: Path, output: Path, *more: str) -> list[str]:
    return [
        *("classify", "--species", str(sheet), "-m", str(backbone), "-o", str(output)),
        *("--length", "128", "--batch", "6", "--steps", str(STEPS), "--lr", "0.001"),
        *("--folds", "4", "--validate-every", "2", "--checkpoint-every", "2"),
        *("--device", "cpu", "-t", "1", *more),
    ]


@pytest.fixture(scope="session")
def fitted(sheet: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "fitted"
    assert cli.run(arguments(sheet, backbone, output)) == 0
    return output


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes() + (run / "classifier.safetensors").read_bytes()


def test_a_fit_leaves_a_model_and_a_report(fitted: Path) -> None:
    for name in ("config.json", "README.md", "run.json", "config.toml", "metrics.tsv"):
        assert (fitted / name).is_file(), name
    config = read_classifier_config(fitted)
    assert config.classes == ("ape", "bear", "cow")
    assert (config.length, config.shortest, config.pool) == (128, 128, "mean")
    rows = table((fitted / "results.tsv").read_text())
    names = ["the model", "base composition", "N and gaps", "soft masking", "k-mers"]
    assert [row["name"] for row in rows] == names * 2
    assert [(row["context"], row["combined"]) for row in rows[::5]] == [("128", "1"), ("512", "4")]
    accuracies = {row["name"]: float(row["accuracy"]) for row in rows[:5]}
    assert accuracies["base composition"] > 0.9, "the data are made so"
    assert accuracies["N and gaps"] == pytest.approx(1 / 3), "there are none"
    calls = table((fitted / "calls.tsv").read_text())
    assert len(calls) == int(rows[0]["windows"]) == 3 * (3000 // 128)
    right = sum(int(row["right"]) for row in calls) / len(calls)
    assert right == pytest.approx(accuracies["the model"], rel=1e-5)
    assert all(row["place"].startswith("ref:") for row in calls)
    page = (fitted / "report.html").read_text()
    assert "base composition" in page
    assert "so it has not shown" in page.split("</p>")[0], "the first line says who wins"


def embedding(classifier: Classifier) -> torch.Tensor:
    return classifier.language.backbone.embedding.weight.detach().clone()


def test_the_model_kept_is_the_best_on_the_valid_side(
    sheet: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, saved, models = tmp_path / "kept", [], []
    bits = iter([2.5, 2.0, 3.0, 1.0, 0.5, 4.0, 5.0])
    save_classifier = classify_run.save_classifier

    def scoring(self: Fit, stop: object) -> Score:
        models.append(embedding(self.classifier))
        return Score(np.array([next(bits)]), np.array([1]))

    def saving(classifier: Classifier, folder: Path, card: str) -> None:
        saved.append(embedding(classifier))
        save_classifier(classifier, folder, card)

    monkeypatch.setattr(Fit, "score", scoring)
    monkeypatch.setattr(classify_run, "save_classifier", saving)
    assert cli.run(arguments(sheet, backbone, output, "--validate-every", "1")) == 0
    assert len(models) == 1 + STEPS, "what training starts from is one of them"
    wanted = [*(models[step] for step in (0, 1, 3, 4)), models[4]]
    assert len(saved) == len(wanted), "each record, and the last one when it is calibrated"
    assert all(torch.equal(one, other) for one, other in zip(saved, wanted, strict=True))
    assert torch.equal(embedding(load_classifier(output)), models[4])


def test_the_same_command_gives_the_same_model(
    sheet: Path, backbone: Path, fitted: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    assert cli.run(arguments(sheet, backbone, again)) == 0
    assert weights(again) == weights(fitted)
    assert (again / "calls.tsv").read_bytes() == (fitted / "calls.tsv").read_bytes()


def test_a_stopped_fit_goes_on_as_if_never_stopped(
    sheet: Path,
    backbone: Path,
    fitted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "stopped"
    stop_at(2, signal.SIGTERM, classify_job)
    assert cli.run(arguments(sheet, backbone, output)) == 0
    monkeypatch.undo()
    assert not (output / "results.tsv").exists()
    assert cli.run(arguments(sheet, backbone, output, "--resume")) == 0
    assert weights(output) == weights(fitted)
    assert without_times(output / "metrics.tsv") == without_times(fitted / "metrics.tsv")
    assert (output / "calls.tsv").read_bytes() == (fitted / "calls.tsv").read_bytes()
    assert cli.run(arguments(sheet, backbone, output, "--resume")) == 0
    assert "is finished" in capsys.readouterr().err


def test_every_fold_in_turn(
    sheet: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "folds"
    command = arguments(sheet, backbone, output, "--cross-validate", "--freeze")
    assert cli.run(command) == 0
    shown = table(capsys.readouterr().out)
    folds = [table((output / f"fold-{fold}" / "results.tsv").read_text()) for fold in range(1, 5)]
    pooled = table((output / "results.tsv").read_text())
    assert [row["name"] for row in pooled] == [row["name"] for row in shown]
    longest = [row for row in pooled if row["context"] == "2048"]
    assert {row["windows"] for row in longest} == {"12"}, "one a fold is too few for its own"
    for row, *parts in zip(pooled[: -len(longest)], *folds, strict=True):
        assert int(row["windows"]) == sum(int(part["windows"]) for part in parts)
        assert int(row["loci"]) == sum(int(part["loci"]) for part in parts)
        mean = sum(float(part["accuracy"]) * int(part["windows"]) for part in parts)
        assert float(row["accuracy"]) == pytest.approx(mean / int(row["windows"]), rel=1e-5)
    calls = table((output / "calls.tsv").read_text())
    places = {row["place"] for row in calls if row["species"] == "ape"}
    assert len(places) == 4 * (3000 // 128), "no locus is tested twice"
    assert "fold-1" not in (output / "report.html").read_text()
    assert cli.run(["classify", "-m", str(output), str(sheet.parent / "bear.fa")]) == 2
    assert "is a cross-validation; call with one of its models" in capsys.readouterr().err
    (output / "results.tsv").unlink()
    (output / "fold-3" / "results.tsv").unlink()
    assert cli.run([*command, "--resume"]) == 0
    assert table((output / "results.tsv").read_text()) == pooled


def test_a_frozen_backbone_stays_as_it_is(sheet: Path, backbone: Path, tmp_path: Path) -> None:
    output = tmp_path / "probe"
    assert cli.run(arguments(sheet, backbone, output, "--freeze", "--head", "both")) == 0
    assert (output / "model.safetensors").read_bytes() == (
        backbone / "model.safetensors"
    ).read_bytes()
    model, *_ = table((output / "results.tsv").read_text())
    assert float(model["accuracy"]) > 0.8, "composition shows in random features"
    assert not (output / "metrics.tsv").exists()


def test_two_species_have_a_probe_too(sheet: Path, backbone: Path, tmp_path: Path) -> None:
    two = sheet.parent / "two.csv"
    two.write_text("\n".join(sheet.read_text().splitlines()[:3]) + "\n")
    output = tmp_path / "two"
    assert cli.run(arguments(two, backbone, output, "--freeze")) == 0
    model, *_ = table((output / "results.tsv").read_text())
    assert float(model["accuracy"]) > 0.9


def test_from_scratch_with_a_warm_up(sheet: Path, tmp_path: Path) -> None:
    output = tmp_path / "scratch"
    code = cli.run(
        [
            *("classify", "--species", str(sheet), "-o", str(output), "--length", "64"),
            *("--length-warmup", "16", "--steps", "6", "--batch", "2", "--head", "last"),
            *("--preset", "250k", "--device", "cpu", "-t", "1", "--test-windows", "4"),
        ]
    )
    assert code == 0
    rows = table((output / "metrics.tsv").read_text())
    bases = [int(row["bases"]) for row in rows if row["train_bits"]]
    assert bases == [128 * step for step in range(1, 7)]


def test_the_rate_follows_the_recipe(sheet: Path, backbone: Path, tmp_path: Path) -> None:
    rates = {}
    for recipe, more in (("paper", []), ("default", []), ("asked", ["--lr", "0.001"])):
        output = tmp_path / recipe
        command = arguments(sheet, backbone, output, "--steps", "1", *more)
        if not more:
            at = command.index("--lr")
            del command[at : at + 2]
        command += ["--recipe", "default" if recipe == "default" else "paper"]
        assert cli.run(command) == 0
        config = json.loads((output / "run.json").read_text())["config"]
        rates[recipe] = config["optimizer"]["lr"]
    assert rates == {"paper": 1e-4, "default": 3e-4, "asked": 1e-3}


def test_a_fitted_run_calls(fitted: Path, sheet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["classify", "-m", str(fitted), str(sheet.parent / "bear.fa"), "-q"]
    assert cli.run([*command, "--device", "cpu", "-t", "1"]) == 0
    rows = table(capsys.readouterr().out)
    assert [row["record"] for row in rows] == [f"bear{i}" for i in range(12)]
    assert {row["species"] for row in rows} <= {"ape", "bear", "cow", "unsure"}
    assert all(row["bases"] == str(7 * 128) for row in rows), "the rest is too short"


def test_the_record_of_a_run(fitted: Path, sheet: Path, backbone: Path) -> None:
    record = json.loads((fitted / "run.json").read_text())
    assert record["verb"] == "classify"
    assert record["config"]["steps"] == STEPS
    assert [Path(entry["path"]).name for entry in record["inputs"]] == [
        "ape.fa",
        "bear.fa",
        "cow.fa",
        "three.csv",
        "small",
    ]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["classify"], "give --species SHEET to fit"),
        (["classify", "{fasta}"], "-m RUN: the folder of a fitted classifier is wanted"),
        (["classify", "-m", "{backbone}", "{fasta}"], "a language model, and no classifier"),
        (["classify", "-m", "{fitted}", "{fasta}", "--steps", "3"], "--steps: for a fit"),
        (["classify", "--species", "{sheet}", "{fasta}"], "give one of them"),
        (
            ["classify", "-m", "{fitted}", "{fasta}", "--length", "256"],
            "was fitted on windows of up to 128 bases",
        ),
        (
            ["classify", "--species", "{sheet}", "-o", "{out}", "--length", "100000"],
            "--length 100000: the longest stretch of ",
        ),
        (
            ["classify", "--species", "{sheet}", "-o", "{out}", "-m", "{out}"],
            "no such",
        ),
        (["classify", "--species", "{out}"], "no such file"),
        (
            ["classify", "--species", "{sheet}", "--cross-validate", "--fold", "2"],
            "--cross-validate tests every fold in turn",
        ),
        (
            ["classify", "--species", "{sheet}", "-o", "{fitted}"],
            "exists; --resume goes on with it",
        ),
        (
            ["classify", "--species", "{sheet}", "-o", "{fitted}", "--resume", "--lr", "0.5"],
            "was started with",
        ),
    ],
)
def test_bad_input_is_one_line(
    command: list[str],
    message: str,
    fitted: Path,
    sheet: Path,
    backbone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {
        "fasta": sheet.parent / "bear.fa",
        "backbone": backbone,
        "fitted": fitted,
        "sheet": sheet,
        "out": tmp_path / "nothing",
    }
    assert cli.run([word.format(**places) for word in command]) in (1, 2)
    assert message in one_line(capsys)


def test_the_same_sequence_on_both_sides(
    sheet: Path,
    backbone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each species once for training and once more for testing."""
    header, *lines = sheet.read_text().splitlines()
    both = sheet.parent / "both.csv"
    rows = [f"{line},{side}" for line in lines for side in ("train", "test")]
    for name in ("ape", "bear", "cow"):
        text = (sheet.parent / f"{name}.fa").read_text()
        plain = "\n".join(line.split()[0] for line in text.splitlines())
        (sheet.parent / f"{name}_plain.fa").write_text(plain + "\n")
    plain_rows = "\n".join(row.replace(".fa,", "_plain.fa,") for row in rows)
    both.write_text(f"{header},split\n{plain_rows}\n")
    command = arguments(both, backbone, tmp_path / "both")
    assert cli.run(command) == 1
    assert "test windows are found on the training side" in one_line(capsys)
    assert not (tmp_path / "both").exists()
    assert cli.run([*command, "--allow-overlap", "--steps", "1"]) == 0


def test_info_tells_what_it_tells_apart(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["info", str(fitted), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["classifier"]["classes"] == ["ape", "bear", "cow"]
    assert told["report"] == str(fitted / "report.html")
    assert told["state"] == "finished"
    assert str(fitted / "loss.png") in told["plots"]
