"""A run that was stopped, killed or damaged goes on exactly, or says why it cannot."""

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dnamamba import cli
from dnamamba.training.checkpoint import FOLDER, list_states
from tests.pipelines.runs import arguments, one_line, weights, without_times


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 0), (signal.SIGUSR1, 0), (signal.SIGINT, 130)],
    ids=["SIGTERM", "SIGUSR1", "SIGINT"],
)
def test_resume_after_a_signal_is_exact(
    genome: Path,
    straight: Path,
    tmp_path: Path,
    stop_at: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
) -> None:
    output = tmp_path / "halves"
    stop_at(4, number)
    assert cli.run(arguments(genome, output)) == code
    assert "--resume" in capsys.readouterr().err.splitlines()[-1]
    assert list_states(output)[0].stem == "step-000000005"
    assert not (output / "results.tsv").exists()
    monkeypatch.undo()
    assert cli.run(arguments(genome, output, "--resume")) == 0
    assert weights(output) == weights(straight)
    assert without_times(output / "metrics.tsv") == without_times(straight / "metrics.tsv")


KILLED = """
import os, signal, sys
from pathlib import Path
from dnamamba import cli
from dnamamba.training.checkpoint import FOLDER

write_bytes, target, count = Path.write_bytes, sys.argv[1], [0]

def half(path, data):
    if target in str(path):
        count[0] += 1
        if count[0] == 3:
            write_bytes(path, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
    return write_bytes(path, data)

Path.write_bytes = half
sys.exit(cli.run(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    "target", [FOLDER, pytest.param("model.safetensors", marks=pytest.mark.slow)]
)
def test_resume_after_kill_in_the_middle_of_a_write_is_exact(
    genome: Path, straight: Path, tmp_path: Path, target: str
) -> None:
    output = tmp_path / "killed"
    call = [sys.executable, "-c", KILLED, target, *arguments(genome, output)]
    assert subprocess.run(call, capture_output=True).returncode == -signal.SIGKILL
    assert list(output.rglob(".*.tmp"))
    assert list_states(output)[0].stem == f"step-00000000{4 if target == FOLDER else 6}"
    assert cli.run(arguments(genome, output, "--resume")) == 0
    assert weights(output) == weights(straight)
    assert without_times(output / "metrics.tsv") == without_times(straight / "metrics.tsv")
    assert not list(output.rglob(".*.tmp"))


def test_resume_of_nothing_starts_at_zero_and_of_a_finished_run_ends(
    genome: Path, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert cli.run(arguments(genome, output, "--resume")) == 0
    assert weights(output) == weights(straight)
    capsys.readouterr()
    before = weights(output)
    assert cli.run(arguments(genome, output, "--resume")) == 0
    assert "finished" in capsys.readouterr().err
    assert weights(output) == before


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--preset", "700k"], ["preset 250k", "700k"]),
        (["--length", "128"], ["length 64", "128"]),
        (["--seed", "3"], ["seed 0", "3"]),
        (["--lr", "0.001", "--batch", "4"], ["lr 0.008", "0.001", "batch 3", "4"]),
        (["--steps", "16"], ["steps 8", "16"]),
    ],
    ids=lambda value: value[0].strip("-").replace(" ", "-"),
)
def test_resume_refuses_other_settings_by_name(
    genome: Path,
    halted: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    parts: list[str],
) -> None:
    before = weights(halted)
    capsys.readouterr()
    assert cli.run(arguments(genome, halted, "--resume", *flags)) == 2
    error = one_line(capsys)
    for part in [*parts, str(halted)]:
        assert part in error
    assert weights(halted) == before


def test_resume_may_change_what_decides_where_and_when(
    genome: Path, halted: Path, straight: Path
) -> None:
    call = arguments(genome, halted, "--resume", "--validate-every", "5", "--checkpoint-every", "1")
    assert cli.run(call) == 0
    assert weights(halted) == weights(straight)


def test_resume_refuses_a_genome_that_has_changed(
    genome: Path, halted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "small.fa"
    other.write_text(genome.read_text().replace("ACG", "ACT", 1))
    capsys.readouterr()
    assert cli.run(arguments(other, halted, "--resume")) == 1
    assert "SHA-256" in one_line(capsys)


def test_a_truncated_checkpoint_gives_way_to_the_one_before(
    genome: Path, halted: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = list_states(halted)[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    capsys.readouterr()
    assert cli.run(arguments(genome, halted, "--resume")) == 0
    assert f"warning: {newest}" in capsys.readouterr().err
    assert weights(halted) == weights(straight)


def test_a_checkpoint_of_another_preset_is_refused(
    genome: Path, halted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert cli.run(arguments(genome, other, "--preset", "700k", "--steps", "1")) == 0
    for path in list_states(halted):
        path.unlink()
    list_states(other)[0].rename(halted / FOLDER / "step-000000006.safetensors")
    capsys.readouterr()
    assert cli.run(arguments(genome, halted, "--resume")) == 2
    assert "preset 700k, and this run has 250k" in one_line(capsys)


def test_a_pickled_checkpoint_is_refused(
    genome: Path, halted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weights": torch.zeros(2)}, halted / FOLDER / "step-000000009.safetensors")
    capsys.readouterr()
    assert cli.run(arguments(genome, halted, "--resume")) == 1
    assert "step-000000009.safetensors: holds a pickle" in one_line(capsys)


def test_with_every_checkpoint_cut_short_the_error_names_the_cure(
    genome: Path, halted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in list_states(halted):
        path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    assert cli.run(arguments(genome, halted, "--resume")) == 1
    assert "--resume to start at zero" in one_line(capsys)


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(
    genome: Path, halted: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list_states(halted)
    capsys.readouterr()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        assert cli.run(arguments(genome, halted, "--resume")) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "step-000000006.safetensors" in one_line(capsys)
    assert list_states(halted) == before
    assert not list(halted.rglob(".*.tmp"))
    assert cli.run(arguments(genome, halted, "--resume")) == 0
    assert weights(halted) == weights(straight)
