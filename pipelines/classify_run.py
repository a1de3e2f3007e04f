"""A classifier's fit that is set up: trained, or probed; calibrated; saved."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnamamba.config import to_dict
from dnamamba.data.feeder import feed
from dnamamba.data.tracks import (
    LabelledWindow,
    LabelledWindows,
    Tracks,
    describe,
    group_by_locus,
    read,
    spread,
    tile_tracks,
)
from dnamamba.evaluation.calls import Calls, temperature_for, threshold_for
from dnamamba.evaluation.language import Autocast, Objective, Score
from dnamamba.inference.classify import BATCH_BASES, classify_windows, embed_windows
from dnamamba.log import logger, read_metrics
from dnamamba.models import pretrained
from dnamamba.models.classifier import Classifier, load_classifier, save_classifier
from dnamamba.pipelines.classify_config import ClassifyConfig, selecting_windows, stages_of
from dnamamba.pipelines.classify_data import Sides
from dnamamba.pipelines.fitting import METRICS, fit_job, say_stopped
from dnamamba.pipelines.resume import flatten
from dnamamba.processes import ALONE, Processes
from dnamamba.training.loop import LoopConfig, autocast_to
from dnamamba.training.monitor import Monitor
from dnamamba.training.objectives import Label
from dnamamba.training.optimizer import OptimizerConfig, build_optimizer
from dnamamba.training.rollback import Checkpoints
from dnamamba.training.signals import Interruption, StopRequest, stop_on_signal
from dnamamba.training.stages import Stage

MAY_CHANGE: Final = frozenset(
    {
        "micro_batch",
        "recompute",
        "backend",
        "validate_every",
        "checkpoint_every",
        "test_windows",
        "target",
        "split",
        "synteny",
    }
)
"""Settings that a resume may change: they decide where and when, not what is learnt. The paths are
among them because the files' checksums are among those of the inputs."""
PROBED_BASES: Final = 1 << 26
"""Training bases that a probe is fitted on, at most."""
STRENGTHS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse strengths of a probe's penalty to choose from."""


@dataclass(frozen=True)
class Fit:
    """All that a classifier is made of, once it is set up."""

    folder: Path
    config: ClassifyConfig
    inputs: list[dict[str, Any]]
    sides: Sides
    classifier: Classifier
    device: torch.device

    @property
    def length(self) -> int:
        """Bases of a window."""
        return self.classifier.config.length

    @property
    def loop(self) -> LoopConfig:
        """How the run is cut into steps."""
        config = self.config
        return LoopConfig(
            steps=config.steps or 1,
            batch=config.batch or 1,
            micro_batch=config.micro_batch or 1,
            length=self.length,
            validate_every=config.validate_every or 1,
            checkpoint_every=config.checkpoint_every or 1,
        )

    @property
    def optimizer(self) -> OptimizerConfig:
        """AdamW and its schedule."""
        return self.config.optimizer

    @property
    def precision(self) -> str:
        """Of a forward pass."""
        return self.config.precision

    @property
    def processes(self) -> Processes:
        """Who trains it: one process."""
        return ALONE

    @property
    def autocast(self) -> Autocast:
        """The context of a forward pass."""
        return autocast_to(self.config.precision, self.device)

    @property
    def windows(self) -> LabelledWindows:
        """What is trained on."""
        return LabelledWindows(
            self.sides.train,
            self.length,
            seed=self.config.seed,
            by_track=self.config.recipe == "paper",
        )

    @property
    def trained_on(self) -> Objective:
        """The classes of the training windows."""
        return Label(self.classifier.tokens, self.windows.label)

    @property
    def stages(self) -> list[Stage]:
        """The stages of its length warm-up, or one."""
        return stages_of(self.config)

    def bases(self, steps: int) -> int:
        """Count the bases that the first steps read."""
        inside = (
            (len(stage.steps[: max(0, steps - stage.steps.start)]), stage) for stage in self.stages
        )
        return sum(count * stage.batch * stage.length for count, stage in inside)

    def batches(self, start: int, workers: int) -> Iterator[Tensor]:
        """Read the batch of each step from `start` on."""
        windows = self.windows
        for stage in self.stages:
            if start < stage.steps.stop:
                yield from feed(
                    windows.of_length(stage.length),
                    range(max(start, stage.steps.start), stage.steps.stop),
                    stage.batch,
                    workers=workers,
                    pin=self.device.type == "cuda",
                )

    def windows_of(self, step: int) -> Iterator[str]:
        """Tell which windows a step reads."""
        for stage in self.stages:
            if step in stage.steps:
                windows = self.windows.of_length(stage.length)
                for index in range(stage.batch):
                    yield describe(windows.species, windows.window(step, index))

    def probabilities(
        self, species: Tracks, windows: Sequence[LabelledWindow]
    ) -> NDArray[np.float64]:
        """Classify windows, (windows, classes)."""
        codes = (read(species, window).numpy() for window in windows)
        found = classify_windows(
            self.classifier,
            codes,
            device=self.device,
            batch_bases=self.batch_bases,
            autocast=self.autocast,
        )
        return np.stack(list(found))

    @property
    def batch_bases(self) -> int:
        """Bases that are read at once where no gradient is asked for."""
        return BATCH_BASES.get(self.device.type, BATCH_BASES["cpu"])

    def calls(self, species: Tracks, windows: Sequence[LabelledWindow]) -> Calls:
        """Classify windows of known species."""
        return calls_of(self.sides, species, windows, self.probabilities(species, windows))

    def score(self, stop: StopRequest) -> Score:
        """Score the model on as many valid windows as training can wait for; bits a window."""
        with stop.breaks_off():
            most = selecting_windows(self.config, len(self.sides.species))
            calls = self.calls(self.sides.valid, spread(self.valid_windows(), most))
            stop.check(self.processes)
        chosen = calls.probabilities[np.arange(len(calls.labels)), calls.labels]
        bits = -np.log2(np.maximum(chosen, np.finfo(float).tiny))
        return Score(bits, np.ones(len(bits), np.int64), float(calls.correct.mean()))

    def valid_windows(self) -> list[LabelledWindow]:
        """Return the windows that the model is calibrated on, and chosen on some of."""
        return spread(tile_tracks(self.sides.valid, self.length), self.config.test_windows or 1)

    def save_model(self, step: int) -> None:
        """Write nothing: `train` keeps the model that is best on the valid side."""


def calls_of(
    sides: Sides,
    species: Tracks,
    windows: Sequence[LabelledWindow],
    probabilities: NDArray[np.float64],
) -> Calls:
    """Put the probabilities of windows beside their species and loci."""
    return Calls(
        sides.species,
        probabilities,
        np.array([window.species for window in windows]),
        np.array(group_by_locus(species, windows)),
    )


def train(fit: Fit, workers: int) -> int | None:
    """Train from the last good checkpoint to the end, or to a signal.

    The model in the run folder is the best so far on the valid side; at the end it is the one that
    `fit.classifier` holds.

    Returns
    -------
    None if it is trained to the end, or the exit code after a signal.
    """
    optimizer = build_optimizer(fit.classifier, fit.optimizer)
    checkpoints = Checkpoints(fit.folder, fit.classifier, optimizer, _identity(fit))
    start = done = checkpoints.restore()
    if start:
        logger.info("going on from step %s of %s", f"{start:,}", f"{fit.loop.steps:,}")
    monitor = Monitor(
        fit.folder / METRICS,
        start=start,
        steps=fit.loop.steps,
        bases=fit.bases,
        device=fit.device,
        verb="classify",
        unit="window",
    )
    best = _best_before(fit.folder / METRICS)

    def keep_best(score: Score) -> None:
        nonlocal best
        if score.bits_per_base < best:
            best = score.bits_per_base
            save_classifier(fit.classifier, fit.folder, _card(fit, {}))

    with stop_on_signal() as stop:
        try:
            done = fit_job(
                fit,
                fit.classifier,
                optimizer,
                checkpoints,
                monitor,
                stop,
                start=start,
                workers=workers,
                validated=keep_best,
            )
            if done == fit.loop.steps:
                score = fit.score(stop)
                monitor.validated(done, score)
                keep_best(score)
                monitor.log_pace(workers)
                kept = load_classifier(fit.folder, fit.device)
                fit.classifier.load_state_dict(kept.state_dict())
                return None
        except Interruption:
            pass  # what was broken off is begun again by a resume
    return say_stopped(fit, done, stop)


def probe(fit: Fit) -> None:
    """Fit the head alone: logistic regression on embeddings, its penalty chosen on the valid side.

    The features of both strands are averaged, and standardised; what is kept is a linear head.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    most = max(1, PROBED_BASES // (fit.length * len(fit.sides.species)))
    windows = spread(tile_tracks(fit.sides.train, fit.length), most)
    logger.info("embedding %s windows for the probe", f"{len(windows):,}")
    train, labels = _embedded(fit, fit.sides.train, windows)
    valid, wanted = _embedded(fit, fit.sides.valid, fit.valid_windows())
    scaler = StandardScaler().fit(train)
    best: tuple[float, Any] = (math.inf, None)
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=2000).fit(scaler.transform(train), labels)
        logs = np.log(np.maximum(model.predict_proba(scaler.transform(valid)), 1e-12))
        loss = float(-logs[np.arange(len(wanted)), wanted].mean())
        logger.debug("probe: C %g, log loss %.4f", strength, loss)
        if loss < best[0]:
            best = loss, model
    model = best[1]
    weight, bias = model.coef_, model.intercept_
    if len(fit.sides.species) == 2:  # one row, of the second class against the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    with torch.no_grad():
        fit.classifier.head.weight.copy_(torch.from_numpy(weight))
        fit.classifier.head.bias.copy_(torch.from_numpy(bias))


def _embedded(
    fit: Fit, species: Tracks, windows: Sequence[LabelledWindow]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    codes = (read(species, window).numpy() for window in windows)
    found = embed_windows(
        fit.classifier,
        codes,
        device=fit.device,
        batch_bases=fit.batch_bases,
        autocast=fit.autocast,
    )
    return np.stack(list(found)), np.array([window.species for window in windows])


def calibrate(fit: Fit) -> Calls:
    """Choose the temperature and the threshold of `unsure` on the valid side.

    Returns
    -------
    Its calls, calibrated.
    """
    calls = fit.calls(fit.sides.valid, fit.valid_windows())
    temperature = temperature_for(calls)
    fit.classifier.config = dataclasses.replace(fit.classifier.config, temperature=temperature)
    calibrated = fit.calls(fit.sides.valid, fit.valid_windows())
    threshold = threshold_for(calibrated, fit.config.target)
    fit.classifier.config = dataclasses.replace(
        fit.classifier.config, threshold=threshold if math.isfinite(threshold) else None
    )
    return calibrated


def save(fit: Fit, figures: dict[str, float]) -> None:
    """Write the finished classifier, with its card."""
    save_classifier(fit.classifier, fit.folder, _card(fit, figures))


def _card(fit: Fit, figures: dict[str, float]) -> str:
    how = "a probe on frozen embeddings" if fit.config.freeze else f"{fit.loop.steps:,} steps"
    return pretrained.model_card(
        fit.classifier.language,
        name=f"Classifier of {', '.join(fit.sides.species)}",
        data=[f"`{Path(entry['path']).name}` (SHA-256 {entry['sha256']})" for entry in fit.inputs],
        metrics=figures,
        notes=f"Fitted on windows of {fit.length:,} bases ({how}); classifier.json has its "
        "classes, report.html what its calls are worth. It knows these classes only: what belongs "
        "to none of them is at best `unsure`.",
    )


def _best_before(path: Path) -> float:
    bits = read_metrics(path).get("valid_bits", [])
    return min((float(value) for value in bits if value), default=math.inf)


def _identity(fit: Fit) -> dict[str, Any]:
    """Return what a training state belongs to: the settings that decide on weights, the inputs."""
    settings = flatten(to_dict(fit.config))
    kept = {name: value for name, value in settings.items() if name not in MAY_CHANGE}
    return {**kept, "inputs": [entry["sha256"] for entry in fit.inputs]}
