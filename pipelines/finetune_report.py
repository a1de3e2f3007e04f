"""What a fine-tuning leaves: measures with intervals, beside k-mers, predictions and plots."""

import dataclasses
import importlib.util
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.data.outcomes import Outcomes
from dnamamba.data.regions import PLACE
from dnamamba.evaluation.calls import Calls
from dnamamba.evaluation.controls import KMERS, tune_control
from dnamamba.evaluation.intervals import block_bootstrap
from dnamamba.evaluation.metrics import measure
from dnamamba.evaluation.metrics_bases import measure_bases
from dnamamba.evaluation.plots import plot_run
from dnamamba.evaluation.plots_calls import plot_confusion, plot_reliability
from dnamamba.files import write_text
from dnamamba.inference.stability import measure_divergence
from dnamamba.models.predictor import load_predictor
from dnamamba.pipelines.finetune_job import Fit, score_of
from dnamamba.pipelines.finetune_rows import (
    REGION,
    base_rows,
    predicted_cells,
    predicted_columns,
    region_cells,
    wanted_columns,
    write_rows,
)
from dnamamba.pipelines.finetune_run import card_of
from dnamamba.pipelines.finetune_sides import Side
from dnamamba.pipelines.finetune_tested import save_tested
from dnamamba.pipelines.fitting import METRICS, RESULTS
from dnamamba.pipelines.table import Cell, print_table

PREDICTIONS: Final = "predictions.tsv"
BASES: Final = "predictions.tsv.gz"
"""Of each base."""
MODEL: Final = "the model"
PERTURBED: Final = 256
"""Sequences that two precisions are compared on, at most."""
K: Final = 5
"""Of the k-mers beside the model."""
CONTROL: Final = f"{K}-mers"


@dataclass(frozen=True)
class Result:
    """One measure of one predictor on one side; bounds are of its 95 % interval."""

    side: str
    sequences: int
    name: str
    measure: str
    value: float
    low: float
    high: float


COLUMNS: Final = tuple(field.name for field in dataclasses.fields(Result))


def finish(fit: Fit) -> None:
    """Measure the predictor that was kept, and leave its tables, plots and card.

    Classes have k-mers beside them, which are fitted on the same rows and tuned on the same ones.
    """
    kept = load_predictor(fit.folder, fit.device, base=fit.config.model)
    kept.language.backend = fit.config.backend
    fit = dataclasses.replace(fit, predictor=kept, adapters=None)
    sides = {"valid": fit.sides.valid}
    if fit.sides.test is not None:
        sides["test"] = fit.sides.test
        if 0 < fit.sides.new.sum() < len(fit.sides.new):
            sides["test, new"] = fit.sides.test.of(np.flatnonzero(fit.sides.new))
    found = {name: fit.predictions(side) for name, side in sides.items()}
    results = []
    for name, side in sides.items():
        results += list(measured(name, MODEL, side, found[name]))
    controls = _controls(fit, sides)
    for name, control in controls.items():
        results += list(measured(name, CONTROL, sides[name], control))
    results += list(_divergence(fit))
    last = "test" if "test" in sides else "valid"
    if fit.predictor.config.per_base:
        write_rows(fit.folder / BASES, base_predictions(sides[last], found[last]))
    else:
        write_rows(fit.folder / PREDICTIONS, predictions(sides[last], found[last]))
    if fit.config.fold is not None:
        tested = {MODEL: found[last], **({CONTROL: controls[last]} if controls else {})}
        save_tested(fit.folder, sides[last].numbers, fit.sides.new, tested)
    _plots(fit, sides[last], found[last])
    figures = {
        f"{each.measure} ({each.side})": each.value for each in results if each.name == MODEL
    }
    write_text(fit.folder / "README.md", card_of(fit, figures))
    write_results(fit.folder, results)


def write_results(folder: Path, results: Sequence[Result]) -> None:
    """Write the table that says that a run is finished."""
    rows = [[_cell(value) for value in dataclasses.astuple(each)] for each in results]
    write_rows(folder / RESULTS, [list(COLUMNS), *rows])


def show(folder: Path) -> None:
    """Print the results of a finished run."""
    header, *rows = (
        line.split("\t") for line in (folder / RESULTS).read_text(encoding="utf-8").splitlines()
    )
    print_table(header, rows)


def measured(side: str, name: str, rows: Side, found: NDArray[np.float64]) -> Iterator[Result]:
    """Yield each measure of predictions; intervals resample groups where there are any, else rows.

    Parameters
    ----------
    side, name
        What the side and the predictor are called.
    rows
        The side.
    found
        (rows, names) float64; of each base (bases, names).
    """
    outcomes = rows.outcomes
    groups = None if rows.groups is None else np.unique(rows.groups, return_inverse=True)[1]
    if outcomes.kind != "classes" and outcomes.sizes is not None:
        regions = np.repeat(np.arange(len(rows)) if groups is None else groups, outcomes.sizes)
        order = np.argsort(regions, kind="stable")
        bases = (outcomes.values[order], found[order], regions[order])
        measures = measure_bases(outcomes.kind, outcomes.names, *bases)
    else:
        measures = measure(outcomes.kind, outcomes.values, found, groups)
    for each, interval in measures.items():
        yield Result(side, len(rows), name, each, *interval)


def _divergence(fit: Fit) -> Iterator[Result]:
    """Yield how far the precision moves outputs under noise, and how far noise itself does."""
    if fit.config.precision == "fp32":
        return
    some = fit.sides.valid.sequences[:PERTURBED]
    found = measure_divergence(fit.predictor, some, device=fit.device, autocast=fit.autocast)
    for name, each in (("divergence", found.between), ("perturbation", found.own)):
        interval = block_bootstrap(each, np.ones(len(each)), block=1)
        yield Result("valid", len(each), MODEL, name, *interval)


def _controls(fit: Fit, sides: dict[str, Side]) -> dict[str, NDArray[np.float64]]:
    """Return what k-mers say of each side, (rows, classes); nothing where there are no classes."""
    train, valid = fit.sides.train, fit.sides.valid
    if train.outcomes.kind != "classes":
        return {}
    control = tune_control(
        KMERS,
        *(train.sequences, train.outcomes.values),
        *(valid.sequences, valid.outcomes.values),
        classes=len(train.outcomes.names),
        ks=(K,),
        threads=torch.get_num_threads(),
    )
    return {name: control.probabilities(side.sequences) for name, side in sides.items()}


def predictions(side: Side, found: NDArray[np.float64]) -> Iterator[list[Cell]]:
    """Yield a header, and a row for each sequence: its line, what it is, and what is predicted.

    Of a region, where it lies stands behind the line.
    """
    outcomes, windows = side.outcomes, side.windows
    predicted = predicted_columns(outcomes.kind, outcomes.names)
    yield ["line", *(() if windows is None else REGION), *wanted_columns(outcomes), *predicted]
    for row, (number, wanted) in enumerate(zip(side.numbers, outcomes.values, strict=True)):
        if outcomes.kind == "classes":
            cells: list[Cell] = [outcomes.names[wanted]]
        elif outcomes.kind == "labels":
            cells = [int(each) for each in wanted]
        else:
            cells = [float(each) for each in wanted]
        where = [] if windows is None else region_cells(windows, row)
        yield [
            *(number, *where, *cells),
            *predicted_cells(outcomes.kind, outcomes.names, found[row]),
        ]


def base_predictions(side: Side, found: NDArray[np.float64]) -> Iterator[list[Cell]]:
    """Yield a header, and a row for each base of the regions: where it lies, what is predicted."""
    outcomes, windows = side.outcomes, side.windows
    yield [*PLACE, *predicted_columns(outcomes.kind, outcomes.names)]
    if windows is not None:
        for row in range(len(side)):
            region = windows.region(row)
            yield from base_rows(region.contig, region.start, found[outcomes.span(row)])


def _plots(fit: Fit, side: Side, found: NDArray[np.float64]) -> None:
    outcomes = side.outcomes
    if (fit.folder / METRICS).exists():
        chance = score_of(
            outcomes, _guesses(fit.sides.train.outcomes, len(found)), fit.predictor.config
        )
        plot_run(fit.folder, fit.unit, chance.bits_per_base)
    plot_outcomes(fit.folder, side, found)


def plot_outcomes(folder: Path, side: Side, found: NDArray[np.float64]) -> None:
    """Draw predictions beside what is wanted, where matplotlib is installed."""
    outcomes = side.outcomes
    if importlib.util.find_spec("matplotlib") is None or outcomes.kind != "classes":
        return
    calls = Calls(outcomes.names, found, outcomes.values, np.arange(len(side)))
    plot_confusion(calls, folder / "confusion.png")
    plot_reliability(calls, folder / "reliability.png")


def _guesses(train: Outcomes, rows: int) -> NDArray[np.float64]:
    """Return the best predictions without a look at the sequence, (rows, names)."""
    if train.kind == "classes":
        counts = np.bincount(train.values, minlength=len(train.names))
        guess = counts / counts.sum()
    else:
        guess = np.nanmean(train.values, 0, dtype=float)
    return np.broadcast_to(guess, (rows, len(guess)))


def _cell(value: Cell) -> Cell:
    return "" if isinstance(value, float) and math.isnan(value) else value
