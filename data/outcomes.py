"""What is to be predicted: the labels of examples as numbers, and what they stand for.

classes   one of several in each row: (rows,) int64
labels    any of several: (rows, labels) bool, a column of 0 and 1 for each
values    numbers: (rows, values) float32, a column for each

Of each base they are what tracks say, as `dnamamba.data.signals` reads them: labels or values.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dnamamba.data.table import Table, empty_cells
from dnamamba.errors import InputError

Kind = Literal["classes", "labels", "values"]
KINDS: Final = get_args(Kind)
MOST_CLASSES: Final = 20
"""A column of whole numbers with more different ones is taken for values, unless it is said."""
_SWITCH: Final = {"0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Labels of some rows.

    Attributes
    ----------
    kind
        Which of the three.
    names
        Of the classes, in the order of their numbers; or of the columns.
    values
        Of the shape and type of the kind. Of each base: (bases, names) float32, those of all rows
        end to end, NaN where nothing is known.
    sizes
        (rows,) int64 bases of each row, where each base has its own; else None.
    """

    kind: Kind
    names: tuple[str, ...]
    values: NDArray[Any]
    sizes: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.values if self.sizes is None else self.sizes)

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """(rows,) where the values of each row end."""
        return np.arange(1, len(self) + 1) if self.sizes is None else np.cumsum(self.sizes)

    def span(self, row: int) -> slice:
        """Return where the values of a row lie, or of its bases."""
        return slice(int(self.ends[row - 1]) if row else 0, int(self.ends[row]))

    def of(self, rows: Sequence[int] | NDArray[np.int64]) -> "Outcomes":
        """Return some of the rows."""
        chosen = np.asarray(rows, np.int64)
        if self.sizes is None:
            return replace(self, values=self.values[chosen])
        values = [self.values[self.span(row)] for row in chosen] or [self.values[:0]]
        return replace(self, values=np.concatenate(values), sizes=self.sizes[chosen])


def read_outcomes(table: Table, columns: Sequence[str], kind: Kind | None = None) -> Outcomes:
    """Read labels that a model is to be fitted on.

    Parameters
    ----------
    table
        The rows.
    columns
        The columns of labels, one or more.
    kind
        What they are; None goes by what they hold: several columns of 0 and 1 are labels, a column
        with a cell that is no number, or of few different whole numbers, has classes, and all else
        is values.

    Raises
    ------
    InputError
        For a column that is missing, empty cells, cells of another kind than the others, a single
        class, and a class or label with one example alone, with their rows.
    """
    if faults := list(empty_cells(table, columns)):
        raise InputError(f"{table.source}: {'; '.join(faults)}")
    cells = [[cell.strip() for cell in table.column(name)] for name in columns]
    if not len(table):
        raise InputError(f"{table.source}: a header, and no rows")
    kind = kind or _guess(table, columns, cells)
    if kind == "classes":
        if len(columns) > 1:
            raise InputError(
                f"{table.source}: classes stand in one column, and {len(columns)} were named: "
                f"{', '.join(columns)}"
            )
        return _classes(table, columns[0], cells[0])
    if kind == "labels":
        return _labels(table, columns, cells)
    return Outcomes("values", tuple(columns), _values(table, columns, cells))


def read_same_outcomes(table: Table, columns: Sequence[str], like: Outcomes) -> Outcomes:
    """Read labels of other rows, as those that a model was fitted on.

    Raises
    ------
    InputError
        As `read_outcomes`; for classes that were not among those; one example is enough.
    """
    if faults := list(empty_cells(table, columns)):
        raise InputError(f"{table.source}: {'; '.join(faults)}")
    cells = [[cell.strip() for cell in table.column(name)] for name in columns]
    if like.kind == "classes":
        numbers = {name: number for number, name in enumerate(like.names)}
        unknown = [row for row, cell in enumerate(cells[0]) if cell not in numbers]
        if unknown:
            named = ", ".join(sorted({cells[0][row] for row in unknown}))
            raise InputError(
                f"{table.source}: {table.where(unknown)}: {named}: no class of what was fitted on "
                f"({', '.join(like.names)})"
            )
        return Outcomes("classes", like.names, np.array([numbers[cell] for cell in cells[0]]))
    if like.kind == "labels":
        return Outcomes("labels", like.names, _switches(table, columns, cells))
    return Outcomes("values", like.names, _values(table, columns, cells))


def _guess(table: Table, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> Kind:
    if len(columns) > 1:
        together = {cell.lower() for column in cells for cell in column}
        return "labels" if together <= set(_SWITCH) else "values"
    numbers = [_number(cell) for cell in cells[0]]
    known = [number for number in numbers if number is not None]
    if not known:
        return "classes"
    if len(known) < len(numbers):
        texts, others = (
            [row for row, number in enumerate(numbers) if (number is None) is text]
            for text in (True, False)
        )
        few, which = (texts, "text") if len(texts) < len(others) else (others, "a number")
        if len(few) * 10 <= len(numbers):
            raise InputError(
                f"{table.source}: {table.where(few)}: {cells[0][few[0]]!r} is {which}, and other "
                f"cells of `{columns[0]}` are not: mend it, or say what they are: --task classes"
            )
        return "classes"
    whole = all(number.is_integer() for number in known)
    return "classes" if whole and len(set(known)) <= MOST_CLASSES else "values"


def _classes(table: Table, column: str, cells: Sequence[str]) -> Outcomes:
    counts = Counter(cells)
    if len(counts) < 2:
        raise InputError(
            f"{table.source}: all rows have the same `{column}`, {cells[0]!r}: two classes or more "
            "are wanted"
        )
    alone = [row for row, cell in enumerate(cells) if counts[cell] == 1]
    if alone:
        named = ", ".join(cells[row] for row in alone[:5])
        raise InputError(
            f"{table.source}: {table.where(alone)}: a class with one example: {named}; two or more "
            "are wanted, or, of numbers that are no classes, --task values"
        )
    names = tuple(sorted(counts, key=lambda name: (_number(name) is None, _number(name), name)))
    numbers = {name: number for number, name in enumerate(names)}
    return Outcomes("classes", names, np.array([numbers[cell] for cell in cells]))


def _labels(table: Table, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> Outcomes:
    found = _switches(table, columns, cells)
    for name, column in zip(columns, found.T, strict=True):
        for value in (True, False):
            if (column == value).sum() < 2:
                raise InputError(
                    f"{table.source}: `{name}` is {int(value)} in {int((column == value).sum())} "
                    "rows; two or more of either are wanted"
                )
    return Outcomes("labels", tuple(columns), found)


def _switches(
    table: Table, columns: Sequence[str], cells: Sequence[Sequence[str]]
) -> NDArray[np.bool_]:
    for name, column in zip(columns, cells, strict=True):
        wrong = [row for row, cell in enumerate(column) if cell.lower() not in _SWITCH]
        if wrong:
            raise InputError(
                f"{table.source}: {table.where(wrong)}: `{name}` is {column[wrong[0]]!r}, and "
                "labels are 0 or 1"
            )
    return np.array([[_SWITCH[cell.lower()] for cell in column] for column in cells]).T


def _values(
    table: Table, columns: Sequence[str], cells: Sequence[Sequence[str]]
) -> NDArray[np.float32]:
    for name, column in zip(columns, cells, strict=True):
        wrong = [row for row, cell in enumerate(column) if _number(cell) is None]
        if wrong:
            raise InputError(
                f"{table.source}: {table.where(wrong)}: `{name}` is {column[wrong[0]]!r}, which is "
                "no finite number"
            )
    return np.array([[float(cell) for cell in column] for column in cells], np.float32).T


def _number(cell: str) -> float | None:
    """Read a finite number; None where it is none."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
