"""What a fitted classifier is worth: test windows at each context, controls, plots and a page."""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from dnamamba.alphabet import Codes
from dnamamba.data.overlap import Overlap
from dnamamba.data.tracks import (
    LabelledWindow,
    Tracks,
    describe,
    locus_text,
    read,
    spread,
    tile_tracks,
)
from dnamamba.evaluation.calls import Calls
from dnamamba.evaluation.contest import (
    COLUMNS,
    Contest,
    Place,
    Row,
    own,
    percent,
    rows,
    verdict,
    write_calls,
    write_contests,
)
from dnamamba.evaluation.contest_file import load_contests, save_contests
from dnamamba.evaluation.controls import CONTROLS, tune_control
from dnamamba.evaluation.page import write_page
from dnamamba.evaluation.plots import plot_run
from dnamamba.evaluation.plots_calls import plot_confusion, plot_contexts, plot_reliability
from dnamamba.log import logger, progress
from dnamamba.pipelines.classify_config import contexts_of
from dnamamba.pipelines.classify_evidence import longer_contests, with_enough
from dnamamba.pipelines.classify_job import Fit, calls_of
from dnamamba.pipelines.classify_run import save
from dnamamba.pipelines.fitting import METRICS, PAGE, RESULTS
from dnamamba.pipelines.table import print_table

CALLS: Final = "calls.tsv"
CONTESTS: Final = "contests.npz"
MODEL: Final = "the model"
CONTROL_WINDOWS: Final = 1 << 14
"""Windows that a control is fitted on, at most."""
CONTROL_BASES: Final = 1 << 25
"""Bases that a control is fitted on, at most."""


def run_contests(fit: Fit) -> tuple[list[Contest], list[Place]]:
    """Test the model and the controls on the same windows, at each context.

    The controls are fitted on windows of the training side, and tuned on the valid side, as the
    model is.

    Returns
    -------
    A contest for each context; and where the windows of the model's own lie. Longer contexts follow
    where their windows are tested anyway: evidence of these is combined, as for a long record.
    """
    contests = []
    for length in contexts_of(fit.length):
        test = fit.sides.test
        most = (fit.config.test_windows or 1) * fit.length // length
        windows = spread(tile_tracks(test, length), most)
        logger.info("testing on %s windows of %s bases", f"{len(windows):,}", f"{length:,}")
        model = fit.calls(test, windows)
        contests.append(Contest(length, model, _controls(fit, length, windows)))
    contests += longer_contests(contests[-1], test, windows)
    places = [Place(locus_text(test, window), describe(test, window)) for window in windows]
    return contests, places


def _controls(fit: Fit, length: int, windows: Sequence[LabelledWindow]) -> dict[str, Calls]:
    sides = fit.sides
    count = min(CONTROL_WINDOWS, CONTROL_BASES // length) // len(sides.species)
    train, labels = _sample(sides.train, length, max(1, count))
    valid, wanted = _sample(sides.valid, length, max(1, count // 2))
    codes = _read_all(sides.test, windows)
    found = {}
    with progress(len(CONTROLS), "controls", "control") as bar:
        for name in CONTROLS:
            classes = len(sides.species)
            control = tune_control(
                name, train, labels, valid, wanted, classes=classes, threads=torch.get_num_threads()
            )
            found[name] = calls_of(sides, sides.test, windows, control.probabilities(codes))
            bar.update()
    return found


def _sample(species: Tracks, length: int, most: int) -> tuple[list[Codes], np.ndarray]:
    windows = spread(tile_tracks(species, length), most)
    return _read_all(species, windows), np.array([window.species for window in windows])


def _read_all(species: Tracks, windows: Sequence[LabelledWindow]) -> list[Codes]:
    return [read(species, window).numpy() for window in windows]


def finish(
    fit: Fit, contests: Sequence[Contest], places: Sequence[Place], overlap: Overlap
) -> None:
    """Leave the finished classifier, its tables, plots and page."""
    contest = own(contests)
    accuracy, low, high = contest.model.accuracy
    best = contest.controls[contest.best].accuracy.estimate
    save(
        fit,
        {
            "accuracy": accuracy,
            "accuracy, low": low,
            "accuracy, high": high,
            "macro F1": contest.model.macro_f1,
            f"accuracy of {contest.best}, the best control": best,
        },
    )
    save_contests(fit.folder / CONTESTS, contests, places)
    write_report(fit.folder, contests, places, _facts(fit, contest, overlap), _notes(fit, contest))


def write_report(
    folder: Path,
    contests: Sequence[Contest],
    places: Sequence[Place],
    facts: Mapping[str, str],
    notes: Sequence[str],
) -> None:
    """Write calls, plots, the page and, as it says that all is done, the results.

    Parameters
    ----------
    folder
        The run folder.
    contests, places
        As `run_contests` gives them.
    facts, notes
        For the page.
    """
    contest = own(contests)
    reported = with_enough(contests)
    table = rows(reported, MODEL)
    write_calls(folder / CALLS, contest, places)
    trained = [METRICS] if (folder / METRICS).exists() else []  # a probe is not
    write_page(
        folder / PAGE,
        title=f"Telling {', '.join(contest.model.classes)} apart",
        verdict=verdict(reported, MODEL),
        facts=facts,
        table=table,
        images=_plots(folder, contest, table),
        notes=notes,
        files=[RESULTS, CALLS, *trained, "config.toml", "run.json"],
    )
    write_contests(folder / RESULTS, table)


def show(folder: Path) -> None:
    """Print the table of a finished run, and say what came of it."""
    contests = with_enough(load_contests(folder / CONTESTS)[0])
    print_table(COLUMNS, [_cells(row) for row in rows(contests, MODEL)])
    logger.info(verdict(contests, MODEL))
    logger.info("the report is %s", folder / PAGE)


def _cells(row: Row) -> list[str | int | float]:
    values = [getattr(row, name) for name in COLUMNS]
    return ["-" if isinstance(value, float) and math.isnan(value) else value for value in values]


def _plots(folder: Path, contest: Contest, table: Sequence[Row]) -> dict[str, Path]:
    """Draw what there is to draw, where matplotlib is installed; caption to PNG."""
    trained = (folder / METRICS).exists()  # a probe is not
    if trained:
        plot_run(folder, "window", math.log2(len(contest.model.classes)))
    if importlib.util.find_spec("matplotlib") is None:
        return {}
    contexts, confusion, reliability = (
        folder / f"{name}.png" for name in ("contexts", "confusion", "reliability")
    )
    plot_contexts(table, contexts, contest.chance)
    plot_confusion(contest.model, confusion)
    plot_reliability(contest.model, reliability)
    images = {
        "Accuracy by context": contexts,
        "True and called species": confusion,
        "Confidence and accuracy": reliability,
    }
    return {**images, "Loss in training": folder / "loss.png"} if trained else images


def _facts(fit: Fit, contest: Contest, overlap: Overlap) -> dict[str, str]:
    config, classifier = fit.config, fit.classifier
    start = fit.inputs[-1]["path"] if config.model else "from scratch"
    how = "frozen; a linear probe on its embeddings" if config.freeze else "trained as a whole"
    threshold = classifier.config.threshold
    loci = {
        side: sum(track.length for tracks in getattr(fit.sides, side) for track in tracks)
        for side in ("train", "valid", "test")
    }
    return {
        "Species": ", ".join(fit.sides.species),
        "Context": f"{fit.length:,} bases",
        "Sides": fit.sides.how,
        "Bases": ", ".join(f"{side} {bases:,}" for side, bases in loci.items()),
        "Left out of train as homologous to what is held out": f"{percent(fit.sides.removed)} %",
        "Test windows whose k-mers train has": f"{overlap.found:,} of {overlap.windows:,} "
        f"({percent(overlap.share)} % of all k-mers)",
        "Backbone": f"{start}, {how}; {classifier.language.parameters_count:,} parameters",
        "Head": f"on the {config.pool} of the hidden states"
        if config.pool != "both"
        else "on the last and the mean hidden state",
        "Seed": str(config.seed),
        "Temperature": ", ".join(
            f"{classifier.config.temperature(length):.3g} at {length:,} bases"
            for length in classifier.config.contexts
        ),
        "Unsure below": "every call: no threshold made enough of them right on the valid side"
        if threshold is None
        else f"{threshold:.3f}, from where on {percent(config.target)} % of the valid calls are "
        "right",
        "Sure calls on the test side": _sure(contest.model, threshold),
    }


def _sure(calls: Calls, threshold: float | None) -> str:
    sure = calls.probabilities.max(1) >= (np.inf if threshold is None else threshold)
    if not sure.any():
        return "none"
    right = percent(float(calls.correct[sure].mean()))
    return f"{percent(float(sure.mean()))} % of the windows, {right} % of them right"


def _notes(fit: Fit, contest: Contest) -> list[str]:
    notes = [
        "Runs of N are cut out of all windows: how many a genome has tells how it was sequenced.",
        "Intervals resample loci, not windows: homologous windows are no independent witnesses.",
        "The controls are fitted on the same sides as the model: on windows of train, their "
        "settings chosen on valid.",
        "The model of the report is the best on the valid side, which its temperatures and the "
        "threshold of unsure were chosen on, too; the test side was read once, at the end.",
        "It knows the species above and no other: what belongs to none of them is at best unsure.",
    ]
    if contest.length > contexts_of(contest.length)[0]:
        notes.append(
            f"Shorter contexts are read by the same backbone, which was fitted on {fit.length:,} "
            "bases, each with a head of its own."
        )
    notes.append(
        f"Longer contexts combine the evidence of windows of {fit.length:,} bases, as calls of "
        "long records do; the controls' likewise."
    )
    return notes
