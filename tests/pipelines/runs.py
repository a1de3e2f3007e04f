"""Small pretraining runs, what tests look at in them, and several processes."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from anndata import AnnData

STEPS = 8


def arguments(genome: Path, output: Path, *more: str) -> list[str]:
    return [
        *("pretrain", str(genome), "-o", str(output), "--preset", "250k", "--length", "64"),
        *("--batch", "3", "--steps", str(STEPS), "--checkpoint-every", "2", "--holdout", "chr2"),
        *("--validate-every", "3"),
        *("--device", "cpu", "-t", "1", *more),
    ]


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def table(text: str) -> list[dict[str, str]]:
    header, *rows = (line.split("\t") for line in text.splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def without_times(metrics: Path) -> list[tuple[str, ...]]:
    """Return a metrics.tsv, its header first, without the columns that a clock fills."""
    header, *rows = (line.split("\t") for line in metrics.read_text().splitlines())
    clocked = {"seconds", "bases_per_second", "wait_share"}
    kept = [index for index, name in enumerate(header) if name not in clocked]
    assert len(header) - len(kept) == len(clocked)
    return [tuple(row[index] for index in kept) for row in (header, *rows)]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error line, after whatever the run has logged."""
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith(("dnamamba: error:", "Error:"))]
    assert len(errors) == 1, lines
    assert lines[-1] == errors[0]
    assert "Traceback" not in "".join(lines)
    return errors[0]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def launch(
    processes: int, *command: str | Path, fails: bool = False
) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [*TORCHRUN, "--nproc-per-node", str(processes), *command], capture_output=True, text=True
    )
    assert bool(result.returncode) == fails, result.stderr
    return result


def read_h5ad(path: Path) -> "AnnData":
    """Open a file in memory; skip the test where anndata is not installed."""
    return pytest.importorskip("anndata").read_h5ad(path)
