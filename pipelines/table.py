"""Tables on stdout: aligned on a terminal, TSV in a pipe."""

import itertools
import sys
from collections.abc import Iterable, Sequence

import click

Cell = str | int | float


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print rows under lower-case column names; in a pipe, each row as soon as it is there.

    Floats have six significant digits. On a terminal, numbers are aligned to the right. Where the
    first row fails, nothing is printed.
    """
    if not sys.stdout.isatty():
        remaining = iter(rows)
        first = list(itertools.islice(remaining, 1))
        for row in itertools.chain([columns], first, remaining):
            click.echo("\t".join(map(_text, row)))
        return
    table = [tuple(row) for row in rows]
    texts = [tuple(columns), *(tuple(map(_text, row)) for row in table)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    numeric = [
        bool(table) and all(isinstance(cell, (int, float)) for cell in column)
        for column in zip(*table, strict=True)
    ] or [False] * len(columns)
    for row in texts:
        cells = [
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, numeric, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _text(cell: Cell) -> str:
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
