"""Whatever breaks into a run, its last good checkpoint is whole, and a resume is exact."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dnamamba import cli, log
from dnamamba.data.windows import HeldOutWindows, TrainingWindows
from dnamamba.evaluation.language import Batch
from dnamamba.evaluation.markov import Markov
from dnamamba.pipelines import pretrain_output, pretrain_run
from dnamamba.pipelines.pretrain_run import Run
from dnamamba.training.checkpoint import FOLDER, list_states, read_state
from dnamamba.training.divergence import PATIENCE
from dnamamba.training.objectives import NextBase
from dnamamba.training.rollback import ROLLBACKS
from tests.pipelines.runs import STEPS, arguments, one_line, table, weights, without_times


def require_exact_resume(genome: Path, output: Path, straight: Path) -> None:
    assert cli.run(arguments(genome, output, "--resume")) == 0
    assert weights(output) == weights(straight)
    assert without_times(output / "metrics.tsv") == without_times(straight / "metrics.tsv")


# Signals.


@pytest.mark.parametrize(
    ("scored", "done", "number"),
    [(0, 0, signal.SIGTERM), (1, 3, signal.SIGUSR1), (3, STEPS, signal.SIGINT)],
    ids=["baselines", "validation", "last validation"],
)
def test_a_signal_breaks_off_a_scoring(
    genome: Path,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    scored: int,
    done: int,
    number: signal.Signals,
) -> None:
    output = tmp_path / "run"
    read = HeldOutWindows.__getitem__
    seen = [0]

    def signalling(windows: HeldOutWindows, index: int) -> torch.Tensor:
        seen[0] += 1
        if seen[0] == scored * len(windows) + 5:
            os.kill(os.getpid(), number)
            pytest.fail("the scoring goes on")
        return read(windows, index)

    monkeypatch.setattr(HeldOutWindows, "__getitem__", signalling)
    assert cli.run(arguments(genome, output)) == (130 if number == signal.SIGINT else 0)
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line.startswith(f"stopped after step {done} of {STEPS}; ")
    assert "--resume" in last_line
    assert [int(path.stem[-1]) for path in list_states(output)[:1]] == ([done] if done else [])
    assert not (output / "results.tsv").exists()
    monkeypatch.undo()
    require_exact_resume(genome, output, straight)


def test_a_signal_breaks_off_the_fit_of_baselines(
    genome: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*sequences: object) -> Markov:
        os.kill(os.getpid(), signal.SIGUSR1)
        pytest.fail("the fit goes on")

    monkeypatch.setattr(Markov, "fit", fit)
    assert cli.run(arguments(genome, tmp_path / "run")) == 0
    monkeypatch.undo()
    require_exact_resume(genome, tmp_path / "run", straight)


def test_a_validation_that_a_signal_forestalls_is_made_up_for(
    genome: Path, straight: Path, tmp_path: Path, stop_at: Callable[[int, int], None]
) -> None:
    output = tmp_path / "run"
    stop_at(5, signal.SIGUSR1)
    assert cli.run(arguments(genome, output)) == 0
    assert log.read_metrics(output / "metrics.tsv")["valid_bits"][-1] == ""
    stop_at(STEPS, signal.SIGUSR1)
    require_exact_resume(genome, output, straight)


def test_a_validation_that_was_written_down_is_not_written_twice(
    genome: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"

    def plot(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain_output, "plot_run", plot)
    assert cli.run(arguments(genome, output)) == 130
    monkeypatch.undo()
    require_exact_resume(genome, output, straight)


@pytest.mark.slow
def test_a_signal_to_the_whole_group_stops_a_run_in_order(genome: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    more = ("--steps", "100k", "--checkpoint-every", "20", "--validate-every", "100k")
    call = arguments(genome, output, "--workers", "2", *more)
    process = subprocess.Popen(
        [sys.executable, "-m", "dnamamba", *call],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list_states(output):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "error" not in err
    metadata, _ = read_state(list_states(output)[0])
    last_line = err.splitlines()[-1].replace(",", "")
    assert last_line.startswith(f"stopped after step {metadata['step']} of 100000; ")


@pytest.mark.slow  # torch looks after its workers every five seconds
def test_a_run_whose_reader_died_goes_on_exactly(
    genome: Path,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, owner = tmp_path / "run", os.getpid()
    read = TrainingWindows.__getitem__

    def dying(windows: TrainingWindows, key: tuple[int, int]) -> torch.Tensor:
        if key == (5, 1) and os.getpid() != owner:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(windows, key)

    monkeypatch.setattr(TrainingWindows, "__getitem__", dying)
    assert cli.run(arguments(genome, output, "--workers", "2")) == 1
    assert "a process that reads windows died" in one_line(capsys)
    monkeypatch.undo()
    # What it had read before cannot be opened any more, if that has not been done.
    assert list_states(output)[0].stem in ("step-000000002", "step-000000004")
    require_exact_resume(genome, output, straight)


# A loss that diverges.


def poison(monkeypatch: pytest.MonkeyPatch, *steps: int, once: bool = False) -> None:
    """Make the loss of some steps, counted from 0, infinite and its gradient NaN."""
    ask, left = NextBase.__call__, list(steps)

    def poisoned(objective: NextBase, codes: torch.Tensor, step: int, first: int) -> Batch:
        batch = ask(objective, codes, step, first)
        if step not in left:
            return batch
        if once:
            left.remove(step)
        return batch._replace(weights=batch.weights * torch.inf)

    monkeypatch.setattr(NextBase, "__call__", poisoned)


def warnings_in(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]


def trained_steps(run: Path) -> list[int]:
    metrics = log.read_metrics(run / "metrics.tsv")
    rows = zip(metrics["step"], metrics["train_bits"], strict=True)
    return [int(step) for step, bits in rows if bits]


def test_a_run_that_diverges_goes_back_and_on_without_the_windows(
    genome: Path,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "run"
    poison(monkeypatch, 4)
    assert cli.run(arguments(genome, output)) == 0
    (warning,) = warnings_in(capsys)
    assert "not finite at step 5 (windows chr" in warning
    assert f"back to step 4, and on without these windows (rollback 1 of {ROLLBACKS})" in warning
    assert trained_steps(output) == [1, 2, 3, 4, 6, 7, 8]
    rows, before = (without_times(run / "metrics.tsv") for run in (output, straight))
    assert rows[: 1 + 5] == before[: 1 + 5]
    _, tensors = read_state(list_states(output)[0])
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert len(table((output / "results.tsv").read_text())) == 14


@pytest.fixture(scope="module")
def rolled_back(genome: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that went back once, and that nothing else has disturbed."""
    output = tmp_path_factory.mktemp("runs") / "rolled_back"
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, 4)
        assert cli.run(arguments(genome, output)) == 0
    return output


@pytest.mark.parametrize("at", [5, 7], ids=["before a checkpoint", "after one"])
def test_a_resume_after_a_rollback_is_exact(
    genome: Path, rolled_back: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    broken, feed = tmp_path / "broken", pretrain_run.feed

    def interrupted(windows: TrainingWindows, steps: range, *rest: int, **more: bool) -> object:
        for step, codes in zip(steps, feed(windows, steps, *rest, **more), strict=True):  # type: ignore[arg-type]
            if step == at and steps.start == 4:
                raise KeyboardInterrupt
            yield codes

    # A flip of a bit, say: it does not come again when the run is resumed.
    with monkeypatch.context() as patch:
        poison(patch, 4, once=True)
        patch.setattr(pretrain_run, "feed", interrupted)
        assert cli.run(arguments(genome, broken)) == 130
    assert list_states(broken)[0].stem == f"step-00000000{at // 2 * 2}"
    assert cli.run(arguments(genome, broken, "--resume")) == 0
    assert weights(broken) == weights(rolled_back)
    assert without_times(broken / "metrics.tsv") == without_times(rolled_back / "metrics.tsv")


def test_a_run_that_diverges_too_often_stops(
    genome: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "run"
    poison(monkeypatch, 2, 4, 5, 7)
    assert cli.run(arguments(genome, output)) == 1
    err = capsys.readouterr().err
    assert err.count("warning: ") == ROLLBACKS
    last_line = err.splitlines()[-1]
    assert last_line.startswith("dnamamba: error: the loss is not finite at step 8 (windows chr")
    assert f"after {ROLLBACKS} rollbacks: start again with a lower --lr than 0.008" in last_line
    assert list_states(output)[0].stem == "step-000000006"


def test_a_loss_that_explodes_is_a_divergence(
    genome: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, models, ask = tmp_path / "run", [], NextBase.__call__
    objective = Run.objective

    def noted(run: Run, soft_mask_weight: float) -> object:
        models[:] = [run.model] * (not models) + models
        return objective(run, soft_mask_weight)

    def exploding(objective: NextBase, codes: torch.Tensor, step: int, first: int) -> Batch:
        if step == 4 and len(models) == 1:
            models.append(models[0])
            models[0].backbone.norm_f.weight.data.mul_(1e4)
        return ask(objective, codes, step, first)

    monkeypatch.setattr(Run, "objective", noted)
    monkeypatch.setattr(NextBase, "__call__", exploding)
    assert cli.run(arguments(genome, output, "--steps", "20")) == 0
    (warning,) = warnings_in(capsys)
    assert f"above 8 bits from step 5 to step {4 + PATIENCE} (windows chr" in warning
    assert "and 30 more): back to step 2" in warning
    assert trained_steps(output) == [1, 2, 3, *range(5 + PATIENCE, 21)]
    assert float(table((output / "results.tsv").read_text())[0]["bits_per_base"]) < 3.2


# Disks and kills.


def test_a_disk_too_full_for_another_row_is_told_in_a_line(
    genome: Path,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, feed = tmp_path / "run", pretrain_run.feed
    metrics, before = output / "metrics.tsv", tmp_path / "before.tsv"

    def filling(windows: TrainingWindows, steps: range, *rest: int, **more: bool) -> object:
        for step, codes in zip(steps, feed(windows, steps, *rest, **more), strict=True):  # type: ignore[arg-type]
            if step == 4:
                metrics.rename(before)
                metrics.symlink_to("/dev/full")
            yield codes

    monkeypatch.setattr(pretrain_run, "feed", filling)
    assert cli.run(arguments(genome, output)) == 1
    monkeypatch.undo()
    assert f"disk full while writing {metrics}" in one_line(capsys)
    assert list_states(output)[0].stem == "step-000000004"
    before.replace(metrics)
    require_exact_resume(genome, output, straight)


@pytest.mark.parametrize("target", [FOLDER, "model.safetensors"])
def test_a_full_disk_is_told_in_a_line(
    genome: Path,
    straight: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    target: str,
) -> None:
    output, write, count = tmp_path / "run", Path.write_bytes, [0]

    def full(path: Path, data: bytes) -> int:
        count[0] += target in str(path)
        if target in str(path) and count[0] == 3:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert cli.run(arguments(genome, output)) == 1
    monkeypatch.undo()
    assert f"disk full while writing {output}" in one_line(capsys)
    assert list_states(output)[0].stem == f"step-00000000{4 if target == FOLDER else 6}"
    for path in list_states(output):
        read_state(path)
    assert not list(output.rglob(".*.tmp"))
    require_exact_resume(genome, output, straight)


DISK = """
import os, sys
from pathlib import Path
from dnamamba import cli
from dnamamba.pipelines import pretrain_output, pretrain_run

folder, arguments = Path(sys.argv[1]), sys.argv[2:]
feed, filler = pretrain_run.feed, folder / "filler"

def filling(windows, steps, *rest, **more):
    for step, codes in zip(steps, feed(windows, steps, *rest, **more), strict=True):
        if step == 4:
            with filler.open("wb", buffering=0) as handle:
                free = os.statvfs(folder)
                size = free.f_bavail * free.f_frsize - (64 << 10)
                os.posix_fallocate(handle.fileno(), 0, size)
        yield codes

pretrain_run.feed = filling
code = cli.run(arguments)
print(code, *sorted(os.listdir(folder / "run" / "training_state")))
filler.unlink()
pretrain_run.feed = feed
print(cli.run([*arguments, "--resume"]))
"""


@pytest.mark.slow
def test_a_disk_that_is_full_indeed(genome: Path, straight: Path, tmp_path: Path) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    if not shutil.which("unshare"):
        pytest.skip("needs unshare, to mount a disk of its own")
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64m none "$1" && shift && "$@"']
    if subprocess.run([*mount, "sh", disk, "true"], capture_output=True).returncode:
        pytest.skip("may not mount a disk")
    call = [sys.executable, "-c", DISK, disk, *arguments(genome, disk / "run")]
    script = '"$@" && cp -r "$0/run" "$0/../kept"'
    result = subprocess.run(
        [*mount, "sh", disk, "sh", "-c", script, disk, *call], capture_output=True, text=True
    )
    lines = result.stdout.splitlines()
    assert lines[0] == "1 step-000000002.safetensors step-000000004.safetensors", result.stderr
    assert lines[-1] == "0"
    (error,) = (line for line in result.stderr.splitlines() if "error" in line)
    assert error.startswith(f"dnamamba: error: disk full while writing {disk}")
    assert "training_state/step-000000006" in error
    assert weights(kept) == weights(straight)
    assert without_times(kept / "metrics.tsv") == without_times(straight / "metrics.tsv")


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import dnamamba.evaluation.plots, dnamamba.kernels.scan.cpu, dnamamba.pipelines.pretrain
from dnamamba import cli
from dnamamba.training.checkpoint import list_states

straight, killed, arguments = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
rng = random.Random(0)

def start(output):
    child = os.fork()
    if not child:
        os._exit(cli.run([*arguments, "-o", str(output), "--resume"]))
    return child

def written(path):
    return path.stat().st_mtime_ns if path.exists() else 0

assert os.waitpid(start(straight), 0)[1] == 0
for kill in range(6):
    # Now as soon as it is set up, now amid its steps.
    sign = killed / ("training_state" if kill % 2 else "metrics.tsv")
    before = written(sign)
    child = start(killed)
    while written(sign) == before:
        time.sleep(0.001)
    time.sleep(rng.uniform(0.0, 0.3))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    print("".join(path.stem for path in list_states(killed)[:1]))
assert os.waitpid(start(killed), 0)[1] == 0
"""


@pytest.mark.slow
def test_resume_after_kills_at_any_moment_is_exact(genome: Path, tmp_path: Path) -> None:
    runs = tmp_path / "straight", tmp_path / "killed"
    call = arguments(genome, tmp_path, "--steps", "20", "--checkpoint-every", "1")
    process = subprocess.run(
        [sys.executable, "-c", KILLS, *runs, *call], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    states = [line for line in process.stdout.splitlines() if line.startswith("step-")]
    assert len(set(states)) >= 3, states  # killed while it trained, not before and not after
    straight, killed = runs
    assert weights(killed) == weights(straight)
    assert without_times(killed / "metrics.tsv") == without_times(straight / "metrics.tsv")
    assert not list(killed.rglob(".*.tmp"))
