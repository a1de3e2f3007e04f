import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from dnamamba import __version__
from dnamamba.cli import run
from dnamamba.inference.embeddings import write_bases, write_embeddings
from dnamamba.log import Metrics, write_run_record
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.models.presets import preset
from dnamamba.models.pretrained import save
from dnamamba.pipelines.info import info
from dnamamba.training.monitor import COLUMNS

Rows = Callable[..., dict[str, str]]


@pytest.fixture
def rows(capsys: pytest.CaptureFixture[str]) -> Rows:
    def describe(*arguments: object) -> dict[str, str]:
        assert run(["info", *map(str, arguments)]) == 0
        header, *lines = capsys.readouterr().out.splitlines()
        assert header == "key\tvalue"
        return dict(line.split("\t") for line in lines)

    return describe


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    save(LanguageModel(preset("250k")), tmp_path / "model", "card\n")
    return tmp_path / "model"


def make_run(folder: Path, argv: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr(sys, "argv", list(argv))
    inputs = [{"path": "/genomes/hg38.fa", "size": 3, "sha256": "abc"}]
    record = {"seed": 7, "device": "cpu", "inputs": inputs, "config": {"steps": 40}}
    write_run_record(folder, "pretrain", record)


def test_installation(rows: Rows) -> None:
    told = rows()
    assert told["kind"] == "installation"
    assert told["dnamamba"] == __version__
    assert told["torch"].startswith(torch.__version__.split("+")[0])
    assert int(told["cpu_threads"]) >= 1
    backend, reason = told["selective_scan.cpu"].split(": ")
    assert backend in ("numba", "chunked")
    assert reason


def test_fasta_and_its_store(tmp_path: Path, rows: Rows, write_fasta: Callable[..., Path]) -> None:
    fasta = write_fasta(tmp_path / "g.fa", {"one": "ACGTNN", "two": "acgtACGTAC"})
    told = rows(fasta)
    assert told["kind"] == "genome"
    assert told["state"] == "built just now"
    assert (told["contigs"], told["bases"], told["n"]) == ("2", "16", "2")
    assert (told["longest_contig"], told["longest_contig_bases"]) == ("two", "10")
    assert (told["n_fraction"], told["soft_masked_fraction"]) == ("0.125", "0.25")
    assert rows(fasta)["state"] == "fresh"

    store = told["store"]
    assert rows(store) == rows(fasta)
    fasta.write_text(">one\nACGT\n")
    assert rows(store)["state"] == "stale: the FASTA has changed"
    assert rows(fasta)["bases"] == "4"
    fasta.unlink()
    assert rows(store)["state"] == "stale: the FASTA is gone"


def test_model(model_folder: Path, rows: Rows) -> None:
    told = rows(model_folder)
    assert told["kind"] == "model"
    assert told["preset"] == "250k"
    assert told["parameters"] == "262208"
    assert told["parameters_by_module.in_proj"] == str(8 * 64 * 256)
    assert told["parameters_by_module.A_log"] == str(8 * 128 * 16)
    modules = [int(n) for key, n in told.items() if key.startswith("parameters_by_module.")]
    assert sum(modules) == 262_208
    assert told["config.objective"] == "next"
    assert told["config.ids"] == "0, 1, 2, 3, 4"
    assert told["config.dt_rank"] == "-"
    assert told["config.bidirectional"] == "no"


def test_model_of_no_preset(tmp_path: Path, rows: Rows) -> None:
    config = ModelConfig(d_model=8, n_layer=1, objective="masked", bidirectional=True)
    save(LanguageModel(config), tmp_path, "")
    told = rows(tmp_path)
    assert told["preset"] == "-"
    assert told["config.bidirectional"] == "yes"
    modules = [int(n) for key, n in told.items() if key.startswith("parameters_by_module.")]
    assert sum(modules) == int(told["parameters"])


def test_run(model_folder: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(model_folder, ["dnamamba", "pretrain", "my genome.fa"], monkeypatch)
    metrics = Metrics(model_folder / "metrics.tsv", COLUMNS)
    times = {"bases_per_second": 500.0, "wait_share": 0.01}
    metrics.add({"step": 10, "bases": 1000, "train_bits": 1.9, **times})
    metrics.add({"step": 10, "bases": 1000, "valid_bits": 1.95})
    metrics.add({"step": 20, "bases": 2000, "train_bits": 1.8, **times})
    with metrics.path.open("a") as handle:
        handle.write("30\t1.")  # killed while it wrote
    told = rows(model_folder)
    assert told["kind"] == "run"
    assert told["run.argv"] == "dnamamba pretrain 'my genome.fa'"
    assert told["run.verb"] == "pretrain"
    assert told["run.device"] == "cpu"
    assert told["run.inputs.0.path"] == "/genomes/hg38.fa"
    assert (told["steps_done"], told["steps"], told["bases_read"]) == ("20", "40", "2000")
    assert (told["train_bits"], told["held_out.valid_bits"]) == ("1.85", "1.95")
    assert (told["bases_per_second"], told["wait_share"]) == ("500", "0.01")
    assert told["last_checkpoint"] == "-"
    assert told["model.preset"] == "250k"


def test_a_run_that_was_stopped_says_how_it_goes_on(
    tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, ["/bin/dnamamba", "pretrain", "my g.fa", "--force", "-t", "1"], monkeypatch)
    (tmp_path / "training_state").mkdir()
    (tmp_path / "training_state" / "step-000000020.safetensors").touch()
    told = rows(tmp_path)
    assert told["state"] == "not finished; a resume goes on from step 20"
    assert told["resume"] == "dnamamba pretrain 'my g.fa' -t 1 --resume"
    (tmp_path / "results.tsv").touch()
    told = rows(tmp_path)
    assert told["state"] == "finished"
    assert "resume" not in told


def test_a_run_of_a_notebook_has_no_command(
    tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, ["ipykernel_launcher.py", "-f", "kernel.json"], monkeypatch)
    assert rows(tmp_path)["resume"] == "-"


def test_the_plots_of_a_run_are_drawn(
    tmp_path: Path,
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    make_run(tmp_path, ["dnamamba", "pretrain", "g.fa"], monkeypatch)
    metrics = Metrics(tmp_path / "metrics.tsv", COLUMNS)
    assert rows(tmp_path)["plots"] == "-"
    metrics.add({"step": 1, "bases": 100, "train_bits": 1.9, "bases_per_second": 9.0})
    plots = [str(tmp_path / name) for name in ("loss.png", "throughput.png")]
    assert rows(tmp_path)["plots"] == ", ".join(plots)
    assert all(Path(plot).is_file() for plot in plots)

    (tmp_path / "loss.png").unlink()
    (tmp_path / "loss.png").mkdir()  # stands for a folder of somebody else's
    assert run(["info", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "plots\t-" in out
    assert err.startswith(f"warning: no plots: {plots[0]}: ")
    assert err.count("\n") == 1


def test_run_that_has_hardly_begun(
    tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, ["dnamamba"], monkeypatch)
    told = rows(tmp_path)
    assert (told["steps_done"], told["model"]) == ("0", "not written yet")
    Metrics(tmp_path / "metrics.tsv", ("step", "valid_bits"))
    assert rows(tmp_path)["held_out"] == "not yet"


@pytest.mark.parametrize("suffix", [".h5ad", ".npz", ".H5AD"])
def test_embeddings(tmp_path: Path, rows: Rows, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    obs = {
        "chrom": np.array(["chr2", "chr1", "chr2"]),
        "start": np.array([1000, 5, 2000]),
        "end": np.array([1100, 9, 2100]),
    }
    about = {"model": {"preset": "1.4m", "layers": [4, 8]}, "bidirectional": True}
    write_embeddings(path, np.zeros((3, 2), np.float16), obs, about)
    assert rows(path) == {
        "kind": "embeddings",
        "path": str(path),
        "size_bytes": str(path.stat().st_size),
        "rows": "3",
        "dims": "2",
        "dtype": "float16",
        "columns": "chrom, start, end",
        "covers": "chr1:6-9, chr2:1001-2100",
        "about.model.preset": "1.4m",
        "about.model.layers": "4, 8",
        "about.bidirectional": "yes",
    }
    assert json.loads(json.dumps(info(path))) == info(path)


def test_embeddings_of_bases(tmp_path: Path, rows: Rows) -> None:
    path = tmp_path / "out.h5"
    obs = {"gene": np.array(["HBA1", "HBA2"])}
    blocks = [(0, np.zeros((5, 2))), (1, np.zeros((4, 2)))]
    write_bases(path, blocks, obs, {}, ["0", "1"], np.float32, names=["a", "b"])
    told = rows(path)
    assert (told["kind"], told["rows"], told["bases"]) == ("embeddings", "2", "9")
    assert (told["dims"], told["dtype"], told["covers"]) == ("2", "float32", "")


def test_json_holds_the_same(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", "--json", str(model_folder)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parameters"] == 262_208
    assert told["config"]["ids"] == [0, 1, 2, 3, 4]
    assert told == json.loads(json.dumps(info(model_folder)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "neither a run (run.json), a model (config.json) nor"),
        (lambda path: path.write_text("hello\n"), "not FASTA"),
    ],
    ids=["missing", "empty folder", "not FASTA"],
)
def test_wrong_path_is_one_line(
    tmp_path: Path,
    make: Callable[[Path], object],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "thing"
    make(path)
    assert run(["info", "-q", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "thing: " in err
    assert message in err


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), ("hello", "damaged, or no embeddings")]
)
def test_wrong_embeddings_are_one_line(
    tmp_path: Path, content: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.h5ad"
    if content is not None:
        path.write_text(content)
    assert run(["info", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"out.h5ad: {message}" in err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", "{", "run.json: damaged"),
        ("run.json", "[]", "run.json: damaged"),
        ("run.json", '{"argv": 3}', "run.json: damaged"),
        ("config.json", "{", "config.json: not valid JSON"),
        ("model.safetensors", "", "model.safetensors: cut short"),
    ],
)
def test_damaged_folder_is_one_line(
    model_folder: Path, name: str, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (model_folder / name).write_text(content)
    assert run(["info", str(model_folder)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_config_without_weights_says_what_is_missing(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model_folder / "model.safetensors").unlink()
    assert run(["info", str(model_folder)]) == 1
    assert "not a model folder: model.safetensors missing" in capsys.readouterr().err
