"""`dnamamba finetune` in fp16, beside weights in 8 bits, and with moments in 8 bits."""

import importlib.util
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dnamamba import cli
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.models.pretrained import save
from dnamamba.pipelines import finetune_run
from dnamamba.pipelines.finetune_job import Fit
from tests.pipelines.runs import one_line, table, without_times
from tests.pipelines.test_finetune import arguments, results, write

FP16 = ("--precision", "fp16", "--method", "full")
INT8 = ("--weights", "int8", "--method", "lora")
LOW = ("--optimizer-bits", "8", "--method", "full")


def require(more: tuple[str, ...]) -> None:
    if "lora" in more or "dora" in more:
        pytest.importorskip("peft")
    if "--weights" in more or "--optimizer-bits" in more:
        pytest.importorskip("torchao")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tables") / "train.csv", 0)


@pytest.fixture(scope="module")
def test_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tables") / "test.csv", 1, 30)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of which some tensors are large enough for moments in 8 bits."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "wide"
    save(LanguageModel(ModelConfig(d_model=48, n_layer=1)), folder, "")
    return folder


@pytest.mark.parametrize(
    "more",
    [
        ("--weights", "fp8", "--method", "dora"),
        ("--weights", "int8", "--method", "frozen"),
    ],
    ids=" ".join,
)
def test_classes_are_learnt_and_predicted(
    more: tuple[str, ...],
    train: Path,
    test_table: Path,
    backbone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    require(more)
    run = tmp_path / "run"
    command = arguments(train, backbone, run, "--test", test_table, *more)
    assert cli.run(command) == 0
    assert results(run)["test", "the model", "accuracy"] > 0.9
    capsys.readouterr()
    assert cli.run(["predict", str(run), str(test_table), "--device", "cpu", "-t", "1"]) == 0
    rows = table(capsys.readouterr().out)
    wanted = table((run / "predictions.tsv").read_text())
    for row, tested in zip(rows, wanted, strict=True):
        assert float(row["p_rich"]) == pytest.approx(float(tested["p_rich"]), abs=0.02)
    assert f"beside weights in {more[1]}" in (run / "README.md").read_text()


@pytest.mark.parametrize("more", [("--precision", "fp16", *INT8), LOW], ids=" ".join)
def test_a_resume_is_exact(
    more: tuple[str, ...],
    train: Path,
    backbone: Path,
    wide: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require(more)
    model = wide if more is LOW else backbone
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    more = (*more, "--patience", "9")
    assert cli.run(arguments(train, model, straight, *more)) == 0
    read = Fit.batches

    def stopping(fit: Fit, start: int, workers: int) -> Iterator[torch.Tensor]:
        for step, codes in enumerate(read(fit, start, workers), start):
            yield codes
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Fit, "batches", stopping)
    assert cli.run(arguments(train, model, broken, *more)) == 0
    monkeypatch.undo()
    (state,) = sorted((broken / "training_state").glob("*.safetensors"))[-1:]
    names = {name.split(".")[1] for name in load_file(state) if name.startswith("optimizer.")}
    assert ("exp_avg_codes" in names) == ("--optimizer-bits" in more)
    assert cli.run(arguments(train, model, broken, *more, "--resume")) == 0
    assert without_times(broken / "metrics.tsv") == without_times(straight / "metrics.tsv")
    kept = "model" if "full" in more else "adapter"
    for name in (f"{kept}.safetensors", "predictor.safetensors", "results.tsv"):
        assert (broken / name).read_bytes() == (straight / name).read_bytes(), name


def test_a_step_that_fp16_cannot_hold_is_left_out(
    train: Path,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    messages: list[str],
) -> None:
    monkeypatch.setattr(
        finetune_run, "scaler_for", lambda *_: torch.amp.GradScaler("cpu", init_scale=2.0**40)
    )
    run = tmp_path / "run"
    more = ("--steps", "40", "--validate-every", "20", "--checkpoint-every", "20")
    assert cli.run([*arguments(train, backbone, run, *FP16), *more]) == 0
    rows = table((run / "metrics.tsv").read_text())
    norms = [row["grad_norm"] for row in rows if row["grad_norm"]]
    assert norms[0] in ("inf", "nan")
    assert float(norms[39]) < 1e4
    assert not any("rollback" in message for message in messages)


def test_what_does_not_go_together(
    train: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {
        ("--weights", "int8", "--method", "full"): "weights int8: full trains them",
        (*LOW[:2], "--method", "frozen"): "frozen has no optimiser",
        ("--optimizer-bits", "16"): "optimizer_bits: 16 is not one of 32, 8",
    }
    for more, message in bad.items():
        assert cli.run(arguments(train, backbone, tmp_path / "run", *more)) == 2
        assert message in one_line(capsys)


@pytest.mark.parametrize("more", [INT8, LOW], ids=" ".join)
def test_a_missing_library_is_named(
    more: tuple[str, ...],
    train: Path,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "lora" in more:
        pytest.importorskip("peft")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "torchao" else find(name, *rest),
    )
    assert cli.run(arguments(train, backbone, tmp_path / "run", *more)) == 2
    assert "pip install 'dnamamba[lowbit]'" in one_line(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.parametrize(
    "more",
    [FP16, INT8, LOW, ("--weights", "fp8", "--method", "dora", "--precision", "fp16")],
    ids=" ".join,
)
def test_on_a_gpu(
    more: tuple[str, ...],
    train: Path,
    test_table: Path,
    wide: Path,
    tmp_path: Path,
    cuda: torch.device,
) -> None:
    require(more)
    run = tmp_path / "run"
    command = arguments(train, wide, run, "--test", test_table, *more)
    assert cli.run([*command, "--device", str(cuda)]) == 0
    assert results(run)["test", "the model", "accuracy"] > 0.9
    record = json.loads((run / "run.json").read_text())
    assert record["config"]["weights"] == (more[1] if more[0] == "--weights" else "fp32")
