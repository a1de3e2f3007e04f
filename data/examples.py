"""Labelled sequences: a table with a sequence and its labels in each row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.alphabet import BASE, Codes, encode, reverse_complement
from dnamamba.data.table import Table, empty_cells, read_table
from dnamamba.data.targets import Targets
from dnamamba.errors import InputError

SEQUENCE: Final = "sequence"
LABEL: Final = "label"


@dataclass(frozen=True, eq=False)
class Examples:
    """Sequences, and the table that they stand in.

    Attributes
    ----------
    sequences
        (bases,) uint8 store codes each, of any lengths.
    table
        All columns of the rows, those of labels among them.
    windows
        Where in a genome they lie; None where they are not said to lie in one.
    """

    sequences: list[Codes]
    table: Table
    windows: Targets | None = None

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def labels(self) -> list[str]:
        """The column `label`."""
        return self.table.column(LABEL)


def read_examples(
    path: Path, *, sequence: str = SEQUENCE, labels: tuple[str, ...] = (LABEL,)
) -> Examples:
    """Read a table of sequences.

    Parameters
    ----------
    path
        As for `read_table`.
    sequence
        The column of sequences.
    labels
        Columns that every row must have a cell in.

    Raises
    ------
    InputError
        As `read_table`; for a column that is missing; and, all at once and with their rows, for
        cells that are empty and sequences with letters that are no DNA.
    """
    table = read_table(path)
    faults = list(empty_cells(table, (sequence, *labels)))
    codes, wrong, why = [], [], ""
    for row, text in enumerate(table.column(sequence)):
        try:
            codes.append(encode(text))
        except InputError as error:
            wrong.append(row)
            why = why or str(error)
    if wrong:
        first = ", the first" if len(wrong) > 1 else ""
        faults.append(f"{table.where(wrong)}: no DNA{first}: {why}")
    if faults:
        raise InputError(f"{table.source}: {'; '.join(faults)}")
    return Examples(codes, table)


def are_new(sequences: Sequence[Codes], train: Sequence[Codes]) -> NDArray[np.bool_]:
    """Tell which sequences do not stand in train, on neither strand, soft-masked or not."""
    seen = {(codes & np.uint8(BASE)).tobytes() for codes in train}
    seen |= {reverse_complement(codes & np.uint8(BASE)).tobytes() for codes in train}
    return np.array([(codes & np.uint8(BASE)).tobytes() not in seen for codes in sequences], bool)
