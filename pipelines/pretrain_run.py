"""A pretraining run that is set up: train it, save it, score it beside its baselines, print."""

import dataclasses
import math
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from dnamamba.config import to_dict
from dnamamba.data.feeder import feed
from dnamamba.data.windows import HeldOutWindows, TrainingWindows
from dnamamba.errors import DnamambaError
from dnamamba.evaluation.language import (
    Autocast,
    Objective,
    Score,
    score_baseline,
    score_model,
)
from dnamamba.evaluation.markov import Markov
from dnamamba.evaluation.plots import plot_loss
from dnamamba.evaluation.report import (
    COLUMNS,
    Result,
    best_order,
    summarise,
    verdict,
    write_results,
)
from dnamamba.files import atomic_path
from dnamamba.log import logger, read_metrics
from dnamamba.models import pretrained
from dnamamba.models.heads import LanguageModel
from dnamamba.pipelines.pretrain_config import MAY_CHANGE, PretrainConfig, build_objective
from dnamamba.pipelines.resume import flatten
from dnamamba.pipelines.table import print_table
from dnamamba.training.checkpoint import restore_state, write_state
from dnamamba.training.loop import (
    Callbacks,
    DivergedError,
    LoopConfig,
    autocast_to,
    fit,
    stop_on_signal,
)
from dnamamba.training.monitor import Monitor, count_text, duration_text
from dnamamba.training.optimizer import build_optimizer

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
            autocast=self.autocast,
        )


def train(run: Run, workers: int) -> int:
    """Train from the last good checkpoint to the end, or to a signal."""
    optimizer = build_optimizer(run.model, run.config.optimizer)
    settings = _identity(run)
    start = restore_state(run.folder, run.model, optimizer, settings)
    if start:
        logger.info("going on from step %s of %s", f"{start:,}", f"{run.loop.steps:,}")
    baselines = _baselines(run)
    monitor = Monitor(
        run.folder / METRICS,
        start=start,
        steps=run.loop.steps,
        step_bases=run.step_bases,
        device=run.device,
    )

    def validate(step: int) -> None:
        monitor.validated(step, run.score())

    def save(step: int) -> None:
        write_state(run.folder, step, run.model, optimizer, settings)
        _save_model(run, step, {})

    with stop_on_signal() as stop:
        try:
            done = fit(
                run.model,
                optimizer,
                run.objective(run.config.soft_mask_weight),
                feed(
                    run.windows,
                    range(start, run.loop.steps),
                    run.loop.batch,
                    workers=workers,
                    pin=run.device.type == "cuda",
                ),
                Callbacks(monitor.report, validate, save),
                start=start,
                config=run.loop,
                optimizer_config=run.config.optimizer,
                device=run.device,
                stop=stop,
                autocast=run.autocast,
            )
        except DivergedError as error:
            raise _explain(run, error) from error
        except torch.OutOfMemoryError as error:
            raise DnamambaError(
                f"{run.device} is out of memory: go on with --resume and a smaller --micro-batch "
                f"than {run.loop.micro_batch}"
            ) from error
        finally:
            monitor.close()
    if done < run.loop.steps:
        logger.info(
            "stopped after step %s of %s; the same command with --resume goes on with %s",
            f"{done:,}",
            f"{run.loop.steps:,}",
            run.folder,
        )
        return 130 if stop.signal == signal.SIGINT else 0
    _finish(run, baselines, monitor)
    return 0


def _identity(run: Run) -> dict[str, Any]:
    """Return what a training state belongs to: the settings that decide on weights, the inputs."""
    settings = flatten(to_dict(run.config))
    kept = {name: value for name, value in settings.items() if name not in MAY_CHANGE}
    return {**kept, "inputs": [entry["sha256"] for entry in run.inputs]}


@dataclass(frozen=True)
class Baselines:
    """Markov models of order 0 to 12, fitted where the model trains, scored where it is scored.

    Attributes
    ----------
    scores
        Order 0 first.
    bases
        Bases they were fitted on.
    seconds
        Time it took.
    """

    scores: list[Score]
    bases: int
    seconds: float

    def results(self) -> list[Result]:
        """Return a row for each order."""
        return [
            summarise(f"order-{order} Markov", score, self.bases, self.seconds)
            for order, score in enumerate(self.scores)
        ]


def _baselines(run: Run) -> Baselines:
    """Fit and score the Markov models; a resume reads the scores back."""
    path = run.folder / "baselines.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as saved:
            scores = [Score(bits, saved["counts"]) for bits in saved["bits"]]
            return Baselines(scores, int(saved["bases"]), float(saved["seconds"]))
    began = time.monotonic()
    sources = run.windows.sources
    bases = sum(len(region) for source in sources for region in source.regions)
    logger.info("fitting Markov models of order 0 to 12 on %sb, both strands", count_text(bases))
    markov = Markov.fit(
        source.store.codes(region.contig)[region.start : region.end]
        for source in sources
        for region in source.regions
    )
    scores = score_baseline(markov, run.held_out, run.objective(1.0))
    baselines = Baselines(scores, bases, time.monotonic() - began)
    write_results(run.folder / "baselines.tsv", baselines.results())
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez(
            handle,
            bits=np.stack([score.bits for score in scores]),
            counts=scores[0].bases,
            bases=bases,
            seconds=baselines.seconds,
        )
    order = best_order(scores)
    logger.info(
        "the best has order %d: held out %.4f bits per base (%s)",
        order,
        scores[order].bits_per_base,
        duration_text(baselines.seconds),
    )
    return baselines


def _explain(run: Run, error: DivergedError) -> DnamambaError:
    """Say where the loss left the finite numbers, and what to do."""
    first = [run.windows.window(error.step - 1, index) for index in range(min(3, run.loop.batch))]
    names = ", ".join(str(window.region) for window in first)
    more = f" and {run.loop.batch - len(first)} more" if run.loop.batch > len(first) else ""
    return DnamambaError(
        f"{error} (windows {names}{more}): start again with a lower --lr than "
        f"{run.config.optimizer.lr:g}, or with --precision fp32; the last good checkpoint "
        f"in {run.folder} is kept"
    )


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


def _finish(run: Run, baselines: Baselines, monitor: Monitor) -> None:
    """Score the model, write card, picture and results, and print the table."""
    score = run.score()
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
