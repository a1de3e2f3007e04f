"""`dnamamba benchmark generate`: how fast a model makes new DNA, and in how much memory.

`state` is what `dnamamba generate` does, without its file: sequences made side by side from
nothing, each base drawn and read, and all codes fetched. `transformers` is that package's
`generate` with the same weights, its cache of states in use, drawing from the whole vocabulary
(do_sample, no top-k), every sequence as long. Both have made a few bases before the clock starts.

Each row is measured in a process of its own, whose memory is given: the most that was resident,
Python and all libraries included, and the most that PyTorch held on the GPU.
"""

import dataclasses
import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import click
import torch

from dnamamba.errors import DnamambaError, UsageError
from dnamamba.inference.generate import CAPTURED, generate, random_stream, require_generative
from dnamamba.log import logger, peak_resident
from dnamamba.models import pretrained
from dnamamba.models.convert import to_transformers
from dnamamba.models.heads import LanguageModel
from dnamamba.models.presets import preset
from dnamamba.pipelines import options
from dnamamba.pipelines.benchmark.process import alone
from dnamamba.pipelines.numbers import Counts
from dnamamba.pipelines.table import print_table
from dnamamba.training.monitor import peak_memory

Way = Literal["state", "transformers"]
GIB: Final = 2**30
WARM: Final = 2 * CAPTURED
"""Bases of each sequence that are made before the clock starts."""


@dataclass(frozen=True)
class Task:
    """What a process measures: a way, a model's name and folder, and what is made, where."""

    way: Way
    name: str
    model: Path
    sequences: int
    length: int
    device: str
    threads: int


@dataclass(frozen=True)
class Row:
    """One measurement; None where there is no such figure. `bases` are those of all sequences."""

    way: str
    model: str
    sequences: int
    bases: int
    seconds: float | None = None
    bases_per_second: float | None = None
    host_gib: float | None = None
    gpu_gib: float | None = None
    note: str = ""


COLUMNS: Final = tuple(field.name for field in dataclasses.fields(Row))


def benchmark_generate(tasks: Iterable[Task]) -> Iterator[Row]:
    """Measure tasks one by one; what went wrong stands in the row's note."""
    for task in tasks:
        logger.info(
            "measuring %s, %s sequences of %s bases",
            *(task.way, f"{task.sequences:,}", f"{task.length:,}"),
        )
        try:
            yield alone(_measure, task)
        except DnamambaError as error:
            bases = task.sequences * task.length
            yield Row(task.way, task.name, task.sequences, bases, note=str(error))


def _measure(task: Task) -> Row:
    torch.set_num_threads(task.threads)
    device = torch.device(task.device)
    model = pretrained.load(task.model, device)
    make = _ours(model) if task.way == "state" else _theirs(model)
    make(task.sequences, WARM)
    begin = time.perf_counter()
    made = make(task.sequences, task.length)
    seconds = time.perf_counter() - begin
    return Row(
        way=task.way,
        model=task.name,
        sequences=task.sequences,
        bases=made,
        seconds=seconds,
        bases_per_second=made / seconds,
        host_gib=peak_resident() / GIB,
        gpu_gib=peak_memory(device) / GIB if device.type == "cuda" else None,
    )


Make = Callable[[int, int], int]
"""Makes so many sequences of so many bases, and says how many bases these are in all."""


def _ours(model: LanguageModel) -> Make:
    def make(sequences: int, length: int) -> int:
        randoms = [random_stream(0, number) for number in range(sequences)]
        return sum(part.codes.size for part in generate(model, length, randoms))

    return make


def _theirs(model: LanguageModel) -> Make:
    device = next(model.parameters()).device
    twin: Any = to_transformers(model)
    twin.to(device).eval()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    # Of the ids that it takes for such by default, one stands for a base.
    twin.generation_config.eos_token_id = None
    twin.generation_config.pad_token_id = model.config.mask_id
    first = model.config.ids[0]

    @torch.no_grad()
    def make(sequences: int, length: int) -> int:
        ids = torch.full((sequences, 1), first, device=device)
        found = twin.generate(
            ids,
            do_sample=True,
            top_k=0,
            use_cache=True,
            max_new_tokens=length,
            min_new_tokens=length,
        )
        return int(found[:, 1:].cpu().numel())

    return make


@click.command("generate")
@click.option("-m", "--model", type=click.Path(path_type=Path), metavar="DIR", help="Model folder.")
@click.option("--preset", "size", metavar="SIZE", help="An untrained model instead.  [1.4m]")
@click.option(
    "--sequences",
    type=Counts(),
    metavar="N,...",
    default="1,64",
    show_default=True,
    help="How many are made side by side.",
)
@click.option(
    "--length",
    "lengths",
    type=Counts(),
    metavar="N,...",
    default="1000",
    show_default=True,
    help="Bases of each.",
)
@click.option("--transformers", is_flag=True, help="The same weights in transformers, too.")
@options.device
@options.threads
@options.verbosity
def command(
    model: Path | None,
    size: str | None,
    sequences: tuple[int, ...],
    lengths: tuple[int, ...],
    transformers: bool,
    device: str,
    threads: int,
) -> None:
    """Measure how fast new DNA is made, and in how much memory.

    A row for each way, number of sequences and length.
    """
    if model and size:
        raise UsageError("-m and --preset: give one of them")
    where = options.resolve_device(device)
    with tempfile.TemporaryDirectory(prefix="dnamamba-benchmark-") as folder:
        place = model or _untrained(size or "1.4m", Path(folder))
        require_generative(pretrained.load(place), str(place))
        ways: list[Way] = ["state", "transformers"] if transformers else ["state"]
        tasks = [
            Task(way, place.resolve().name, place, count, length, str(where), threads)
            for length, count, way in itertools.product(lengths, sequences, ways)
        ]
        rows = map(dataclasses.astuple, benchmark_generate(tasks))
        print_table(COLUMNS, (["" if cell is None else cell for cell in row] for row in rows))


def _untrained(size: str, folder: Path) -> Path:
    """Write an untrained model, and return its folder."""
    torch.manual_seed(0)
    pretrained.save(LanguageModel(preset(size)), folder / size, "")
    return folder / size
