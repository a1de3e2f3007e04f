"""`dnamamba benchmark embed`."""

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
from dnamamba.pipelines.benchmark import embed
from dnamamba.pipelines.benchmark.embed import COLUMNS

Rows = Callable[..., list[dict[str, str]]]


@pytest.fixture
def rows(genome: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Rows:
    """Measure a genome; the table, row by row."""

    def measure(*arguments: str | Path, of: Path = genome) -> list[dict[str, str]]:
        call = ["benchmark", "embed", "-q", "-t", "1", of, *arguments]
        assert cli.run(list(map(str, call))) == 0
        header, *lines = (line.split("\t") for line in capsys.readouterr().out.splitlines())
        assert tuple(header) == COLUMNS
        return [dict(zip(header, line, strict=True)) for line in lines]

    return measure


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Measure in this process, whose memory is not to be limited; temporary files go to `here`."""
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(embed, "alone", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(embed, "limit_memory", lambda gib: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "here"))


@pytest.mark.usefixtures("here")
def test_rows_of_each_way(
    rows: Rows, backbone: Path, tmp_path: Path, write_fasta: Callable[..., Path]
) -> None:
    gapped = write_fasta(
        tmp_path / "gapped.fa", {"a": "N" * 50 + "ACGT" * 20, "b": "N" * 9, "c": "GATTNACA" * 100}
    )
    found = rows(
        "-m", backbone, "--device", "cpu", "--windows", "40,100", "--bases", "200,1k", "--stream",
        "--transformers", of=gapped,
    )  # fmt: skip
    # 80 bases of a, and then 120 of c, of which every eighth is N; or all of both.
    bases = [str(80 + 105)] * 5 + [str(80 + 700)] * 5
    ways = [("windows", "40"), ("windows", "100"), ("stream", "40")]
    ways += [("transformers", "40"), ("transformers", "100")]
    assert [(row["way"], row["window"]) for row in found] == ways * 2
    assert [row["bases"] for row in found] == bases
    for row in found:
        assert (row["model"], row["gpu_gib"]) == ("small", "")
        rate = int(row["bases"]) / float(row["seconds"])
        assert float(row["bases_per_second"]) == pytest.approx(rate, rel=1e-4)
        assert float(row["host_gib"]) > 0.05
        if row["way"] == "transformers":
            assert row["outside"] == ""
            assert float(row["difference"]) < 1e-5
        else:
            assert 0 < float(row["outside"]) < 1
            assert (row["difference"], row["note"]) == ("", "")
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.usefixtures("here")
def test_bases_are_chosen_by_the_time_that_they_take(
    rows: Rows, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "WARM_BASES", {"cpu": 1000})
    monkeypatch.setattr(embed, "SECONDS", 1e-9)
    (row,) = rows("-m", backbone, "--device", "cpu", "--windows", "100")
    assert (row["bases"], row["note"]) == ("1", "less than a window")
    monkeypatch.setattr(embed, "SECONDS", 1e9)
    (row,) = rows("-m", backbone, "--device", "cpu", "--windows", "100")
    assert 10_000 < int(row["bases"]) < 12_000  # all but N


@pytest.mark.usefixtures("here")
def test_presets_are_untrained(rows: Rows) -> None:
    sizes = ("--preset", "250k,700k", "--windows", "64", "--bases", "64", "--device", "cpu")
    assert [row["model"] for row in rows(*sizes)] == ["250k", "700k"]


def test_what_is_missing_stands_in_the_row(
    rows: Rows, backbone: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    arguments = ("-m", backbone, "--device", "cpu", "--windows", "64", "--bases", "64")
    ours, theirs = rows(*arguments, "--transformers")
    assert ours["note"] == ""
    assert (theirs["seconds"], theirs["note"]) == (
        "",
        "transformers is missing: pip install transformers",
    )


@pytest.mark.usefixtures("here")
def test_a_model_that_reads_both_ways_has_cells_without_a_figure(
    rows: Rows, tmp_path: Path
) -> None:
    config = ModelConfig(d_model=16, n_layer=2, objective="masked", bidirectional=True)
    pretrained.save(LanguageModel(config), tmp_path / "both", "")
    arguments = ("-m", tmp_path / "both", "--windows", "64", "--bases", "128", "--device", "cpu")
    windows, stream, theirs = rows(*arguments, "--stream", "--transformers")
    assert float(windows["outside"]) > 0
    assert (stream["bases"], stream["outside"]) == (windows["bases"], "")
    note = "bidirectional: transformers has no Mamba that reads both ways"
    assert (theirs["seconds"], theirs["note"]) == ("", note)


def test_two_models_are_refused(genome: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["benchmark", "embed", str(genome), "-m", "x", "--preset", "1.4m"]) == 2
    assert "-m and --preset: give one of them" in capsys.readouterr().err


@pytest.mark.slow
def test_rows_come_from_processes_of_their_own(rows: Rows, backbone: Path) -> None:
    arguments = ("-m", backbone, "--device", "cpu", "--windows", "64", "--bases", "1k")
    ours, theirs = rows(*arguments, "--transformers", "--memory", "4")
    assert float(ours["seconds"]) > 0
    assert float(theirs["difference"]) < 1e-5
    (row,) = rows(*arguments, "--memory", "0.01")
    assert (row["seconds"], row["note"]) == ("", "out of memory")


@pytest.mark.gpu
def test_rows_on_a_gpu(cuda: torch.device, rows: Rows, backbone: Path) -> None:
    found = rows("-m", backbone, "--device", "cuda", "--windows", "512,4096", "--stream")
    for row in found:
        assert 0 < float(row["outside"]) < 1
        assert 0 < float(row["gpu_gib"]) < 4
        assert row["note"] == ""
