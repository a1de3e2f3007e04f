"""A pretraining run that is set up: train it, save it, score it beside its baselines, print."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnamamba.config import to_dict
from dnamamba.data.feeder import feed
from dnamamba.data.windows import HeldOutWindows, TrainingWindows
from dnamamba.evaluation.language import (
    Objective,
    Score,
    score_model,
)
from dnamamba.log import logger
from dnamamba.models.heads import LanguageModel
from dnamamba.models.precision import Autocast, autocast_to
from dnamamba.pipelines.baselines import Baselines, fit_baselines
from dnamamba.pipelines.fitting import METRICS, fit_job, say_stopped, way_back_told
from dnamamba.pipelines.pretrain_config import MAY_CHANGE, PretrainConfig, build_objective
from dnamamba.pipelines.pretrain_output import finish, save_model
from dnamamba.pipelines.resume import flatten
from dnamamba.processes import Processes
from dnamamba.training.loop import LoopConfig
from dnamamba.training.monitor import Monitor
from dnamamba.training.optimizer import OptimizerConfig, build_optimizer
from dnamamba.training.parallel import Way, distribute, gathered
from dnamamba.training.rollback import Checkpoints
from dnamamba.training.signals import Interruption, StopRequest, stop_on_signal
from dnamamba.training.silence import Silence
from dnamamba.training.stages import Stage, plan_stages


@dataclass(frozen=True)
class Run:
    """All that a run is made of, once it is set up; on each of its processes."""

    folder: Path
    config: PretrainConfig
    loop: LoopConfig
    inputs: list[dict[str, Any]]
    windows: TrainingWindows
    held_out: HeldOutWindows
    model: LanguageModel
    device: torch.device
    processes: Processes
    way: Way

    @property
    def name(self) -> str:
        """What the model is called in tables."""
        return f"{self.config.preset} {self.config.objective}-base Mamba"

    @property
    def step_bases(self) -> int:
        """Bases a step."""
        return self.loop.batch * self.windows.length

    @property
    def micro_batch(self) -> int:
        """Windows of a pass."""
        return self.loop.micro_batch

    @property
    def optimizer(self) -> OptimizerConfig:
        """AdamW and its schedule."""
        return self.config.optimizer

    @property
    def precision(self) -> str:
        """Of a forward pass."""
        return self.config.precision

    @property
    def trained_on(self) -> Objective:
        """The objective in training, soft-masked bases weighted."""
        return self.objective(self.config.soft_mask_weight)

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
        """Read this process's share of the batch of each step from `start` on."""
        for stage in self.stages:
            if start < stage.steps.stop:
                mine = self.processes.share(stage.batch)
                yield from feed(
                    self.windows.of_length(stage.length),
                    range(max(start, stage.steps.start), stage.steps.stop),
                    len(mine),
                    first=mine.start,
                    workers=workers,
                    pin=self.device.type == "cuda",
                )

    def windows_of(self, step: int) -> Iterator[str]:
        """Tell which windows a step reads."""
        for stage in self.stages:
            if step in stage.steps:
                windows = self.windows.of_length(stage.length)
                for index in range(stage.batch):
                    yield str(windows.window(step, index).region)

    def objective(self, soft_mask_weight: float) -> Objective:
        """Make the objective: weighted for training, or with a weight of one to be scored."""
        return build_objective(self.model, self.config, soft_mask_weight)

    def save_model(self, step: int) -> None:
        """Write the model as it is after `step` steps."""
        model = gathered(self.model)
        self.processes.on_first(lambda: save_model(self, model, step))

    def score(self, stop: StopRequest) -> Score:
        """Score the model on the held-out windows; an `Interruption` where `stop` asks for it."""
        with stop.breaks_off(self.processes):
            return score_model(
                self.model,
                self.held_out,
                self.objective(1.0),
                batch=self.loop.micro_batch,
                device=self.device,
                segment=self.config.tbptt,
                autocast=self.autocast,
                processes=self.processes,
                between=lambda: stop.check(self.processes),
            )


def train(run: Run, workers: int, *, tensorboard: bool = False) -> int:
    """Train from the last good checkpoint to the end, or to a signal.

    Returns
    -------
    The exit code: 0 if the run is finished or was stopped by SIGTERM or SIGUSR1, 130 if by SIGINT.
    """
    model = distribute(run.model, run.processes, run.way, run.autocast)
    optimizer = build_optimizer(run.model, run.config.optimizer)
    checkpoints = Checkpoints(run.folder, run.model, optimizer, _identity(run), run.processes)
    start = done = checkpoints.restore()
    if start:
        logger.info("going on from step %s of %s", f"{start:,}", f"{run.loop.steps:,}")
    with way_back_told(run), stop_on_signal() as stop:
        try:
            baselines = _fit_baselines(run, stop)
            monitor = _monitor(run, start, tensorboard)
            done = fit_job(
                run,
                model,
                optimizer,
                checkpoints,
                monitor,
                stop,
                start=start,
                workers=workers,
            )
            if done == run.loop.steps:
                score = run.score(stop)
                monitor.validated(done, score)
                monitor.log_pace(workers)
                whole = gathered(run.model)
                run.processes.on_first(
                    lambda: finish(run, whole, score, baselines, monitor.seconds)
                )
                return 0
        except Interruption:
            pass  # what was broken off is begun again by a resume
    return say_stopped(run, done, stop)


def _fit_baselines(run: Run, stop: StopRequest) -> Baselines:
    """Fit the baselines on the first process; a signal to it breaks that off for all."""

    def fit_here() -> Baselines | None:
        with suppress(Interruption), stop.breaks_off():
            return fit_baselines(run.folder, run.windows, run.held_out, run.objective(1.0))
        return None

    baselines = run.processes.on_first(fit_here)
    stop.check(run.processes)
    if baselines is None:
        raise Interruption
    return baselines


def _monitor(run: Run, start: int, tensorboard: bool) -> Monitor:
    if not run.processes.is_first:
        return Silence()
    return Monitor(
        run.folder / METRICS,
        start=start,
        steps=run.loop.steps,
        bases=lambda steps: steps * run.step_bases,
        device=run.device,
        tensorboard=run.folder / "tensorboard" if tensorboard else None,
    )


def _identity(run: Run) -> dict[str, Any]:
    """Return what a training state belongs to: the settings that decide on weights, the inputs."""
    settings = flatten(to_dict(run.config))
    kept = {name: value for name, value in settings.items() if name not in MAY_CHANGE}
    return {**kept, "inputs": [entry["sha256"] for entry in run.inputs]}
