"""What verbs that train share: steps from the last checkpoint on, rollbacks, an orderly stop.

A verb describes its run as a `Job`; `fit_job` takes its steps. What is trained, and how it is
scored, is the job's own.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.amp import GradScaler

from dnamamba.errors import DnamambaError
from dnamamba.evaluation.language import Objective, Score
from dnamamba.log import logger
from dnamamba.models.precision import UNSCALED, Autocast
from dnamamba.processes import LostProcessError, Processes, losses_told
from dnamamba.training.checkpoint import list_states, state_step
from dnamamba.training.divergence import DivergedError
from dnamamba.training.loop import Callbacks, LoopConfig, fit
from dnamamba.training.monitor import Monitor
from dnamamba.training.optimizer import OptimizerConfig
from dnamamba.training.parallel import Trained
from dnamamba.training.rollback import ROLLBACKS, Checkpoints
from dnamamba.training.signals import StopRequest

METRICS: Final = "metrics.tsv"
RESULTS: Final = "results.tsv"
"""Its presence says that a run is finished."""
PAGE: Final = "report.html"


def fold_folder(output: Path, fold: int) -> Path:
    """Return where a fold's run lies in a cross-validation's folder."""
    return output / f"fold-{fold}"


class Job(Protocol):
    """A run that is set up, on each of its processes."""

    @property
    def folder(self) -> Path:
        """The run folder."""

    @property
    def loop(self) -> LoopConfig:
        """How it is cut into steps."""

    @property
    def micro_batch(self) -> int:
        """Windows that are read at once, which decide on the memory."""

    @property
    def optimizer(self) -> OptimizerConfig:
        """AdamW and its schedule."""

    @property
    def precision(self) -> str:
        """Of a forward pass, fp32, bf16 or fp16."""

    @property
    def device(self) -> torch.device:
        """Where the model lies."""

    @property
    def processes(self) -> Processes:
        """Who trains it."""

    @property
    def autocast(self) -> Autocast:
        """The context of a forward pass."""

    @property
    def trained_on(self) -> Objective:
        """What the model is asked in training."""

    def batches(self, start: int, workers: int) -> Iterator[Tensor]:
        """Read this process's share of the batch of each step from `start` on."""

    def windows_of(self, step: int) -> Iterator[str]:
        """Tell which windows a step reads."""

    def score(self, stop: StopRequest) -> Score:
        """Score the model on held-out windows; an `Interruption` where `stop` asks for it."""

    def save_model(self, step: int) -> None:
        """Write the model as it is after `step` steps; called on every process."""


def fit_job(
    job: Job,
    model: Trained,
    optimizer: torch.optim.Optimizer,
    checkpoints: Checkpoints,
    monitor: Monitor,
    stop: StopRequest,
    *,
    start: int,
    workers: int,
    validated: Callable[[Score], None] = lambda _: None,
    scaler: GradScaler = UNSCALED,
) -> int:
    """Train from step `start` on, go back where the loss diverges, and return the steps done.

    Parameters
    ----------
    job
        What is trained.
    model, optimizer
        As `fit` takes them.
    checkpoints, monitor, stop
        The run's.
    start
        Steps done before.
    workers
        Processes that read ahead.
    validated
        Called with the score of each validation that was not made before.
    scaler
        As `fit` takes it.

    Raises
    ------
    DnamambaError
        Where the device is out of memory, or the loss diverges again and again.
    """

    def validate(step: int) -> None:
        if job.processes.on_first(lambda: monitor.is_validated(step)):
            return
        with monitor.aside():
            score = job.score(stop)
            monitor.validated(step, score)
            validated(score)

    def save(step: int) -> None:
        with monitor.aside():
            checkpoints.save(step)
            job.save_model(step)

    try:
        while True:
            try:
                return fit(
                    model,
                    optimizer,
                    job.trained_on,
                    monitor.waiting(job.batches(start, workers)),
                    Callbacks(monitor.report, validate, save),
                    start=start,
                    config=job.loop,
                    optimizer_config=job.optimizer,
                    device=job.device,
                    stop=stop,
                    skipped=checkpoints.skipped,
                    autocast=job.autocast,
                    processes=job.processes,
                    scaler=scaler,
                )
            except DivergedError as error:
                start = _roll_back(job, checkpoints, error)
                monitor.rewind(start)
    except torch.OutOfMemoryError as error:
        raise DnamambaError(
            f"{job.device} is out of memory: go on with --resume and a smaller --micro-batch "
            f"than {job.micro_batch}"
        ) from error
    finally:
        monitor.close()


def say_stopped(job: Job, done: int, stop: StopRequest) -> int:
    """Say where a signal has stopped a job and how to go on; return the exit code."""
    logger.info(
        "stopped after step %s of %s; the same command with --resume goes on with %s",
        f"{done:,}",
        f"{job.loop.steps:,}",
        job.folder,
    )
    return 130 if stop.signal == signal.SIGINT else 0


@contextmanager
def way_back_told(job: Job) -> Iterator[None]:
    """Where another process has died, say what is left and how to go on."""
    try:
        with losses_told():
            yield
    except LostProcessError as error:
        states = list_states(job.folder)
        step = state_step(states[0]) if states else 0
        raise LostProcessError(
            f"{error}; the last checkpoint of {job.folder} is of step {step:,} of "
            f"{job.loop.steps:,}, and the same command with --resume goes on from there"
        ) from error


def _roll_back(job: Job, checkpoints: Checkpoints, error: DivergedError) -> int:
    """Go back to the last good checkpoint, say so, and return its step."""
    windows = [window for step in error.steps for window in job.windows_of(step)]
    left = len(windows) - 3
    names = ", ".join(windows[:3])
    where = f"{error} (windows {names}{f' and {left} more' if left > 0 else ''})"
    start = checkpoints.roll_back(error.steps)
    if start is None:
        past = f" after {len(checkpoints.skipped)} rollbacks" if checkpoints.skipped else ""
        exact = ", or with --precision fp32" if job.precision != "fp32" else ""
        kept = f"; the checkpoints in {job.folder} are kept" if list_states(job.folder) else ""
        raise DnamambaError(
            f"{where}{past}: start again with a lower --lr than {job.optimizer.lr:g}{exact}{kept}"
        ) from error
    say = logger.warning if job.processes.is_first else logger.debug
    say(
        "%s: back to step %s, and on without these windows (rollback %d of %d)",
        where,
        f"{start:,}",
        len(checkpoints.skipped),
        ROLLBACKS,
    )
    return start
