"""Runs of several processes, as torchrun starts them: one run folder, stopped, lost and resumed."""

import json
import math
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from dnamamba import cli, log
from dnamamba.training.checkpoint import list_states, read_state, state_step
from tests.pipelines.runs import (
    STEPS,
    TORCHRUN,
    arguments,
    launch,
    table,
    weights,
    without_times,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_available(), reason="needs torch.distributed"),
]

AMID = """
import os, sys
from dnamamba import cli
from dnamamba.pipelines import pretrain_run

number, arguments = int(sys.argv[1]), sys.argv[2:]
feed = pretrain_run.feed

def signalling(windows, steps, *rest, **more):
    for step, codes in zip(steps, feed(windows, steps, *rest, **more), strict=True):
        yield codes
        if step == 4 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), number)

pretrain_run.feed = signalling
sys.exit(cli.run(arguments))
"""
"""A run in which a signal reaches the second process alone, as it takes the fifth step."""


def call(genome: Path, output: Path, *more: str) -> list[str]:
    return arguments(genome, output, "--batch", "4", *more)


def said(result: subprocess.CompletedProcess[str], start: str) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith(start)]


POISONED = """
import os, sys
import torch
from dnamamba import cli
from dnamamba.training.objectives import NextBase

ask = NextBase.__call__

def poisoned(objective, codes, step, first):
    batch = ask(objective, codes, step, first)
    if step == 4 and os.environ["RANK"] == "1":
        return batch._replace(weights=batch.weights * torch.inf)
    return batch

NextBase.__call__ = poisoned
sys.exit(cli.run(sys.argv[1:]))
"""


def require_same_curve(run: Path, other: Path) -> None:
    """Losses, gradient norms and held-out bits of two runs agree but for rounding."""
    one, two = (log.read_metrics(folder / "metrics.tsv") for folder in (run, other))
    assert one["step"] == two["step"]
    for name in ("train_bits", "grad_norm", "valid_bits"):
        for mine, wanted in zip(one[name], two[name], strict=True):
            assert (not mine) == (not wanted)
            if mine:
                assert math.isclose(float(mine), float(wanted), rel_tol=2e-5), name


@pytest.fixture(scope="module")
def alone(genome: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "alone"
    assert cli.run(call(genome, output)) == 0
    return output


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "amid.py"
    path.write_text(AMID)
    return path


@pytest.fixture(scope="module")
def pair(genome: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing has disturbed."""
    output = tmp_path_factory.mktemp("runs") / "pair"
    result = launch(2, "-m", "dnamamba", *call(genome, output))
    header, *_ = result.stdout.splitlines()
    assert result.stdout.count(header) == 1
    assert table(result.stdout)[0]["model"] == "250k next-base Mamba"
    assert len(said(result, "the model is in")) == 1
    return output


@pytest.fixture(scope="module")
def halted_pair(genome: Path, script: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes, of which one was sent a SIGTERM."""
    output = tmp_path_factory.mktemp("runs") / "halted"
    result = launch(2, script, "15", *call(genome, output))
    (line,) = said(result, "stopped after")
    assert line.startswith(f"stopped after step 5 of {STEPS}; the same command with --resume")
    return output


@pytest.fixture
def halted(halted_pair: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(halted_pair, tmp_path / "run"))


def test_two_processes_make_the_run_of_one(pair: Path, alone: Path) -> None:
    assert {entry.name for entry in pair.iterdir()} == {entry.name for entry in alone.iterdir()}
    record = json.loads((pair / "run.json").read_text())
    together = {"count": 2, "parallel": "ddp", "sequence_parallel": 1}
    assert record.pop("processes") == together
    assert record.keys() == json.loads((alone / "run.json").read_text()).keys()
    require_same_curve(pair, alone)


def test_a_resume_on_as_many_processes_is_exact(genome: Path, halted: Path, pair: Path) -> None:
    launch(2, "-m", "dnamamba", *call(genome, halted, "--resume"))
    assert weights(halted) == weights(pair)
    assert without_times(halted / "metrics.tsv") == without_times(pair / "metrics.tsv")


def test_a_resume_on_one_lands_on_the_same_curve(genome: Path, halted: Path, alone: Path) -> None:
    assert cli.run(call(genome, halted, "--resume")) == 0
    require_same_curve(halted, alone)


def test_a_resume_on_four_in_another_way_lands_on_the_same_curve(
    genome: Path, halted: Path, alone: Path
) -> None:
    more = ("--resume", "--parallel", "fsdp", "--sequence-parallel", "2")
    launch(4, "-m", "dnamamba", *call(genome, halted, *more))
    require_same_curve(halted, alone)


def test_a_lost_process_leaves_the_last_checkpoint_and_is_told_in_a_line(
    genome: Path, script: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    result = launch(4, script, "9", *call(genome, output), fails=True)
    (error,) = said(result, "dnamamba: error:")
    assert "another process of the job has died" in error
    assert f"{output} is of step 4 of {STEPS}, and the same command with --resume" in error
    states = list_states(output)
    assert [state_step(path) for path in states] == [4, 2]
    for path in states:
        read_state(path)
    assert not list(output.rglob(".*.tmp"))


def test_what_all_processes_find_wrong_is_said_once(genome: Path, tmp_path: Path) -> None:
    more = ("--batch", "3", "--sequence-parallel", "1", "--length", "64")
    output = tmp_path / "run"
    result = launch(2, "-m", "dnamamba", *arguments(genome, output, *more), fails=True)
    (error,) = said(result, "dnamamba: error:")
    assert "batch 3: 2 processes cannot take as many windows each; give a multiple of 2" in error
    assert not output.exists()


def test_all_go_back_where_one_diverges(genome: Path, tmp_path: Path) -> None:
    output, script = tmp_path / "run", tmp_path / "poisoned.py"
    script.write_text(POISONED)
    result = launch(2, script, *call(genome, output, "--parallel", "fsdp"))
    (warning,) = said(result, "warning:")
    assert "not finite at step 5" in warning
    assert "back to step 4, and on without these windows" in warning
    trained = log.read_metrics(output / "metrics.tsv")
    steps = zip(trained["step"], trained["train_bits"], strict=True)
    assert [int(step) for step, bits in steps if bits] == [1, 2, 3, 4, 6, 7, 8]


def test_a_signal_to_torchrun_stops_all_in_order(genome: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    more = ("--steps", "100k", "--checkpoint-every", "20", "--validate-every", "100k")
    command = [*TORCHRUN, "--nproc-per-node", "2", "-m", "dnamamba", *call(genome, output, *more)]
    process = subprocess.Popen(
        [*command, "--workers", "1"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    while not list_states(output):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    _, err = process.communicate(timeout=60)
    (line,) = (line for line in err.splitlines() if line.startswith("stopped after"))
    step = state_step(list_states(output)[0])
    assert line.replace(",", "").startswith(f"stopped after step {step} of 100000; ")
    assert "dnamamba: error" not in err
