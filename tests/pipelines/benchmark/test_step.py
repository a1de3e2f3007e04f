"""`dnamamba benchmark step`."""

from pathlib import Path

import pytest
import torch

from dnamamba import cli
from dnamamba.pipelines.benchmark.step import COLUMNS

Capture = pytest.CaptureFixture[str]


def rows(capsys: Capture, arguments: str) -> list[dict[str, str]]:
    assert cli.run(["benchmark", "step", "-q", *arguments.split()]) == 0
    header, *lines = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert tuple(header) == COLUMNS
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_rows_and_plot(capsys: Capture, tmp_path: Path) -> None:
    plot = tmp_path / "step.png"
    step, attention = rows(
        capsys, f"--preset 250k --shape 2x64 --attention --device cpu -t 1 --plot {plot}"
    )
    assert (step["path"], step["recompute"], step["processes"]) == ("250k", "scan", "1")
    assert (attention["path"], attention["note"]) == ("attention", "4 x 1 heads")
    for row in (step, attention):
        assert (row["batch"], row["length"], row["planned_gib"]) == ("2", "64", "")
        rate = 128_000 / float(row["step_ms"])
        assert float(row["bases_per_second"]) == pytest.approx(rate, rel=1e-4)
        assert float(row["peak_gib"]) > 0.05
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_wrong_shape_is_one_line(capsys: Capture) -> None:
    assert cli.run(["benchmark", "step", "--shape", "8"]) == 2
    assert "--shape 8: BATCHxLENGTH is wanted" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.gpu
def test_memory_is_what_was_planned(cuda: torch.device, capsys: Capture) -> None:
    """Two models, three ways, two shapes."""
    for preset, shape in (("1.4m", "1x262144"), ("7m", "2x65536")):
        ways = "--recompute none --recompute scan --recompute block"
        found = rows(capsys, f"--preset {preset} --shape {shape} {ways} --device {cuda}")
        assert len(found) == 3
        for row in found:
            assert float(row["planned_gib"]) == pytest.approx(float(row["peak_gib"]), rel=0.1)
