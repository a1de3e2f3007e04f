"""Training a predictor, keeping the best, and the end where nothing gets better."""

import math
from pathlib import Path
from typing import Any, Final

from dnamamba.config import to_dict
from dnamamba.evaluation.language import Score
from dnamamba.log import logger, read_metrics
from dnamamba.models import pretrained
from dnamamba.models.precision import scaler_for
from dnamamba.models.predictor import save_predictor
from dnamamba.pipelines.finetune_head import fit_head
from dnamamba.pipelines.finetune_job import Fit
from dnamamba.pipelines.fitting import METRICS, fit_job, say_stopped
from dnamamba.pipelines.resume import flatten
from dnamamba.training.monitor import Monitor
from dnamamba.training.optimizer import build_optimizer
from dnamamba.training.rollback import Checkpoints
from dnamamba.training.signals import Interruption, stop_on_signal

MAY_CHANGE: Final = frozenset(
    {
        *("micro_batch", "recompute", "backend", "checkpoint_every", "model", "genome", "tracks"),
        "patience",
    }
)
"""Settings that a resume may change: they decide where and for how long, not what is learnt. The
model, the genome and tracks are among them because their checksums are among the inputs'."""


class _EnoughError(Exception):
    """As many validations as patience allows have brought nothing better."""


class Keeper:
    """Keeps the model that is best on the valid side in the run folder.

    Parameters
    ----------
    fit
        What is trained.
    past
        The bits of the validations before a resume.
    """

    def __init__(self, fit: Fit, past: list[float]) -> None:
        self._fit = fit
        self._best = min(past, default=math.inf)
        self._since = len(past) - past.index(self._best) - 1 if past else 0

    def __call__(self, score: Score) -> None:
        """Look at a validation.

        Raises
        ------
        _EnoughError
            Where patience has an end.
        """
        if score.bits_per_base < self._best:
            self._best, self._since = score.bits_per_base, 0
            save(self._fit, {})
            return
        self._since += 1
        if self._since >= self._fit.config.patience:
            raise _EnoughError


def train(fit: Fit) -> int | None:
    """Train from the last good checkpoint to the end, or to a signal.

    The predictor in the run folder is the best so far on the valid side.

    Returns
    -------
    None if it is trained to the end, or the exit code after a signal.
    """
    optimizer = build_optimizer(fit.predictor, fit.optimizer, fit.config.optimizer_bits)
    scaler = scaler_for(fit.precision, fit.device)
    checkpoints = Checkpoints(fit.folder, fit.predictor, optimizer, _identity(fit), scaler=scaler)
    start = done = checkpoints.restore()
    if start:
        logger.info("going on from step %s of %s", f"{start:,}", f"{fit.loop.steps:,}")
    with stop_on_signal() as stop:
        try:
            first = None
            if not start:
                fit_head(fit)
                first = fit.score(stop)
            monitor = Monitor(
                fit.folder / METRICS,
                start=start,
                steps=fit.loop.steps,
                bases=fit.bases,
                device=fit.device,
                verb="finetune",
                unit=fit.unit,
            )
            keep_best = Keeper(fit, _validations(fit.folder / METRICS))
            if first:
                monitor.validated(0, first)
                keep_best(first)
            done = fit_job(
                fit,
                fit.predictor,
                optimizer,
                checkpoints,
                monitor,
                stop,
                start=start,
                workers=0,
                validated=keep_best,
                scaler=scaler,
            )
            if done == fit.loop.steps:
                score = fit.score(stop)
                monitor.validated(done, score)
                keep_best(score)
                return None
        except _EnoughError:
            logger.info(
                "stopped early: the last %d validations brought nothing better; the best is kept",
                fit.config.patience,
            )
            return None
        except Interruption:
            pass  # what was broken off is begun again by a resume
    return say_stopped(fit, done, stop)


def save(fit: Fit, figures: dict[str, float]) -> None:
    """Write the predictor as it is, with its card."""
    save_predictor(fit.predictor, fit.folder, card_of(fit, figures), fit.adapters)


def card_of(fit: Fit, figures: dict[str, float]) -> str:
    """Write the model card."""
    config, about = fit.config, fit.predictor.config
    how = {
        "full": "the whole model was trained",
        "frozen": "a head on the hidden states of a model that stood still",
        "lora": f"a head and LoRA of rank {config.rank}",
        "dora": f"a head and DoRA of rank {config.rank}",
    }[config.method]
    kept = "" if config.weights == "fp32" else f", beside weights in {config.weights}"
    space = ", and the state spaces' own parameters" if config.state_space else ""
    base = "" if about.base is None else f" The weights of `{about.base}` are not in this folder."
    return pretrained.model_card(
        fit.predictor.language,
        name=f"Predictor of {', '.join(about.names)}",
        data=[f"`{Path(entry['path']).name}` (SHA-256 {entry['sha256']})" for entry in fit.inputs],
        metrics=figures,
        notes=f"Fitted on {len(fit.sides.train):,} sequences ({how}{space}{kept}), and chosen on "
        f"{len(fit.sides.valid):,}.{base} `dnamamba predict` uses it.",
    )


def _validations(path: Path) -> list[float]:
    return [float(value) for value in read_metrics(path).get("valid_bits", []) if value]


def _identity(fit: Fit) -> dict[str, Any]:
    """Return what a training state belongs to: the settings that decide on weights, the inputs."""
    settings = flatten(to_dict(fit.config))
    kept = {name: value for name, value in settings.items() if name not in MAY_CHANGE}
    return {**kept, "inputs": [entry["sha256"] for entry in fit.inputs]}
