"""`dnamamba info --plan`."""

from pathlib import Path

import pytest
import torch

from dnamamba import cli
from dnamamba.errors import UsageError
from dnamamba.models.heads import LanguageModel
from dnamamba.models.presets import preset
from dnamamba.pipelines.planner import COLUMNS, memory_here, refusal, require_fit
from dnamamba.training.footprint import Pass

Capture = pytest.CaptureFixture[str]


def planned(capsys: Capture, arguments: str) -> tuple[list[dict[str, str]], str]:
    assert cli.run(["info", "--plan", *arguments.split()]) == 0
    captured = capsys.readouterr()
    header, *lines = (line.split("\t") for line in captured.out.splitlines())
    assert tuple(header) == COLUMNS
    return [dict(zip(header, line, strict=True)) for line in lines], captured.err


def test_what_fits(capsys: Capture) -> None:
    rows, said = planned(capsys, "--preset 7m --length 1048576 --device-memory 24")
    assert [(row["recompute"], row["fits"]) for row in rows] == [
        ("none", "no"),
        ("scan", "no"),
        ("block", "yes"),
    ]
    assert "1 x 1,048,576 bases fit into 24 GiB with --recompute block" in said
    for row in rows:
        rate = 2**20 / float(row["seconds_on_h200"])
        assert float(row["bases_per_second"]) == pytest.approx(rate, rel=1e-3)


def test_what_would_fit(capsys: Capture) -> None:
    rows, said = planned(capsys, "--preset 7m --length 1Mi --device-memory 8")
    assert [(row["tbptt"], row["sequence_parallel"], row["fits"]) for row in rows[2:]] == [
        ("-", "1", "no"),
        ("262144", "1", "yes"),
        ("-", "4", "yes"),
    ]
    assert "choose --tbptt 262144 (4.85 GiB) or --sequence-parallel 4 (4.87 GiB)" in said


def test_models_that_read_more_than_one_way(capsys: Capture) -> None:
    one = planned(capsys, "--length 4096 --device-memory 24")[0]
    for option in ("--bidirectional", "--symmetry shared", "--precision fp32"):
        more = planned(capsys, f"--length 4096 --device-memory 24 {option}")[0]
        for row, other in zip(one, more, strict=True):
            assert float(other["peak_gib"]) > float(row["peak_gib"])


def test_wrong_usage_is_one_line(capsys: Capture) -> None:
    for arguments, message in (
        ("--plan --preset 8m --device-memory 24", "preset: '8m' is not one of"),
        ("--plan genome.fa", "--plan describes no genome.fa"),
    ):
        assert cli.run(["info", *arguments.split()]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_memory_is_asked_for() -> None:
    with pytest.raises(UsageError, match="give --device-memory GIB"):
        memory_here(None)


def test_nothing_fits() -> None:
    asked = Pass(1, 1024, "block")
    assert "choose a smaller --length or --preset" in refusal(preset("40.7m"), asked, 2**30)


def test_a_run_that_cannot_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, cpu = LanguageModel(preset("250k")), torch.device("cpu")
    asked = Pass(1, 2**20, "block")
    model.backend = "triton"  # in its interpreter
    require_fit(model, asked, cpu, 24 * 2**30)
    with pytest.raises(UsageError, match=r"not fit into 3 GiB: choose --tbptt 524288 \(.* GiB\)"):
        require_fit(model, asked, cpu, 3 * 2**30)
    model.backend = "chunked"
    require_fit(model, asked, cpu, 3 * 2**30)


@pytest.mark.gpu
def test_pretrain_refuses_what_cannot_fit(
    cuda: torch.device, samples: Path, tmp_path: Path, capsys: Capture
) -> None:
    genome = samples / "hg38_chr16_187k-397k.fa.gz"
    arguments = f"pretrain {genome} --preset 40.7m --length 65536 --micro-batch 512 --batch 512"
    assert cli.run([*arguments.split(), "-o", str(tmp_path / "run"), "--device", str(cuda)]) == 2
    assert "choose --micro-batch" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
