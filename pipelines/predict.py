"""`dnamamba predict`: what a fine-tuned model says of new sequences."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, Literal

import click
import numpy as np
import torch

from dnamamba.alphabet import Codes
from dnamamba.data.examples import SEQUENCE, read_examples
from dnamamba.data.lines import read_lines
from dnamamba.data.records import read_records
from dnamamba.data.table import is_parquet
from dnamamba.errors import DnamambaError
from dnamamba.files import require_file
from dnamamba.inference.predict import predict_sequences
from dnamamba.models.precision import autocast_to
from dnamamba.models.predictor import Predictor, load_predictor
from dnamamba.pipelines import options
from dnamamba.pipelines.finetune_report import predicted_cells, predicted_columns
from dnamamba.pipelines.table import Cell, print_table

CHUNK: Final = 4096
"""Sequences that are read before the first is predicted: those of like length go together."""


def predict(
    run: Path,
    file: Path,
    *,
    sequence: str = SEQUENCE,
    base: str | None = None,
    device: torch.device,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
) -> tuple[list[str], Iterator[list[Cell]]]:
    """Predict the sequences of a table or a FASTA, from both of their strands.

    Parameters
    ----------
    run
        A fine-tuned model's folder.
    file
        CSV, TSV or Parquet with a column of sequences; or FASTA, plain, gzip or BGZF; `-` is stdin,
        for FASTA.
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
    for: the line in a table or the name of a record, the likeliest class where there are classes,
    and probabilities or numbers.

    Raises
    ------
    CheckpointError
        Where `run` holds no predictor, or its base is missing.
    InputError
        For a faulty file; of FASTA as the rows are read.
    """
    predictor = load_predictor(run, device, base=base)
    config = predictor.config
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    named: Iterable[tuple[Cell, Codes]]
    if _is_fasta(file):
        first = "record"
        named = ((record.name, record.codes) for record in read_records(file))
    else:
        examples = read_examples(file, sequence=sequence, labels=())
        first = examples.table.unit
        named = zip(examples.table.numbers, examples.sequences, strict=True)
    columns = [first, *predicted_columns(config.kind, config.names)]
    return columns, _rows(predictor, named, device, precision)


def _is_fasta(file: Path) -> bool:
    if str(file) == "-":
        return True
    if is_parquet(require_file(file)):
        return False
    with closing(read_lines(file)) as lines:
        _, line = next(lines, (0, ""))
    return line.startswith((">", ";"))


def _rows(
    predictor: Predictor,
    named: Iterable[tuple[Cell, Codes]],
    device: torch.device,
    precision: str,
) -> Iterator[list[Cell]]:
    config = predictor.config
    names: list[Cell] = []
    sequences: list[Codes] = []

    def predicted() -> Iterator[list[Cell]]:
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
        for name, row in zip(names, np.asarray(found), strict=True):
            yield [name, *predicted_cells(config.kind, config.names, row)]

    for name, codes in named:
        names.append(name)
        sequences.append(codes)
        if len(names) == CHUNK:
            yield from predicted()
            names.clear()
            sequences.clear()
    if names:
        yield from predicted()


@click.command("predict")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
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
    sequence: str,
    base: str | None,
    precision: Literal["auto", "fp32", "bf16"],
    device: str,
    threads: int,
) -> None:
    """Predict the sequences of FILE with a fine-tuned model, as TSV.

    FILE is CSV, TSV or Parquet with a column of sequences, or FASTA (- is FASTA from stdin). Both
    strands are read, and get the same prediction.
    """
    torch.set_num_threads(threads)
    columns, rows = predict(
        run,
        file,
        sequence=sequence,
        base=base,
        device=options.resolve_device(device),
        precision=precision,
    )
    print_table(columns, rows)
