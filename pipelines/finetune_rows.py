"""Tables of predictions: a row for each sequence or region, or one for each of its bases."""

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.data.outcomes import Outcomes
from dnamamba.data.regions import PLACE
from dnamamba.data.targets import Targets
from dnamamba.files import atomic_path
from dnamamba.pipelines.table import Cell

REGION: Final = (*PLACE, "strand")
"""The columns of a region, 0-based and half-open."""


def wanted_columns(outcomes: Outcomes) -> tuple[str, ...]:
    """Name the columns of what sequences are."""
    return ("label",) if outcomes.kind == "classes" else outcomes.names


def predicted_columns(kind: str, names: tuple[str, ...]) -> list[str]:
    """Name the columns of what is predicted: the likeliest class and probabilities, or numbers."""
    if kind == "values":
        return [f"predicted_{name}" for name in names]
    return ["predicted"] * (kind == "classes") + [f"p_{name}" for name in names]


def predicted_cells(kind: str, names: tuple[str, ...], row: NDArray[np.float64]) -> list[Cell]:
    """Return the cells of those columns."""
    numbers: list[Cell] = [float(value) for value in row]
    return [names[int(row.argmax())], *numbers] if kind == "classes" else numbers


def region_cells(windows: Targets, row: int) -> list[Cell]:
    """Return the cells of `REGION`."""
    region = windows.region(row)
    return [region.contig, region.start, region.end, region.strand]


def base_rows(contig: Cell, start: int, found: NDArray[np.float64]) -> Iterator[list[Cell]]:
    """Yield a row for each base, as bedGraph has it with a column for each track.

    Parameters
    ----------
    contig
        The contig's name, or what else names the sequence.
    start
        Of its first base, 0-based.
    found
        (bases, tracks), + strand.
    """
    for at, row in enumerate(found.tolist(), start):
        yield [contig, at, at + 1, *row]


def write_rows(path: Path, rows: Iterable[list[Cell]]) -> None:
    """Write rows as TSV, floats with six digits, row by row; compressed if it is called `.gz`.

    The same rows give the same bytes.

    Raises
    ------
    DnamambaError
        Where the disk is full or the folder cannot be written.
    """
    lines = (("\t".join(map(_text, row)) + "\n").encode() for row in rows)
    with atomic_path(path) as temporary, temporary.open("wb") as out:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", 6, out, mtime=0) as packed:
                packed.writelines(lines)
        else:
            out.writelines(lines)


def _text(cell: Cell) -> str:
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
