"""`dnamamba benchmark generate`."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dnamamba import cli
from dnamamba.models import pretrained
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.pipelines.benchmark import generate
from dnamamba.pipelines.benchmark.generate import COLUMNS

Rows = Callable[..., list[dict[str, str]]]


@pytest.fixture
def rows(capsys: pytest.CaptureFixture[str]) -> Rows:
    """Measure; the table, row by row."""

    def measure(*arguments: object) -> list[dict[str, str]]:
        call = ["benchmark", "generate", "-q", "-t", "1", *arguments]
        assert cli.run(list(map(str, call))) == 0
        header, *lines = (line.split("\t") for line in capsys.readouterr().out.splitlines())
        assert tuple(header) == COLUMNS
        return [dict(zip(header, line, strict=True)) for line in lines]

    return measure


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Measure in this process; temporary files go to `here`."""
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(generate, "alone", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "here"))


@pytest.mark.usefixtures("here")
def test_rows_of_each_way(rows: Rows, backbone: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    found = rows(
        "-m", backbone, "--device", "cpu", "--sequences", "1,3", "--length", "20,33",
        "--transformers",
    )  # fmt: skip
    bases = [("1", "20"), ("3", "60"), ("1", "33"), ("3", "99")]
    ways = ["state", "transformers"]
    wanted = [(way, *made) for made in bases for way in ways]
    assert [(row["way"], row["sequences"], row["bases"]) for row in found] == wanted
    for row in found:
        assert (row["model"], row["gpu_gib"], row["note"]) == (backbone.name, "", "")
        rate = int(row["bases"]) / float(row["seconds"])
        assert float(row["bases_per_second"]) == pytest.approx(rate, rel=1e-4)
        assert float(row["host_gib"]) > 0.05
    assert list((tmp_path / "here").iterdir()) == []


def test_transformers_draws_each_base(backbone: Path) -> None:
    pytest.importorskip("transformers")
    model = pretrained.load(backbone)
    drawn: list[int] = []

    def note(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        drawn.extend(inputs[0].flatten().tolist())

    torch.manual_seed(0)
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: (
            note(module, inputs) if isinstance(module, torch.nn.Embedding) else None
        )
    )
    try:
        assert generate._theirs(model)(4, 30) == 120
    finally:
        handle.remove()
    assert len(drawn) == 120  # one id of each sequence at a time: states are kept
    assert set(drawn[4:]) >= {0, 1, 2, 3}


@pytest.mark.usefixtures("here")
def test_presets_are_untrained(rows: Rows) -> None:
    (row,) = rows("--preset", "250k", "--sequences", "1", "--length", "4", "--device", "cpu")
    assert (row["model"], row["note"]) == ("250k", "")


def test_what_is_missing_stands_in_the_row(
    rows: Rows, backbone: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    arguments = ("-m", backbone, "--device", "cpu", "--sequences", "2", "--length", "8")
    ours, theirs = rows(*arguments, "--transformers")
    assert ours["note"] == ""
    assert (theirs["bases"], theirs["seconds"]) == ("16", "")
    assert theirs["note"] == "transformers is missing: pip install transformers"


def test_models_that_do_not_fit_are_refused(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["benchmark", "generate", "-m", "x", "--preset", "1.4m"]) == 2
    assert "-m and --preset: give one of them" in capsys.readouterr().err
    config = ModelConfig(d_model=16, n_layer=3, objective="masked")
    pretrained.save(LanguageModel(config), tmp_path / "masked", "")
    assert cli.run(["benchmark", "generate", "-m", str(tmp_path / "masked")]) == 2
    assert "predicts masked bases" in capsys.readouterr().err


@pytest.mark.slow
def test_rows_come_from_processes_of_their_own(rows: Rows, backbone: Path) -> None:
    (row,) = rows("-m", backbone, "--device", "cpu", "--sequences", "2", "--length", "20")
    assert float(row["seconds"]) > 0
    assert row["note"] == ""


@pytest.mark.gpu
def test_rows_on_a_gpu(cuda: torch.device, rows: Rows, backbone: Path) -> None:
    found = rows("-m", backbone, "--device", "cuda", "--sequences", "1,64", "--length", "100")
    for row in found:
        assert 0 < float(row["gpu_gib"]) < 4
        assert row["note"] == ""
