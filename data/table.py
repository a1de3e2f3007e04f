"""Tables with a header: CSV, TSV or Parquet, as text, column by column."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dnamamba.data.lines import name_source, read_lines
from dnamamba.errors import InputError, UsageError
from dnamamba.files import require_file

_SHOWN: Final = 5
"""Rows that are named for each fault; the others are counted."""


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of a file, in its order.

    Attributes
    ----------
    source
        What errors call the file.
    columns
        Name to (rows,) text; "" where a cell is empty.
    numbers
        (rows,) what errors call the rows: 1-based line numbers, or of Parquet row numbers.
    unit
        `line` or `row`.
    """

    source: str
    columns: dict[str, list[str]]
    numbers: list[int]
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.numbers)

    def column(self, name: str) -> list[str]:
        """Return a column.

        Raises
        ------
        InputError
            With the names that there are, for another one.
        """
        if name not in self.columns:
            known = ", ".join(self.columns)
            raise InputError(f"{self.source}: no column `{name}`; the header is {known}")
        return self.columns[name]

    def where(self, rows: Iterable[int]) -> str:
        """Name rows, by their places in the columns, for an error: `line 7`, or `lines 7, 9`."""
        places = [f"{self.numbers[row]:,}" for row in rows]
        more = f" and {len(places) - _SHOWN:,} more" if len(places) > _SHOWN else ""
        return f"{self.unit}{'s' * (len(places) > 1)} {', '.join(places[:_SHOWN])}{more}"


def read_table(path: Path) -> Table:
    """Read a table, by its content: Parquet, or text whose columns tabs or commas part.

    Parameters
    ----------
    path
        Text, plain, gzip or BGZF; or Parquet, whose cells become text. `-` is stdin, for text.

    Raises
    ------
    InputError
        For an empty file, two columns of one name, and rows of another width than the header, with
        their lines.
    UsageError
        For Parquet without pyarrow.
    """
    if str(path) != "-" and is_parquet(require_file(path)):
        return _read_parquet(path)
    source = name_source(path)
    lines = list(read_lines(path))
    if not lines:
        raise InputError(f"{source}: empty; a header with the columns' names is wanted")
    delimiter = "\t" if "\t" in lines[0][1] else ","
    header, *rows = csv.reader((line for _, line in lines), delimiter=delimiter)
    if len(rows) != len(lines) - 1:
        raise InputError(f"{source}: a quoted cell goes over the end of its line; write it on one")
    _require_unlike(header, source)
    table = Table(
        source,
        dict(zip(header, map(list, zip(*rows, strict=False)), strict=False)),
        [number for number, _ in lines[1:]],
    )
    widths = [len(row) for row in rows]
    unlike = [place for place, width in enumerate(widths) if width != len(header)]
    if unlike:
        cut = unlike == [len(rows) - 1] and widths[-1] < len(header)
        raise InputError(
            f"{source}: {table.where(unlike)}: {widths[unlike[0]]} columns; the header has "
            f"{len(header)}" + ("; is the file complete?" if cut else "")
        )
    return table if rows else Table(source, {name: [] for name in header}, [])


def is_parquet(path: Path) -> bool:
    """Tell whether a file begins as Parquet does."""
    with path.open("rb") as handle:
        return handle.read(4) == b"PAR1"


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UsageError(f"{path}: Parquet wants pyarrow: pip install dnamamba[parquet]") from error
    try:
        found = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: damaged Parquet: {error}") from error
    _require_unlike(found.column_names, str(path))
    columns = {
        name: list(map(_text, column.to_pylist()))
        for name, column in zip(found.column_names, found.columns, strict=True)
    }
    return Table(str(path), columns, list(range(1, found.num_rows + 1)), "row")


def _text(cell: Any) -> str:
    if isinstance(cell, bool):
        return str(int(cell))
    return "" if cell is None else str(cell)


def _require_unlike(header: Sequence[str], source: str) -> None:
    twice = [name for place, name in enumerate(header) if name in header[:place]]
    if twice:
        raise InputError(f"{source}: two columns are called `{twice[0]}`; rename one")


def empty_cells(table: Table, names: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each of some columns that has empty cells, with their rows."""
    for name in names:
        empty = [place for place, cell in enumerate(table.column(name)) if not cell.strip()]
        if empty:
            yield f"{table.where(empty)}: the column `{name}` is empty"
