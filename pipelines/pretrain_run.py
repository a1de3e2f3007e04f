"""A pretraining run that is set up: train it, save it, score it beside its baselines, print."""

import dataclasses
import math
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from dnamamba.config import to_dict
from dnamamba.data.feeder import feed
from dnamamba.data.windows import HeldOutWindows, TrainingWindows, Window
from dnamamba.errors import DnamambaError
from dnamamba.evaluation.language import (
    Autocast,
    Objective,
    Score,
    score_model,
)
from dnamamba.evaluation.plots import plot_loss
from dnamamba.evaluation.report import (
    COLUMNS,
    Result,
    best_order,
    summarise,
    verdict,
    write_results,
)
from dnamamba.log import logger, read_metrics
from dnamamba.models import pretrained
from dnamamba.models.heads import LanguageModel
from dnamamba.pipelines.baselines import Baselines, fit_baselines
from dnamamba.pipelines.pretrain_config import MAY_CHANGE, PretrainConfig, build_objective
from dnamamba.pipelines.resume import flatten
from dnamamba.pipelines.table import print_table
from dnamamba.training.checkpoint import list_states
from dnamamba.training.divergence import DivergedError
from dnamamba.training.loop import Callbacks, LoopConfig, autocast_to, fit
from dnamamba.training.monitor import Monitor
from dnamamba.training.optimizer import build_optimizer
from dnamamba.training.rollback import ROLLBACKS, Checkpoints
from dnamamba.training.signals import Interruption, StopRequest, stop_on_signal
from dnamamba.training.stages import Stage, plan_stages

METRICS: Final = "metrics.tsv"
RESULTS: Final = "results.tsv"
"""Its presence says that the run is finished."""


@dataclass(frozen=True)
class Run:
    """All that a run is made of, once it is set up."""

    folder: Path
    config: PretrainConfig
    loop: LoopConfig
    inputs: list[dict[str, Any]]
    windows: TrainingWindows
    held_out: HeldOutWindows
    model: LanguageModel
    device: torch.device

    @property
    def name(self) -> str:
        """What the model is called in tables."""
        return f"{self.config.preset} {self.config.objective}-base Mamba"

    @property
    def step_bases(self) -> int:
        """Bases a step."""
        return self.loop.batch * self.windows.length

    @property
    def autocast(self) -> Autocast:
        """The context of a forward pass."""
        return autocast_to(self.config.precision, self.device)

    @property
    def stages(self) -> list[Stage]:
        """The stages of its length warm-up, or one."""
        return plan_stages(
            self.loop.steps, self.windows.length, self.loop.batch, self.config.length_warmup
        )

    def batches(self, start: int, workers: int) -> Iterator[Tensor]:
        """Read the batch of each step from `start` on."""
        for stage in self.stages:
            if start < stage.steps.stop:
                yield from feed(
                    self.windows.of_length(stage.length),
                    range(max(start, stage.steps.start), stage.steps.stop),
                    stage.batch,
                    workers=workers,
                    pin=self.device.type == "cuda",
                )

    def windows_of(self, step: int) -> Iterator[Window]:
        """Tell which windows a step reads."""
        for stage in self.stages:
            if step in stage.steps:
                windows = self.windows.of_length(stage.length)
                yield from (windows.window(step, index) for index in range(stage.batch))

    def objective(self, soft_mask_weight: float) -> Objective:
        """Make the objective: weighted for training, or with a weight of one to be scored."""
        return build_objective(self.model, self.config, soft_mask_weight)

    def score(self) -> Score:
        """Score the model on the held-out windows."""
        return score_model(
            self.model,
            self.held_out,
            self.objective(1.0),
            batch=self.loop.micro_batch,
            device=self.device,
            segment=self.config.tbptt,
            autocast=self.autocast,
        )


def train(run: Run, workers: int) -> int:
    """Train from the last good checkpoint to the end, or to a signal.

    Returns
    -------
    The exit code: 0 if the run is finished or was stopped by SIGTERM or SIGUSR1, 130 if by SIGINT.
    """
    optimizer = build_optimizer(run.model, run.config.optimizer)
    checkpoints = Checkpoints(run.folder, run.model, optimizer, _identity(run))
    start = done = checkpoints.restore()
    if start:
        logger.info("going on from step %s of %s", f"{start:,}", f"{run.loop.steps:,}")
    with stop_on_signal() as stop:
        try:
            with stop.breaks_off():
                baselines = fit_baselines(run.folder, run.windows, run.held_out, run.objective(1.0))
            monitor = Monitor(
                run.folder / METRICS,
                start=start,
                steps=run.loop.steps,
                step_bases=run.step_bases,
                device=run.device,
            )
            done = _fit(run, optimizer, checkpoints, monitor, stop, start, workers)
            if done == run.loop.steps:
                with stop.breaks_off():
                    score = run.score()
                _finish(run, score, baselines, monitor)
                return 0
        except Interruption:
            pass  # what was broken off is begun again by a resume
    logger.info(
        "stopped after step %s of %s; the same command with --resume goes on with %s",
        f"{done:,}",
        f"{run.loop.steps:,}",
        run.folder,
    )
    return 130 if stop.signal == signal.SIGINT else 0


def _fit(
    run: Run,
    optimizer: torch.optim.Optimizer,
    checkpoints: Checkpoints,
    monitor: Monitor,
    stop: StopRequest,
    start: int,
    workers: int,
) -> int:
    """Train from step `start` on, go back where the loss diverges, and return the steps done."""

    def validate(step: int) -> None:
        if monitor.is_validated(step):
            return
        with suppress(Interruption):
            with stop.breaks_off():
                score = run.score()
            monitor.validated(step, score)

    def save(step: int) -> None:
        checkpoints.save(step)
        _save_model(run, step, {})

    try:
        while True:
            try:
                return fit(
                    run.model,
                    optimizer,
                    run.objective(run.config.soft_mask_weight),
                    run.batches(start, workers),
                    Callbacks(monitor.report, validate, save),
                    start=start,
                    config=run.loop,
                    optimizer_config=run.config.optimizer,
                    device=run.device,
                    stop=stop,
                    skipped=checkpoints.skipped,
                    autocast=run.autocast,
                )
            except DivergedError as error:
                start = _roll_back(run, checkpoints, error)
                monitor.rewind(start)
    except torch.OutOfMemoryError as error:
        raise DnamambaError(
            f"{run.device} is out of memory: go on with --resume and a smaller --micro-batch "
            f"than {run.loop.micro_batch}"
        ) from error
    finally:
        monitor.close()


def _roll_back(run: Run, checkpoints: Checkpoints, error: DivergedError) -> int:
    """Go back to the last good checkpoint, say so, and return its step."""
    windows = [window for step in error.steps for window in run.windows_of(step)]
    names = ", ".join(str(window.region) for window in windows[:3])
    left = len(windows) - 3
    where = f"{error} (windows {names}{f' and {left} more' if left > 0 else ''})"
    start = checkpoints.roll_back(error.steps)
    if start is None:
        past = f" after {len(checkpoints.skipped)} rollbacks" if checkpoints.skipped else ""
        exact = ", or with --precision fp32" if run.config.precision != "fp32" else ""
        kept = f"; the checkpoints in {run.folder} are kept" if list_states(run.folder) else ""
        raise DnamambaError(
            f"{where}{past}: start again with a lower --lr than {run.config.optimizer.lr:g}"
            f"{exact}{kept}"
        ) from error
    logger.warning(
        "%s: back to step %s, and on without these windows (rollback %d of %d)",
        where,
        f"{start:,}",
        len(checkpoints.skipped),
        ROLLBACKS,
    )
    return start


def _identity(run: Run) -> dict[str, Any]:
    """Return what a training state belongs to: the settings that decide on weights, the inputs."""
    settings = flatten(to_dict(run.config))
    kept = {name: value for name, value in settings.items() if name not in MAY_CHANGE}
    return {**kept, "inputs": [entry["sha256"] for entry in run.inputs]}


def _save_model(run: Run, step: int, figures: Mapping[str, float]) -> None:
    """Write the model and its card into the run folder."""
    card = pretrained.model_card(
        run.model,
        name=run.name,
        data=[f"`{Path(entry['path']).name}` (SHA-256 {entry['sha256']})" for entry in run.inputs],
        metrics=figures,
        notes=f"Trained for {step:,} of {run.loop.steps:,} steps of {run.step_bases:,} bases, "
        f"windows of {run.windows.length:,}; see config.toml and split.bed.",
    )
    pretrained.save(run.model, run.folder, card)


def _finish(run: Run, score: Score, baselines: Baselines, monitor: Monitor) -> None:
    """Write the model's score, card, picture and results, and print the table."""
    result = summarise(run.name, score, run.loop.steps * run.step_bases, monitor.seconds)
    monitor.validated(run.loop.steps, score)
    rows = baselines.results()
    order = best_order(baselines.scores)
    _save_model(
        run,
        run.loop.steps,
        {
            "bits per base": score.bits_per_base,
            "perplexity": score.perplexity,
            "accuracy": score.accuracy,
            f"bits per base, order-{order} Markov (the best)": rows[order].bits_per_base,
        },
    )
    shown = [rows[index] for index in sorted({0, order})]
    levels = {row.model: row.bits_per_base for row in shown}
    plot_loss(read_metrics(run.folder / METRICS), levels, run.folder / "loss.png")
    write_results(run.folder / RESULTS, [result, *rows])
    print_table(COLUMNS, [_row(row) for row in (result, *shown)])
    logger.info(verdict(run.name, score, baselines.scores))
    if run.config.objective == "masked":
        logger.info("mind that Markov models see the bases before; the model sees both sides")
    logger.info("the model is in %s; dnamamba info %s describes it", run.folder, run.folder)


def _row(result: Result) -> list[str | int | float]:
    *figures, accuracy, bases, seconds = dataclasses.astuple(result)
    return [*figures, "-" if math.isnan(accuracy) else accuracy, bases, round(seconds, 1)]
