"""`dnamamba benchmark labels`: what a pretrained model is worth to someone with so many labels.

So many labelled sequences are drawn from TRAIN for each seed, of each class its share. A part of
them is kept to choose on, and nothing else is looked at before TEST. On the same rows are fitted: a
pretrained model; the same model from random weights, trained as a whole; counts of k-mers with
logistic regression; and a small convolutional network. Each is tuned on what is kept: the model and
the network in their learning rate and when to stop, the k-mers in their penalty.

Intervals resample the sequences of TEST, each with what all seeds make of it; `gain` is the
accuracy above that of k-mers on the same sequences. Fits are run folders, and a broken-off
benchmark goes on where it was.
"""

import csv
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.data.examples import LABEL, SEQUENCE
from dnamamba.data.table import Table, read_table
from dnamamba.errors import DnamambaError, InputError
from dnamamba.evaluation.cnn import tune_network
from dnamamba.evaluation.controls import KMERS, tune_control
from dnamamba.files import atomic_path
from dnamamba.log import logger
from dnamamba.models import pretrained
from dnamamba.models.heads import LanguageModel
from dnamamba.pipelines import options
from dnamamba.pipelines.benchmark.fits import fit_and_test, mean_over, tuned_bits
from dnamamba.pipelines.finetune_config import RATES, FinetuneConfig, Method
from dnamamba.pipelines.finetune_data import read_sides
from dnamamba.pipelines.finetune_sides import Sides
from dnamamba.pipelines.numbers import Count, Counts
from dnamamba.pipelines.table import print_table
from dnamamba.training.optimizer import OptimizerConfig

K: Final = 5
SCRATCH, NETWORK = "from scratch", "convolutional network"
CONTROLS: Final = "controls.npz"
"""Which test sequences each control calls right, and the checksum of the rows it was fitted on."""


@dataclass(frozen=True)
class Row:
    """What one way to learn makes of so many labels; `new` is of sequences that are not in TRAIN.

    `gain` is empty for k-mers, which it is measured against; `deviation` is that of the accuracy
    over seeds.
    """

    labels: int
    name: str
    method: str
    seeds: int
    test: int
    accuracy: float
    low: float
    high: float
    deviation: float
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    new: float | None = None


COLUMNS: Final = tuple(field.name for field in dataclasses.fields(Row))


@dataclass(frozen=True)
class Task:
    """What is fitted, how, and where.

    Attributes
    ----------
    train, test
        Tables.
    configs
        Of the pretrained model; the other models' follow from them: one for each learning rate.
    work
        The folder of all fits.
    device
        As `--device`.
    """

    train: Path
    test: Path
    configs: tuple[FinetuneConfig, ...]
    work: Path
    device: str


def benchmark_labels(task: Task, sizes: Sequence[int], seeds: Sequence[int]) -> Iterator[Row]:
    """Fit all models on so many labels each, 0 for all there are, with some seeds."""
    table = read_table(task.train)
    blank = _untrained(task)
    full = tuple(
        dataclasses.replace(
            config, model=str(blank), method="full", state_space=False, optimizer=_full(config)
        )
        for config in task.configs
    )
    for size in sizes:
        right: dict[str, list[NDArray[np.bool_]]] = {}
        new = np.zeros(0, bool)
        for seed in seeds:
            folder = task.work / f"labels-{size or 'all'}" / f"seed-{seed}"
            train = _drawn(table, size, seed, folder)
            sides = _sides(train, task, seed)
            new = sides.new
            for name, found in _controls(sides, seed, task.device, folder).items():
                right.setdefault(name, []).append(found)
            for name, configs in (("pretrained", task.configs), (SCRATCH, full)):
                called = _best(train, task, configs, seed, folder / name.replace(" ", "-"))
                right.setdefault(name, []).append(called)
        yield from _rows(size or len(table), right, new, task.configs[0].method)


def _full(config: FinetuneConfig) -> OptimizerConfig:
    """Return what trains a whole model: the rates asked for are shifted as the defaults are."""
    shift = RATES["full"] / RATES[config.method]
    return dataclasses.replace(config.optimizer, lr=config.optimizer.lr * shift)


def _untrained(task: Task) -> Path:
    """Write a model like the pretrained one, with random weights."""
    folder = task.work / "untrained"
    if not pretrained.is_model_folder(folder):
        torch.manual_seed(0)
        model = LanguageModel(pretrained.read_config(task.configs[0].model))
        card = pretrained.model_card(model, name="untrained", data=[], metrics={})
        pretrained.save(model, folder, card)
    return folder


def _drawn(table: Table, size: int, seed: int, folder: Path) -> Path:
    """Write so many rows of a table, of each class its share and two at least."""
    labels = np.array(table.column(LABEL))
    random = np.random.default_rng([seed, size])
    classes, counts = np.unique(labels, return_counts=True)
    if size and size < 2 * len(classes):
        raise InputError(f"{size} labels of {len(classes)} classes: two or more of each are wanted")
    chosen: list[int] = []
    for name, count in zip(classes, counts, strict=True):
        wanted = max(2, round(size * count / len(labels))) if size else count
        chosen += random.permutation(np.flatnonzero(labels == name))[:wanted].tolist()
    path = folder / "train.tsv"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerow((SEQUENCE, LABEL))
        sequences = table.column(SEQUENCE)
        writer.writerows((sequences[row], labels[row]) for row in sorted(chosen))
    return path


def _sides(train: Path, task: Task, seed: int) -> Sides:
    """Return what the fits read, as they part it."""
    config = dataclasses.replace(task.configs[0], seed=seed)
    return read_sides(train, None, task.test, config, allow_overlap=True)


def _controls(sides: Sides, seed: int, device: str, folder: Path) -> dict[str, NDArray[np.bool_]]:
    """Return what `_plain` finds, or found before on the same rows."""
    path, digest = folder / CONTROLS, hashlib.sha256()
    for side in (sides.train, sides.valid, sides.test):
        if side is not None:
            digest.update(side.outcomes.values.tobytes())
            digest.update(b"\n".join(codes.tobytes() for codes in side.sequences))
    if path.exists():
        with np.load(path) as kept:
            if kept["digest"] == digest.hexdigest():
                return dict(zip(kept["names"].tolist(), kept["right"], strict=True))
    found = dict(_plain(sides, seed, options.resolve_device(device)))
    with atomic_path(path) as temporary, temporary.open("wb") as out:
        np.savez(
            out,
            digest=np.array(digest.hexdigest()),
            names=np.array(list(found)),
            right=np.stack(list(found.values())),
        )
    return found


def _plain(
    sides: Sides, seed: int, device: torch.device
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Fit k-mers and the convolutional network, and tell which test sequences they call right."""
    train, valid, test = sides.train, sides.valid, sides.test
    if test is None:
        raise DnamambaError("there is no test side")
    classes = len(train.outcomes.names)
    data = (train.sequences, train.outcomes.values, valid.sequences, valid.outcomes.values)
    threads = torch.get_num_threads()
    counted = tune_control(KMERS, *data, classes=classes, ks=(K,), threads=threads)
    wanted = test.outcomes.values
    yield f"{K}-mers", counted.probabilities(test.sequences).argmax(1) == wanted
    network = tune_network(*data, classes=classes, device=device, seed=seed)
    logger.info("convolutional network: lr %g, log loss %.4f", network.lr, network.tuned_loss)
    yield NETWORK, network.probabilities(test.sequences).argmax(1) == wanted


def _best(
    train: Path, task: Task, configs: Sequence[FinetuneConfig], seed: int, folder: Path
) -> NDArray[np.bool_]:
    """Fit at each learning rate, and return what the best on the valid side calls right."""
    best: tuple[float, NDArray[np.bool_]] | None = None
    for config in configs:
        run = folder / f"lr-{config.optimizer.lr:g}"
        config = dataclasses.replace(config, seed=seed)
        right = fit_and_test(train, task.test, config, run, task.device)
        if right is None:
            raise DnamambaError("stopped; the same command goes on")
        bits = tuned_bits(run)
        if best is None or bits < best[0]:
            best = bits, right
    if best is None:
        raise DnamambaError("no learning rate was given")
    return best[1]


def _rows(
    labels: int, right: dict[str, list[NDArray[np.bool_]]], new: NDArray[np.bool_], method: Method
) -> Iterator[Row]:
    against = np.array(right[f"{K}-mers"], float)
    for name, seeds in right.items():
        found = np.array(seeds, float)
        gain = () if name == f"{K}-mers" else mean_over(found - against)
        fitted = method if name == "pretrained" else "full" if name == SCRATCH else ""
        row = Row(
            *(labels, name, fitted, len(found), found.shape[1]),
            *(*mean_over(found), float(found.mean(1).std()), *gain),
        )
        if 0 < new.sum() < len(new):
            row = dataclasses.replace(row, new=float(found[:, new].mean()))
        yield row


@click.command("labels", short_help="Accuracy by the number of labels, beside others.")
@click.argument("train", type=click.Path(path_type=Path))
@click.argument("test", type=click.Path(path_type=Path))
@click.option("-m", "--model", required=True, metavar="DIR", help="A pretrained model.")
@click.option(
    "--labels",
    "sizes",
    type=Counts(),
    help="Numbers of labels, with commas; without, all of TRAIN.",
)
@click.option("--seeds", type=Count(), default=5, show_default=True, metavar="N")
@click.option("--method", type=click.Choice(list(RATES)), default="lora", show_default=True)
@click.option("--state-space", is_flag=True, help="Adapters train A, D and delta, too.")
@click.option(
    "--lr", "rates", type=float, multiple=True, metavar="RATE", help="To choose from; repeatable."
)
@click.option("--steps", type=Count(), metavar="N", help="Optimiser steps, at most.")
@click.option("--epochs", type=Count(), metavar="N", help="Passes over the labels, at most.")
@click.option("--batch", type=Count(), metavar="N", help="Sequences a step.  [32]")
@click.option(
    "--patience", type=Count(), default=5, show_default=True, help="Validations without gain."
)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("runs/benchmark-labels"),
    show_default=True,
    help="The folder of all fits.",
)
@options.seed
@options.device
@options.threads
@options.verbosity
def command(
    train: Path,
    test: Path,
    model: str,
    sizes: tuple[int, ...] | None,
    seeds: int,
    method: Method,
    state_space: bool,
    rates: tuple[float, ...],
    steps: int | None,
    epochs: int | None,
    batch: int | None,
    patience: int,
    work: Path,
    seed: int,
    device: str,
    threads: int,
) -> None:
    """Fit models on a few labels of TRAIN, many times, and test them on TEST.

    Both are a CSV, TSV or Parquet with columns sequence and label. Seeds are counted from --seed
    on, so that some can be fitted side by side, in the same --work, before all are told.
    """
    torch.set_num_threads(threads)
    base = FinetuneConfig(
        model,
        method,
        state_space=state_space,
        steps=steps,
        epochs=epochs,
        batch=batch,
        patience=patience,
    )
    configs = tuple(
        dataclasses.replace(base, optimizer=OptimizerConfig(lr=rate, weight_decay=0.01))
        for rate in rates or (RATES[method],)
    )
    task = Task(train, test, configs, work, device)
    rows = benchmark_labels(task, sizes or (0,), range(seed, seed + seeds))
    told = (["" if cell is None else cell for cell in dataclasses.astuple(row)] for row in rows)
    print_table(COLUMNS, told)
