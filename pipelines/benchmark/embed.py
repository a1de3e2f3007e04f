"""`dnamamba benchmark embed`: how fast a genome is embedded, and how much of that is the model.

`windows` and `stream` are the job of `dnamamba embed` as it is: the model is loaded, windows are
read from the store, embedded, pooled to their mean and written to a file. What comes before is not
counted: Python's start, a small job, and on a GPU the same job once before, because windows with N
and the last ones of all have kernels compiled for them. `outside` is the share of the job's
seconds that are not the model's: 1 - passes / job, where passes is what the same calls of
`Backbone.outputs` take from ids on the device to hidden states on the device. On a GPU the calls
are timed in a job of their own, because that means to wait for the GPU before and after each.

`transformers` reads the same windows with that package's MambaModel, of the same weights and in the
same precision, on a GPU as many at once where memory allows, and pools them to their mean; nothing
is written. `difference` is the largest of any number of its embeddings from ours.

Each row is measured in a process of its own, whose memory is given: the most that was resident,
Python and all libraries included, and the most that PyTorch held on the GPU.
"""

import dataclasses
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import click
import numpy as np
import torch

from dnamamba.data.catalog import choose_contigs
from dnamamba.data.store import Store, open_store
from dnamamba.errors import DnamambaError, UsageError
from dnamamba.inference.embed import Embedder, How
from dnamamba.inference.genome import GenomeReader
from dnamamba.inference.reading import Reading, Whole
from dnamamba.log import logger, peak_resident
from dnamamba.models import pretrained
from dnamamba.models.heads import LanguageModel
from dnamamba.models.precision import autocast_to
from dnamamba.models.presets import preset
from dnamamba.pipelines import options
from dnamamba.pipelines.benchmark.embed_peer import Peer
from dnamamba.pipelines.benchmark.passes import PassClock
from dnamamba.pipelines.benchmark.process import alone, limit_memory
from dnamamba.pipelines.embed import embed
from dnamamba.pipelines.embed_config import EmbedConfig, read_windows
from dnamamba.pipelines.numbers import Counts, Names
from dnamamba.pipelines.table import print_table
from dnamamba.training.monitor import peak_memory

Way = Literal["windows", "stream", "transformers"]
Precision = Literal["fp32", "bf16"]
WARM_BASES: Final = {"cpu": 2**14, "cuda": 3 * 2**19}
"""Bases of the job before the one that is measured: on a GPU, three passes of the usual size."""
PEER_BASES: Final = 2**26
"""The most that transformers reads where --bases does not say."""
SECONDS: Final = 60
"""What a row takes, about, where --bases does not say how many are read."""
GIB: Final = 2**30


@dataclass(frozen=True)
class Task:
    """What a process measures.

    Attributes
    ----------
    genome
        FASTA that has been indexed.
    name, model
        What the model is called, and its folder.
    way, window
        How it is read; of a stream, the windows that are pooled.
    bases
        Bases that are read, N included; None is what takes about a minute.
    device, precision, threads
        Where, and fp32 or bf16.
    memory, limit
        GiB that it may take on a CPU, and seconds that reading with transformers may.
    """

    genome: Path
    name: str
    model: Path
    way: Way
    window: int
    bases: int | None
    device: str
    precision: Precision
    threads: int
    memory: float
    limit: float


@dataclass(frozen=True)
class Row:
    """One measurement; None where there is no such figure. `bases` are those other than N."""

    way: str
    model: str
    window: int
    bases: int | None = None
    seconds: float | None = None
    bases_per_second: float | None = None
    outside: float | None = None
    host_gib: float | None = None
    gpu_gib: float | None = None
    difference: float | None = None
    note: str = ""


COLUMNS: Final = tuple(field.name for field in dataclasses.fields(Row))


def benchmark_embed(tasks: Iterable[Task]) -> Iterator[Row]:
    """Measure tasks one by one; what went wrong stands in the row's note."""
    for task in tasks:
        logger.info("measuring %s, %s at %s bases", task.way, task.name, f"{task.window:,}")
        try:
            yield alone(_measure_theirs if task.way == "transformers" else _measure_ours, task)
        except DnamambaError as error:
            yield Row(task.way, task.name, task.window, note=str(error))


def _measure_ours(task: Task) -> Row:
    device = _prepare(task)
    store = open_store(task.genome)
    clock = PassClock(device)
    with tempfile.TemporaryDirectory(prefix="dnamamba-benchmark-") as folder:
        bases = task.bases or sum(store.lengths.values())
        job = partial(_embed, task, store, Path(folder), device)
        warm = min(bases, WARM_BASES.get(device.type, WARM_BASES["cpu"]))
        job(warm)
        _, seconds = job(warm)
        if task.bases is None:
            affordable = max(1, int(warm * SECONDS / seconds))
            bases = min(bases, affordable - affordable % task.window or affordable)
        if device.type == "cuda":
            job(bases)
            torch.cuda.reset_peak_memory_stats(device)
        with clock.running() if device.type != "cuda" else nullcontext():
            read, seconds = job(bases)
        row = _row(task, read, seconds, device)
        if device.type == "cuda":
            with clock.running():
                job(bases)
    # A model that reads both ways makes no passes over a stream, but layers one by one.
    outside = 1 - clock.seconds / seconds if clock.seconds else None
    note = "less than a window" if bases < task.window else ""
    return dataclasses.replace(row, outside=outside, note=note)


def _embed(
    task: Task, store: Store, folder: Path, device: torch.device, bases: int
) -> tuple[int, float]:
    """Do the job on the first bases of a genome; return how many are known, and its seconds."""
    config = _config(task, store, folder, bases)
    begin = time.perf_counter()
    embed(task.genome, folder / "embeddings.h5ad", config, force=True, device=str(device))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - begin
    return _known(config, store), seconds


def _config(task: Task, store: Store, folder: Path, bases: int) -> EmbedConfig:
    """Return settings of a job on the first bases of a genome, from the first that is known."""
    regions, left = [], bases
    for contig in choose_contigs(store.lengths, None, task.genome.name)[0]:
        gaps = store.gaps(contig)
        start = int(gaps[0, 1]) if len(gaps) and gaps[0, 0] == 0 else 0
        end = min(start + left, store.lengths[contig])
        if start < end:
            regions.append(f"{contig}\t{start}\t{end}\n")
            left -= end - start
    bed = folder / "first.bed"
    bed.write_text("".join(regions))
    return EmbedConfig(
        model=str(task.model),
        bed=str(bed),
        window=task.window,
        stride=task.window,
        short="pad",
        stream=task.way == "stream",
        precision=task.precision,
    )


def _known(config: EmbedConfig, store: Store) -> int:
    """Count the known bases of the windows of a job."""
    targets = read_windows(config, store).targets
    regions = map(targets.region, range(len(targets)))
    return sum(
        len(region) - int(store.n_count(region.contig, region.start, region.end))
        for region in regions
    )


def _measure_theirs(task: Task) -> Row:
    device = _prepare(task)
    model = pretrained.load(task.model, device)
    autocast = autocast_to(task.precision, device)
    peer = Peer(model, autocast)
    store = open_store(task.genome)
    with tempfile.TemporaryDirectory(prefix="dnamamba-benchmark-") as folder:
        config = _config(task, store, Path(folder), task.bases or PEER_BASES)
        targets = read_windows(config, store).targets
    reader = GenomeReader(store)
    known = (reader.around(targets.region(row)).known for row in range(len(targets)))
    windows = [window.fetch(0, len(window)) for window in known if len(window)]
    ours = Embedder(model, How((model.config.n_layer,)), device=device, autocast=autocast)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else task.memory * GIB
    # On a CPU, several at once are slower: their states no longer fit its caches.
    batch = max(1, ours.batch_bases // task.window) if device.type == "cuda" else 1
    found = peer.read(windows, batch, limit=task.limit, memory=free)
    row = _row(task, found.bases, found.seconds, device)
    readings = [Reading(Whole(codes), np.array([[0, len(codes)]])) for codes in found.codes]
    difference = np.abs(np.concatenate(list(ours.embed(readings))) - found.embeddings).max()
    return dataclasses.replace(row, difference=float(difference), note=found.note)


def _prepare(task: Task) -> torch.device:
    torch.set_num_threads(task.threads)
    device = torch.device(task.device)
    if device.type == "cpu":
        limit_memory(task.memory)
    return device


def _row(task: Task, bases: int, seconds: float, device: torch.device) -> Row:
    """Make a row, with the peaks of memory until now."""
    return Row(
        way=task.way,
        model=task.name,
        window=task.window,
        bases=bases,
        seconds=seconds,
        bases_per_second=bases / seconds,
        host_gib=peak_resident() / GIB,
        gpu_gib=peak_memory(device) / GIB if device.type == "cuda" else None,
    )


@click.command("embed")
@click.argument("genome", type=click.Path(path_type=Path))
@click.option("-m", "--model", type=click.Path(path_type=Path), metavar="DIR", help="Model folder.")
@click.option(
    "--preset",
    "presets",
    type=Names(),
    metavar="SIZES",
    help="Untrained models instead, with commas.  [1.4m]",
)
@click.option(
    "--windows",
    type=Counts(),
    metavar="N,...",
    default="4096,131072,1Mi",
    show_default=True,
    help="Bases of a window.",
)
@click.option("--stream", is_flag=True, help="Contigs as one context, too.")
@click.option(
    "--bases",
    type=Counts(),
    metavar="N,...",
    help="How many are read, from the first that is known.  [what takes a minute a row]",
)
@click.option("--transformers", is_flag=True, help="The same weights in transformers, too.")
@click.option(
    "--limit",
    type=float,
    default=SECONDS,
    show_default=True,
    help="Seconds that reading with transformers may take.",
)
@click.option(
    "--memory", type=float, default=16, show_default=True, help="GiB that a row on a CPU may take."
)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="[default: bf16 on a GPU]")
@options.device
@options.threads
@options.verbosity
def command(
    genome: Path,
    model: Path | None,
    presets: tuple[str, ...] | None,
    windows: tuple[int, ...],
    stream: bool,
    bases: tuple[int, ...] | None,
    transformers: bool,
    precision: Precision | None,
    device: str,
    **means: Any,
) -> None:
    """Measure how fast GENOME is embedded, its time outside the model, and its memory.

    A row for each model, number of bases and window: the job of `dnamamba embed`, file and all,
    after a small one that warms up. --stream pools the first of --windows.
    """
    if model and presets:
        raise UsageError("-m and --preset: give one of them")
    where = options.resolve_device(device)
    open_store(genome)
    ways: list[tuple[Way, int]] = [("windows", window) for window in windows]
    ways += [("stream", windows[0])] if stream else []
    ways += [("transformers", window) for window in windows] if transformers else []
    with tempfile.TemporaryDirectory(prefix="dnamamba-benchmark-") as folder:
        tasks = [
            Task(
                genome=genome,
                name=name,
                model=place,
                way=way,
                window=window,
                bases=count,
                device=str(where),
                precision=precision or ("bf16" if where.type == "cuda" else "fp32"),
                **means,
            )
            for name, place in _models(model, presets or ("1.4m",), Path(folder)).items()
            for count in bases or (None,)
            for way, window in ways
        ]
        rows = map(dataclasses.astuple, benchmark_embed(tasks))
        print_table(COLUMNS, (["" if cell is None else cell for cell in row] for row in rows))


def _models(model: Path | None, presets: Sequence[str], folder: Path) -> dict[str, Path]:
    """Return the folder of each model by its name; those of presets are written, untrained."""
    if model:
        pretrained.load(model)
        return {model.resolve().name: model}
    for name in presets:
        torch.manual_seed(0)
        pretrained.save(LanguageModel(preset(name)), folder / name, "")
    return {name: folder / name for name in presets}
