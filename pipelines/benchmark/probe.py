"""`dnamamba benchmark probe`: what a model's embeddings are worth to a linear probe.

Labelled sequences are embedded whole, the mean of both strands and of all their bases, and a
logistic regression on them is tested: beside one on counts of k-mers, and beside one on embeddings
of the same model with random weights. A fifth of TRAIN chooses the penalty, and for a model the
layer; nothing is fitted on it, and TEST is read once. Intervals resample the sequences of TEST;
`gain` is the accuracy above that of k-mers on the same sequences. Where sequences of TEST stand in
TRAIN, too, a second row is of those that do not.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import click
import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.alphabet import BASE, Codes, N
from dnamamba.data.examples import Examples, are_new, read_examples
from dnamamba.errors import InputError
from dnamamba.evaluation.calls import Calls
from dnamamba.evaluation.controls import KMERS, tune_control
from dnamamba.evaluation.probe import fit_probe
from dnamamba.inference.model import Model, load
from dnamamba.log import logger
from dnamamba.pipelines import options
from dnamamba.pipelines.table import print_table

TUNING: Final = 0.2
"""Share of the training sequences that settings are chosen on."""
FEWEST: Final = 10
"""Training sequences, at least."""


@dataclass(frozen=True)
class Row:
    """One probe; `layer` is empty for k-mers, and `gain` of what it is measured against.

    `tested` says on which sequences: all of TEST, or those that are not in TRAIN.
    """

    features: str
    tested: Literal["all", "new"]
    layer: int | None
    strength: float
    train: int
    tuning: int
    test: int
    classes: int
    accuracy: float
    low: float
    high: float
    macro_f1: float
    log_loss: float
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None


COLUMNS: Final = tuple(field.name for field in dataclasses.fields(Row))


@dataclass(frozen=True)
class Task:
    """Sequences whose classes are numbered; which of train tune, and which of test are new."""

    classes: tuple[str, ...]
    train: list[Codes]
    labels: NDArray[np.int64]
    tunes: NDArray[np.bool_]
    test: list[Codes]
    wanted: NDArray[np.int64]
    new: NDArray[np.bool_]


def make_task(train: Examples, test: Examples, seed: int) -> Task:
    """Make numbers of the classes of TRAIN, and draw the sequences that tune.

    Raises
    ------
    InputError
        For too few sequences or classes, a label that TRAIN does not have, or a sequence without a
        known base.
    """
    classes = tuple(sorted(set(train.labels)))
    if len(classes) < 2 or len(train) < FEWEST:
        raise InputError(
            f"TRAIN: {len(train)} sequences of {len(classes)} classes; at least {FEWEST} of two or "
            "more are wanted"
        )
    if unknown := sorted(set(test.labels) - set(classes)):
        raise InputError(
            f"TEST: TRAIN has no label {', '.join(unknown)}; it has {', '.join(classes)}"
        )
    for name, examples in (("TRAIN", train), ("TEST", test)):
        for number, codes in enumerate(examples.sequences, 1):
            if (codes & BASE >= N).all():
                raise InputError(f"{name}: sequence {number:,} is all N; leave it out")
    new = are_new(test.sequences, train.sequences)
    if not new.all():
        logger.warning(
            "%s of %s test sequences stand in TRAIN, too", f"{(~new).sum():,}", f"{len(test):,}"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    tunes = np.zeros(len(train), bool)
    order = np.random.default_rng(seed).permutation(len(train))
    tunes[order[: max(1, int(TUNING * len(train)))]] = True
    return Task(
        classes,
        train.sequences,
        np.array([numbers[label] for label in train.labels]),
        tunes,
        test.sequences,
        np.array([numbers[label] for label in test.labels]),
        new,
    )


def benchmark_probe(task: Task, models: dict[str, Model], k: int) -> Iterator[Row]:
    """Test k-mers, and then the embeddings of models."""
    control = tune_control(
        KMERS,
        *_chosen(task, task.train, ~task.tunes),
        *_chosen(task, task.train, task.tunes),
        classes=len(task.classes),
        ks=(k,),
        threads=torch.get_num_threads(),
    )
    counted = control.probabilities(task.test)
    yield from _rows(task, f"{k}-mers", None, control.strength, counted)
    for name, model in models.items():
        logger.info("embedding %s sequences with %s", len(task.train) + len(task.test), name)
        train, test = (_embed(model, codes) for codes in (task.train, task.test))
        fits, tunes = ~task.tunes, task.tunes
        probes = [
            fit_probe(
                layer[fits],
                task.labels[fits],
                layer[tunes],
                task.labels[tunes],
                threads=torch.get_num_threads(),
            )
            for layer in train
        ]
        best = min(range(len(probes)), key=lambda number: probes[number].tuned_loss)
        found = probes[best].probabilities(test[best])
        yield from _rows(task, name, best + 1, probes[best].strength, found, counted)


def _chosen(
    task: Task, codes: list[Codes], which: NDArray[np.bool_]
) -> tuple[list[Codes], NDArray[np.int64]]:
    return [codes[number] for number in np.flatnonzero(which)], task.labels[which]


def _embed(model: Model, codes: list[Codes]) -> NDArray[np.float32]:
    """Embed sequences, (layers, sequences, channels)."""
    layers = model.config.n_layer
    found = model.embed(codes, layer=f"1-{layers}", rc="average")
    return found.reshape(len(codes), layers, -1).swapaxes(0, 1)


def _rows(
    task: Task,
    name: str,
    layer: int | None,
    strength: float,
    found: NDArray[np.float64],
    counted: NDArray[np.float64] | None = None,
) -> Iterator[Row]:
    tuning = int(task.tunes.sum())
    everything = np.ones(len(task.test), bool)
    tested: list[tuple[Literal["all", "new"], NDArray[np.bool_]]] = [("all", everything)]
    if 0 < task.new.sum() < len(task.test):
        tested.append(("new", task.new))
    for which, rows in tested:
        places = np.flatnonzero(rows)
        calls, *others = (
            Calls(task.classes, probabilities[rows], task.wanted[rows], places)
            for probabilities in (found, counted)
            if probabilities is not None
        )
        yield Row(
            *(name, which, layer, strength),
            *(len(task.train) - tuning, tuning, len(places), len(task.classes)),
            *(*calls.accuracy, calls.macro_f1, calls.log_loss),
            *(calls.gain_over(others[0]) if others else ()),
        )


@click.command("probe", short_help="Embeddings of labelled sequences under a linear probe.")
@click.argument("train", type=click.Path(path_type=Path))
@click.argument("test", type=click.Path(path_type=Path))
@click.option(
    "-m", "--model", "places", multiple=True, required=True, help="Model folder; may be repeated."
)
@click.option("--k", type=click.IntRange(1, 8), default=5, show_default=True, help="Of k-mers.")
@options.seed
@options.device
@options.threads
@options.verbosity
def command(
    train: Path, test: Path, places: tuple[str, ...], k: int, seed: int, device: str, threads: int
) -> None:
    """Test a linear probe on embeddings of the labelled sequences in TRAIN and TEST.

    Both are a CSV or TSV with columns sequence and label, plain or gzipped. Beside the model stand
    k-mers, and the model with random weights.
    """
    torch.set_num_threads(threads)
    place = options.resolve_device(device)
    models: dict[str, Model] = {}
    for name in places:
        model = load(name, place)
        torch.manual_seed(seed)
        models[f"{Path(name).name}, untrained"] = Model(model.config).to(place).eval()
        models[Path(name).name] = model
    task = make_task(read_examples(train), read_examples(test), seed)
    rows = map(dataclasses.astuple, benchmark_probe(task, models, k))
    print_table(COLUMNS, (["" if cell is None else cell for cell in row] for row in rows))
