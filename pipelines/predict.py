"""`dnamamba predict`: what a fine-tuned model says of new sequences."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, Literal, NamedTuple

import click
import numpy as np
import torch

from dnamamba.alphabet import Codes
from dnamamba.data.bed import is_bed_name
from dnamamba.data.examples import SEQUENCE, read_examples
from dnamamba.data.lines import read_lines
from dnamamba.data.records import read_records
from dnamamba.data.regions import PLACE, fetch, forward, read_regions
from dnamamba.data.store import open_store
from dnamamba.data.table import is_parquet
from dnamamba.errors import DnamambaError, UsageError
from dnamamba.files import require_file
from dnamamba.inference.predict import predict_sequences
from dnamamba.models.precision import autocast_to
from dnamamba.models.predictor import Predictor, is_predictor_folder, load_predictor
from dnamamba.pipelines import options
from dnamamba.pipelines.finetune_rows import (
    REGION,
    base_rows,
    predicted_cells,
    predicted_columns,
    region_cells,
)
from dnamamba.pipelines.fitting import fold_folder
from dnamamba.pipelines.numbers import Count
from dnamamba.pipelines.table import Cell, print_table

CHUNK: Final = 4096
"""Sequences that are read before the first is predicted: those of like length go together."""
CHUNK_BASES: Final = 1 << 24
"""Their bases, at most, but for those of the last."""


class _Item(NamedTuple):
    """A sequence, and what a table calls it."""

    cells: list[Cell]
    codes: Codes
    start: int = 0


def predict(
    run: Path,
    file: Path,
    *,
    genome: Path | None = None,
    window: int | None = None,
    sequence: str = SEQUENCE,
    base: str | None = None,
    device: torch.device,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
) -> tuple[list[str], Iterator[list[Cell]]]:
    """Predict the sequences of a table, a FASTA or a genome's regions, from both of their strands.

    Parameters
    ----------
    run
        A fine-tuned model's folder.
    file
        CSV, TSV or Parquet with a column of sequences; or FASTA, plain, gzip or BGZF; `-` is stdin,
        for FASTA. With a genome: regions, as `read_regions` has them.
    genome
        The FASTA that regions lie in.
    window
        Bases around the middle of each region; None takes those that the model was fitted on.
    sequence
        The column.
    base
        Where the model lies that RUN was fitted from, if not where it was.
    device
        Where the model runs.
    precision
        Of the forward pass; auto is bf16 on a CUDA device, else fp32.

    Returns
    -------
    Names of the columns, and the rows, in the order of the file, each batch made when it is asked
    for: the line in a table or the name of a record, and where a region lies; then the likeliest
    class where there are classes, and probabilities or numbers. Of each base: the contig, the line
    or the name, the base's place, 0-based and half-open, and probabilities or numbers.

    Raises
    ------
    CheckpointError
        Where `run` holds no predictor, or its base is missing.
    InputError
        For a faulty file; of FASTA as the rows are read.
    UsageError
        For a window without a genome, a BED without one, and the folder of a cross-validation.
    """
    if genome is None and (window or is_bed_name(file)):
        raise UsageError(f"{file}: regions want the FASTA that they lie in: --genome GENOME")
    fold = fold_folder(run, 1)
    if fold.is_dir() and not is_predictor_folder(run):
        raise UsageError(f"{run}: a cross-validation, with a model for each fold; name one: {fold}")
    predictor = load_predictor(run, device, base=base)
    config = predictor.config
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    items: Iterable[_Item]
    if genome is not None:
        first, items = _regions(file, genome, window or config.window, per_base=config.per_base)
    elif _is_fasta(file):
        first = ["record"]
        items = (_Item([record.name], record.codes) for record in read_records(file))
    else:
        examples = read_examples(file, sequence=sequence, labels=())
        first = [examples.table.unit]
        numbered = zip(examples.table.numbers, examples.sequences, strict=True)
        items = (_Item([number], codes) for number, codes in numbered)
    if config.per_base:
        first = [first[0], *PLACE[1:]]
    columns = [*first, *predicted_columns(config.kind, config.names)]
    return columns, _rows(predictor, items, device, precision)


def _regions(
    file: Path, genome: Path, window: int | None, *, per_base: bool
) -> tuple[list[str], Iterator[_Item]]:
    store = open_store(genome)
    regions = read_regions(file, store, window)
    windows = forward(regions.windows) if per_base else regions.windows
    if per_base:
        cells: Iterable[list[Cell]] = ([windows.region(row).contig] for row in range(len(windows)))
        first = list(PLACE)
    else:
        first = [regions.table.unit, *REGION]
        numbers = enumerate(regions.table.numbers)
        cells = ([number, *region_cells(windows, row)] for row, number in numbers)
    starts = windows.starts.tolist()
    return first, map(_Item, cells, fetch(store, windows), starts)


def _is_fasta(file: Path) -> bool:
    if str(file) == "-":
        return True
    if is_parquet(require_file(file)):
        return False
    with closing(read_lines(file)) as lines:
        _, line = next(lines, (0, ""))
    return line.startswith((">", ";"))


def _rows(
    predictor: Predictor, items: Iterable[_Item], device: torch.device, precision: str
) -> Iterator[list[Cell]]:
    config = predictor.config
    for chunk in _chunks(items):
        sequences = [item.codes for item in chunk]
        try:
            found = predict_sequences(
                predictor, sequences, device=device, autocast=autocast_to(precision, device)
            )
        except torch.OutOfMemoryError as error:
            longest = max(map(len, sequences))
            raise DnamambaError(
                f"{device} is out of memory with a sequence of {longest:,} bases: cut it, or "
                "--device cpu"
            ) from error
        if config.per_base:
            parts = np.split(found, np.cumsum([len(codes) for codes in sequences])[:-1])
            for item, part in zip(chunk, parts, strict=True):
                yield from base_rows(item.cells[0], item.start, part)
        else:
            for item, row in zip(chunk, found, strict=True):
                yield [*item.cells, *predicted_cells(config.kind, config.names, row)]


def _chunks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    chunk: list[_Item] = []
    bases = 0
    for item in items:
        chunk.append(item)
        bases += len(item.codes)
        if len(chunk) == CHUNK or bases >= CHUNK_BASES:
            yield chunk
            chunk, bases = [], 0
    if chunk:
        yield chunk


@click.command("predict")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--genome", type=click.Path(path_type=Path), help="FASTA: FILE has regions in it.")
@click.option(
    "--window", type=Count(), metavar="N", help="Around each region.  [as RUN was fitted]"
)
@click.option("--sequence", default=SEQUENCE, metavar="COLUMN", help="Of sequences.  [sequence]")
@click.option("--base", metavar="DIR", help="The model that RUN was fitted from, if it has moved.")
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", help="[auto]"
)
@options.device
@options.threads
@options.verbosity
def command(
    run: Path,
    file: Path,
    genome: Path | None,
    window: int | None,
    sequence: str,
    base: str | None,
    precision: Literal["auto", "fp32", "bf16"],
    device: str,
    threads: int,
) -> None:
    """Predict the sequences of FILE with a fine-tuned model, as TSV.

    FILE is CSV, TSV or Parquet with a column of sequences, or FASTA (- is FASTA from stdin). With
    --genome it is BED, or a table with chrom, start and end, 0-based and half-open. Both strands
    are read, and get the same prediction. A model of tracks gives a row for each base.
    """
    torch.set_num_threads(threads)
    columns, rows = predict(
        run,
        file,
        genome=genome,
        window=window,
        sequence=sequence,
        base=base,
        device=options.resolve_device(device),
        precision=precision,
    )
    print_table(columns, rows)
