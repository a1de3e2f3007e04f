"""`dnamamba benchmark index`: how fast a genome is tokenised, and a window read from its store.

Each measurement runs in a process of its own, so that its peak memory is its own.
"""

import gzip
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from Bio import bgzf

from dnamamba.data.fasta import decompress
from dnamamba.data.region import Region
from dnamamba.data.store import open_store
from dnamamba.data.tokenise import CODES
from dnamamba.files import require_file
from dnamamba.log import logger, peak_resident
from dnamamba.pipelines import options
from dnamamba.pipelines.benchmark.process import alone
from dnamamba.pipelines.table import Cell, print_table

FORMATS: Final = {"plain": "genome.fa", "gzip": "genome.fa.gz", "bgzf": "genome.bgzf.fa.gz"}
COLUMNS: Final = ("measure", "format", "bases", "seconds", "mb_per_second", "peak_mb")
WINDOW: Final = 1_000_000
WINDOWS: Final = 20
_TEMPERATURES: Final = ("cold", "warm") if hasattr(os, "posix_fadvise") else ("warm",)


@dataclass(frozen=True)
class Figure:
    """What one measurement found: bases handled, seconds, and the process's peak memory in MB."""

    bases: int
    seconds: float
    peak_mb: float


def benchmark_index(fasta: Path, copies: int, formats: Sequence[str]) -> Iterator[tuple[Cell, ...]]:
    """Measure, and yield rows of `COLUMNS`.

    Parameters
    ----------
    fasta
        The genome; it is written anew into a temporary folder, which needs room for two bytes a
        base.
    copies
        How often the genome stands in the file that is measured, under new names.
    formats
        Some of `FORMATS`.
    """
    for name in formats:
        with tempfile.TemporaryDirectory(prefix="dnamamba-benchmark-") as folder:
            path = Path(folder) / FORMATS[name]
            logger.info("writing %s", path)
            write_copies(require_file(fasta), path, copies, name)
            tokenised = alone(measure_tokenising, path)
            bare = alone(measure_reading, path)
            yield _row("tokenise", name, tokenised)
            yield _row("read" if name == "plain" else "decompress", name, bare, tokenised.bases)
            if name == formats[0]:
                for temperature in _TEMPERATURES:
                    windows = alone(measure_windows, path, temperature == "cold")
                    yield _row(f"window, {temperature}", "store", windows)


def _row(measure: str, name: str, figure: Figure, bases: int = 0) -> tuple[Cell, ...]:
    bases = bases or figure.bases
    speed = bases / figure.seconds / 1e6
    return (measure, name, bases, figure.seconds, round(speed, 1), round(figure.peak_mb, 1))


def measure_tokenising(path: Path) -> Figure:
    """Time the making of a store, checksum and fsync included."""
    begin = time.perf_counter()
    store = open_store(path, rebuild=True)
    seconds = time.perf_counter() - begin
    return Figure(sum(store.lengths.values()), seconds, peak_resident() / 1e6)


def measure_reading(path: Path) -> Figure:
    """Time the reading of the file, decompressed, and nothing else: the floor of tokenising."""
    begin = time.perf_counter()
    with path.open("rb", buffering=0) as handle:
        size = sum(map(len, decompress(handle, path.name)))
    return Figure(size, time.perf_counter() - begin, peak_resident() / 1e6)


def measure_windows(path: Path, cold: bool) -> Figure:
    """Time windows at random places of the store: the median of `WINDOWS`.

    Cold: the system is told to drop the file from its cache, and each window is read for the first
    time by this process. Warm: each window has been read just before.
    """
    store = open_store(path)
    if cold:
        _drop_from_cache(store.folder / CODES)
    draw = random.Random(0)
    size = min(WINDOW, max(store.lengths.values()))
    contigs = [contig for contig, length in store.lengths.items() if length >= size]
    times = []
    for _ in range(WINDOWS):
        contig = draw.choice(contigs)
        start = draw.randint(0, store.lengths[contig] - size)
        region = Region(contig, start, start + size)
        if not cold:
            store.fetch(region)
        begin = time.perf_counter()
        store.fetch(region)
        times.append(time.perf_counter() - begin)
    return Figure(size, statistics.median(times), peak_resident() / 1e6)


def _drop_from_cache(path: Path) -> None:
    with path.open("rb") as handle:
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_copies(fasta: Path, path: Path, copies: int, name: str) -> None:
    """Write `copies` of a genome; the k-th has `k_` before its contigs' names."""
    with _open(path, name) as out:
        for copy in range(1, copies + 1):
            header = f"\n>{copy}_".encode()
            with fasta.open("rb") as handle:
                held = b"\n"
                for block in decompress(handle, fasta.name):
                    text = held + block
                    held = b"\n" if text.endswith(b"\n") else b""
                    out.write(text.removesuffix(held).replace(b"\n>", header))
                out.write(held)


def _open(path: Path, name: str) -> Any:
    """Open a new file of one of `FORMATS`."""
    if name == "gzip":
        return gzip.open(path, "wb", compresslevel=6)
    if name == "bgzf":
        return bgzf.BgzfWriter(path, "wb")  # type: ignore[no-untyped-call]
    return path.open("wb")


@click.command("index")
@click.argument("fasta", metavar="FASTA", type=click.Path(path_type=Path))
@click.option(
    "--copies",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Repeat the genome so often, under new names.",
)
@click.option(
    "--format",
    "formats",
    type=click.Choice(list(FORMATS)),
    multiple=True,
    default=list(FORMATS),
    help="Measure this one alone; may be repeated.  [default: all]",
)
@options.verbosity
def command(fasta: Path, copies: int, formats: tuple[str, ...]) -> None:
    """Measure how fast FASTA is tokenised, and a window of 1 Mb read from its store.

    The genome is written to a temporary folder as plain text, gzip and BGZF; beside the time of
    tokenising each stands that of reading or decompressing the file and no more. Cold windows are
    read after the system was told to drop the store from its cache.
    """
    print_table(COLUMNS, benchmark_index(fasta, copies, formats))
