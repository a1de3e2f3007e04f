"""Training a classifier, calibrating it, and leaving it in its folder."""

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.config import to_dict
from dnamamba.evaluation.calls import temperature_for, threshold_for
from dnamamba.evaluation.language import Score
from dnamamba.log import logger, read_metrics
from dnamamba.models import pretrained
from dnamamba.models.classifier import Head, load_classifier, save_classifier
from dnamamba.pipelines.classify_job import Fit, calls_of
from dnamamba.pipelines.classify_probe import (
    fit_head,
    species_of,
    standardise,
    windows_affordable,
)
from dnamamba.pipelines.fitting import METRICS, fit_job, say_stopped
from dnamamba.pipelines.resume import flatten
from dnamamba.training.monitor import Monitor
from dnamamba.training.optimizer import build_optimizer
from dnamamba.training.rollback import Checkpoints
from dnamamba.training.signals import Interruption, stop_on_signal

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
    best = math.inf

    def keep_best(score: Score) -> None:
        nonlocal best
        if score.bits_per_base < best:
            best = score.bits_per_base
            save_classifier(fit.classifier, fit.folder, _card(fit, {}))

    with stop_on_signal() as stop:
        try:
            first = None
            if not start:
                if fit.config.model:
                    head = fit_head(fit, fit.length)
                    fit.classifier.head.load_state_dict(head.state_dict())
                else:
                    standardise(fit)
                first = fit.score(stop)
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
            if first:
                monitor.validated(0, first)
                keep_best(first)
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


def calibrate(fit: Fit) -> None:
    """Choose the head and the temperature of each context, and the threshold of `unsure`.

    A head is either the one that was trained, centred at its context, or one fitted anew on the
    embeddings of the finished backbone: the one that is better on the valid side.
    """
    classifier = fit.classifier
    config, trained = classifier.config, copy.deepcopy(classifier.head)
    temperatures = []
    for context, head in zip(config.contexts, classifier.heads, strict=True):
        windows = fit.valid_windows(context)
        valid, wanted = fit.embeddings(fit.sides.valid, windows), species_of(windows)
        shares = len(config.contexts)
        candidates = [fit_head(fit, context, valid, wanted, shares)]
        if not fit.config.freeze:
            fit.centre(trained, context, windows_affordable(fit, context, shares))
            candidates.append(trained)
        calls = [
            calls_of(fit.sides, fit.sides.valid, windows, _probabilities(candidate, valid))
            for candidate in candidates
        ]
        suited = [temperature_for(each) for each in calls]
        best, number = min(
            (each.tempered(temperature).log_loss, number)
            for number, (each, temperature) in enumerate(zip(calls, suited, strict=True))
        )
        temperatures.append(suited[number])
        head.load_state_dict(candidates[number].state_dict())
        if not fit.config.freeze:
            logger.info(
                "at %s bases the head that was %s is better: %.4f bits a valid window",
                *(f"{context:,}", ("fitted anew", "trained")[number], best / math.log(2)),
            )
    threshold = threshold_for(calls[number].tempered(temperatures[-1]), fit.config.target)
    classifier.config = dataclasses.replace(
        config,
        temperatures=tuple(temperatures),
        threshold=threshold if math.isfinite(threshold) else None,
    )


@torch.no_grad()
def _probabilities(head: Head, features: NDArray[np.float32]) -> NDArray[np.float64]:
    logits = head(torch.from_numpy(features).to(head.weight.device))
    return torch.softmax(logits.double(), 1).cpu().numpy()


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
