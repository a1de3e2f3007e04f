"""Tables of labelled sequences: a TSV or CSV with a sequence and a label on each line."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dnamamba.alphabet import Codes, encode
from dnamamba.data.lines import name_source, read_lines
from dnamamba.errors import InputError

SEQUENCE: Final = "sequence"
LABEL: Final = "label"


@dataclass(frozen=True)
class Examples:
    """Labelled sequences.

    Attributes
    ----------
    sequences
        (bases,) uint8 store codes each, of any lengths.
    labels
        Of each, as it stands in the table.
    """

    sequences: list[Codes]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.labels)


def read_examples(path: Path) -> Examples:
    """Read a table; tabs or commas part its columns, whichever the header has.

    Parameters
    ----------
    path
        Plain text, gzip or BGZF, with a header that names `sequence` and `label`; `-` is stdin.

    Raises
    ------
    InputError
        With file and line: for a column that is missing, a line of another width than the header,
        and for a sequence or label that is empty or, with its position, no DNA.
    """
    source = name_source(path)
    lines = list(read_lines(path))
    if not lines:
        raise InputError(f"{source}: empty; a header with {SEQUENCE} and {LABEL} is wanted")
    delimiter = "\t" if "\t" in lines[0][1] else ","
    header, *rows = csv.reader((line for _, line in lines), delimiter=delimiter)
    for name in (SEQUENCE, LABEL):
        if name not in header:
            raise InputError(f"{source}: no column `{name}`; the header is {', '.join(header)}")
    sequences, labels = [], []
    for (number, _), row in zip(lines[1:], rows, strict=True):
        if len(row) != len(header):
            raise InputError(
                f"{source}: line {number:,}: {len(row)} columns; the header has {len(header)}"
            )
        given = dict(zip(header, row, strict=True))
        for name in (SEQUENCE, LABEL):
            if not given[name]:
                raise InputError(f"{source}: line {number:,}: the column `{name}` is empty")
        try:
            sequences.append(encode(given[SEQUENCE]))
        except InputError as error:
            raise InputError(f"{source}: line {number:,}: {error}") from error
        labels.append(given[LABEL])
    return Examples(sequences, labels)
