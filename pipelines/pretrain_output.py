"""What a pretraining run leaves in its folder: the model with its card, results, plots, a table."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dnamamba.evaluation.language import Score
from dnamamba.evaluation.plots import plot_run
from dnamamba.evaluation.report import (
    COLUMNS,
    Result,
    best_order,
    summarise,
    verdict,
    write_results,
)
from dnamamba.log import logger
from dnamamba.models import pretrained
from dnamamba.models.heads import LanguageModel
from dnamamba.pipelines.baselines import Baselines
from dnamamba.pipelines.fitting import RESULTS
from dnamamba.pipelines.table import print_table

if TYPE_CHECKING:
    from dnamamba.pipelines.pretrain_run import Run


def save_model(
    run: "Run", model: LanguageModel, step: int, figures: Mapping[str, float] | None = None
) -> None:
    """Write the model and its card into the run folder.

    Parameters
    ----------
    run
        Whose folder, and what the card tells.
    model
        Its model, with whole weights.
    step
        Steps done.
    figures
        Held-out figures for the card.
    """
    card = pretrained.model_card(
        model,
        name=run.name,
        data=[f"`{Path(entry['path']).name}` (SHA-256 {entry['sha256']})" for entry in run.inputs],
        metrics=figures or {},
        notes=f"Trained for {step:,} of {run.loop.steps:,} steps of {run.step_bases:,} bases, "
        f"windows of {run.windows.length:,}; see config.toml and split.bed.",
    )
    pretrained.save(model, run.folder, card)


def finish(
    run: "Run", model: LanguageModel, score: Score, baselines: Baselines, seconds: float
) -> None:
    """Write the model's card, plots and results, and print the table.

    Parameters
    ----------
    run, model
        As for `save_model`.
    score, baselines
        How it does, and what it is compared with.
    seconds
        What training took.
    """
    result = summarise(run.name, score, run.loop.steps * run.step_bases, seconds)
    rows = baselines.results()
    order = best_order(baselines.scores)
    save_model(
        run,
        model,
        run.loop.steps,
        {
            "bits per base": score.bits_per_base,
            "perplexity": score.perplexity,
            "accuracy": score.accuracy,
            f"bits per base, order-{order} Markov (the best)": rows[order].bits_per_base,
        },
    )
    shown = [rows[index] for index in sorted({0, order})]
    plot_run(run.folder)
    write_results(run.folder / RESULTS, [result, *rows])
    print_table(COLUMNS, [_row(row) for row in (result, *shown)])
    logger.info(verdict(run.name, score, baselines.scores))
    if run.config.objective == "masked":
        logger.info("mind that Markov models see the bases before; the model sees both sides")
    logger.info("the model is in %s; dnamamba info %s describes it", run.folder, run.folder)


def _row(result: Result) -> list[str | int | float]:
    *figures, accuracy, bases, seconds = dataclasses.astuple(result)
    return [*figures, "-" if math.isnan(accuracy) else accuracy, bases, round(seconds, 1)]
