"""`dnamamba benchmark finetune`: method by precision, in time, memory and accuracy, in one run.

A step is forward, backward, clipping and the optimiser, on random bases of one shape, the weights
and all buffers warm; memory is the most that was held on a GPU, weights included. `faster` and
`less_memory` compare with the first row of the same shape. With TRAIN and TEST each method and
precision is also fitted with so many seeds; intervals of the accuracy resample the sequences of
TEST, each with what all seeds make of it, and `gain` is the accuracy above that of the first row,
on the same sequences and seeds.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import click
import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.errors import DnamambaError, UsageError
from dnamamba.models import pretrained
from dnamamba.models.adapters import Adapters
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.block import Recompute
from dnamamba.models.heads import LanguageModel
from dnamamba.models.precision import autocast_to
from dnamamba.models.predictor import Predictor, PredictorConfig
from dnamamba.models.presets import preset
from dnamamba.pipelines import options
from dnamamba.pipelines.benchmark.fits import fit_and_test, mean_over
from dnamamba.pipelines.finetune_config import RATES, FinetuneConfig, Method
from dnamamba.pipelines.numbers import Count, read_shape
from dnamamba.pipelines.table import print_table
from dnamamba.training.loop import train_step
from dnamamba.training.monitor import peak_memory
from dnamamba.training.objectives import Outcome
from dnamamba.training.optimizer import OptimizerConfig, build_optimizer

REPEATS: Final = 5
PRECISIONS: Final[tuple[Literal["fp32", "bf16"], ...]] = ("fp32", "bf16")


@dataclass(frozen=True)
class Way:
    """How a model is fitted."""

    method: Method
    precision: Literal["fp32", "bf16"]
    recompute: Recompute


@dataclass(frozen=True)
class Row:
    """One measurement; None where there is no such figure."""

    method: str
    precision: str
    recompute: str
    batch: int
    length: int
    trained: int | None = None
    step_ms: float | None = None
    bases_per_second: float | None = None
    peak_gib: float | None = None
    faster: float | None = None
    less_memory: float | None = None
    seeds: int | None = None
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    note: str = ""


COLUMNS: Final = tuple(field.name for field in dataclasses.fields(Row))


@dataclass(frozen=True)
class Task:
    """What is fitted for the accuracy: tables, settings but those of a way, and a folder."""

    train: Path
    test: Path
    config: FinetuneConfig
    seeds: int
    work: Path
    device: str

    def right(self, way: Way) -> NDArray[np.bool_]:
        """Fit with each seed, and tell which test sequences are called right, (seeds, rows)."""
        found = []
        for seed in range(self.seeds):
            config = dataclasses.replace(
                self.config,
                method=way.method,
                precision=way.precision,
                seed=seed,
                optimizer=OptimizerConfig(lr=RATES[way.method], weight_decay=0.01),
            )
            run = self.work / f"{way.method}-{way.precision}" / f"seed-{seed}"
            right = fit_and_test(self.train, self.test, config, run, self.device)
            if right is None:
                raise DnamambaError("stopped; the same command goes on")
            found.append(right)
        return np.array(found)


def benchmark_finetune(
    model: ModelConfig,
    shapes: Sequence[tuple[int, int]],
    ways: Sequence[Way],
    *,
    device: torch.device,
    task: Task | None = None,
) -> Iterator[Row]:
    """Measure steps of each (batch, length) and way; and the accuracy of each way once.

    Parameters
    ----------
    model
        Its sizes; weights are random.
    shapes
        Sequences of a step, and bases of each.
    ways
        How it is fitted; the first is what the others are held against.
    device
        Where.
    task
        What accuracies are of, if they are wanted.
    """
    accuracies = _accuracies(task, ways) if task else {}
    for batch, length in shapes:
        first: Row | None = None
        for way in ways:
            row = Row(way.method, way.precision, way.recompute, batch, length)
            row = _measured(row, _prepared(model, batch, length, way, device), device)
            first = first or row
            row = dataclasses.replace(row, **_against(first, row))
            yield dataclasses.replace(row, **accuracies.get((way.method, way.precision), {}))


def _accuracies(task: Task, ways: Sequence[Way]) -> dict[tuple[str, str], dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    first: NDArray[np.bool_] | None = None
    for way in ways:
        if (way.method, way.precision) in found:
            continue
        right = task.right(way)
        accuracy = mean_over(right)
        cells: dict[str, Any] = {"seeds": len(right), "accuracy": accuracy.estimate}
        cells |= {"low": accuracy.low, "high": accuracy.high}
        if first is None:
            first = right
        else:
            gain = mean_over(right.astype(float) - first)
            cells |= {"gain": gain.estimate, "gain_low": gain.low, "gain_high": gain.high}
        found[way.method, way.precision] = cells
    return found


def _against(first: Row, row: Row) -> dict[str, Any]:
    """Compare a row with the first of its shape."""
    if row is first or not first.step_ms or not row.step_ms:
        return {}
    saved = None
    if first.peak_gib and row.peak_gib:
        saved = 1 - row.peak_gib / first.peak_gib
    return {"faster": first.step_ms / row.step_ms, "less_memory": saved}


def _measured(
    row: Row, prepare: Callable[[], tuple[int, Callable[[], Any]]], device: torch.device
) -> Row:
    try:
        trained, step = prepare()

        def once() -> float:
            begin = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return 1000 * (time.perf_counter() - begin)

        once()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        once()
        milliseconds = statistics.median(once() for _ in range(REPEATS))
    except torch.OutOfMemoryError:
        return dataclasses.replace(row, note="out of memory")
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return dataclasses.replace(
        row,
        trained=trained,
        step_ms=milliseconds,
        bases_per_second=row.batch * row.length / milliseconds * 1000,
        peak_gib=peak_memory(device) / 2**30 if device.type == "cuda" else None,
    )


def _prepared(
    model: ModelConfig, batch: int, length: int, way: Way, device: torch.device
) -> Callable[[], tuple[int, Callable[[], Any]]]:
    """Return what makes a step, and counts what it trains."""

    def prepare() -> tuple[int, Callable[[], Any]]:
        torch.manual_seed(0)
        language = LanguageModel(model).to(device)
        config = FinetuneConfig("", way.method)
        if way.method == "frozen":
            language.requires_grad_(False)
        elif config.adapter:
            Adapters(language).add("finetuned", config.adapter)
        predictor = Predictor(language, PredictorConfig("classes", ("0", "1"))).to(device)
        predictor.recompute = way.recompute
        settings = OptimizerConfig()
        optimizer = build_optimizer(predictor, settings)
        draw = torch.Generator().manual_seed(0)
        codes = torch.randint(0, 4, (batch, length), dtype=torch.uint8, generator=draw).to(device)
        classes = torch.arange(batch)[:, None] % 2
        objective = Outcome(predictor.tokens, lambda _: (classes, torch.ones(batch, 1)))
        autocast = autocast_to(way.precision, device)

        def step() -> None:
            train_step(
                predictor,
                optimizer,
                objective,
                codes,
                0,
                micro_batch=batch,
                clip=settings.clip,
                autocast=autocast,
            )

        return sum(each.numel() for each in predictor.parameters() if each.requires_grad), step

    return prepare


def _shape(text: str) -> tuple[int, int]:
    batch, length = read_shape(text, "BATCHxLENGTH", "8x4096 or 1x131072")
    return batch, length


@click.command("finetune")
@click.argument("train", type=click.Path(path_type=Path), required=False)
@click.argument("test", type=click.Path(path_type=Path), required=False)
@click.option("-m", "--model", metavar="DIR", help="A model: what accuracies are of.")
@click.option("--preset", "size", metavar="SIZE", help="Of what is timed.  [as MODEL, or 1.4m]")
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="BxL",
    help="Sequences of a step and bases of each; repeatable.  [1x4096]",
)
@click.option(
    "--method", "methods", type=click.Choice(list(RATES)), multiple=True, help="[all of them]"
)
@click.option(
    "--precision", "precisions", type=click.Choice(PRECISIONS), multiple=True, help="[all of them]"
)
@click.option(
    "--recompute",
    "recomputes",
    type=click.Choice(get_args(Recompute)),
    multiple=True,
    help="What the backward makes again; repeatable.  [scan]",
)
@click.option("--seeds", type=Count(), default=5, show_default=True, metavar="N")
@click.option("--epochs", type=Count(), metavar="N", help="Of a fit.  [10]")
@click.option("--batch", type=Count(), metavar="N", help="Of a fit.  [32]")
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("runs/benchmark-finetune"),
    show_default=True,
    help="The folder of all fits.",
)
@options.device
@options.threads
@options.verbosity
def command(
    train: Path | None,
    test: Path | None,
    model: str | None,
    size: str | None,
    shapes: tuple[str, ...],
    methods: tuple[Method, ...],
    precisions: tuple[Literal["fp32", "bf16"], ...],
    recomputes: tuple[Recompute, ...],
    seeds: int,
    epochs: int | None,
    batch: int | None,
    work: Path,
    device: str,
    threads: int,
) -> None:
    """Measure fine-tuning by method and precision, and print TSV; with tables, accuracies too."""
    torch.set_num_threads(threads)
    if train and not (test and model):
        raise UsageError("accuracies want TRAIN, TEST and -m MODEL")
    timed = pretrained.read_config(model) if model and not size else preset(size or "1.4m")
    ways = [
        Way(method, precision, recompute)
        for recompute in recomputes or ("scan",)
        for method in methods or tuple(RATES)
        for precision in precisions or PRECISIONS
    ]
    task = None
    if train and test and model:
        base = FinetuneConfig(model, epochs=epochs or 10, batch=batch)
        task = Task(train, test, base, seeds, work, device)
    rows = benchmark_finetune(
        timed,
        [_shape(text) for text in shapes or ("1x4096",)],
        ways,
        device=options.resolve_device(device),
        task=task,
    )
    told = (["" if cell is None else cell for cell in dataclasses.astuple(row)] for row in rows)
    print_table(COLUMNS, told)
