"""Sheets of labelled genomes: a TSV or CSV with a species and a FASTA on each line.

Beside `species` and `fasta` a sheet may have `split` (train, valid or test) and `region` (a contig,
or a part of one, as samtools writes it): one FASTA may hold several species' records. A FASTA's
path is relative to the sheet. Other columns are left alone.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dnamamba.data.splits import SIDES
from dnamamba.errors import InputError
from dnamamba.files import require_file

REQUIRED = ("species", "fasta")
UNSURE = "unsure"
"""What stands in place of a species where none is called."""


@dataclass(frozen=True)
class Row:
    """One line of a sheet.

    Attributes
    ----------
    species
        The label.
    fasta
        Where its sequence lies.
    split
        `train`, `valid` or `test`; None where the sheet leaves that open.
    region
        The part of the FASTA that is meant, as text; None is all of it.
    line
        Its 1-based line number.
    """

    species: str
    fasta: Path
    split: str | None
    region: str | None
    line: int


def read_sheet(path: Path) -> list[Row]:
    """Read a sheet; tabs or commas part its columns, whichever the header has.

    Parameters
    ----------
    path
        The file. Blank lines and lines that begin with # are passed over.

    Returns
    -------
    Its lines, in order; at least two species.

    Raises
    ------
    InputError
        With file and line: for a column that is missing, an empty cell, an unknown split, a FASTA
        that is not there, or one that is given twice.
    """
    require_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file; a TSV or CSV is wanted") from error
    rows = list(_rows(path, text))
    for row in rows:
        if not row.fasta.is_file():
            raise InputError(
                f"{path}:{row.line}: there is no file {row.fasta}; paths are relative to the sheet"
            )
    _require_one_label_each(path, rows)
    species = {row.species for row in rows}
    if len(species) < 2:
        raise InputError(f"{path}: {len(species)} species; two or more are wanted to tell apart")
    return rows


def _rows(path: Path, text: str) -> Iterator[Row]:
    lines = [
        (number, line)
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.startswith("#")
    ]
    if not lines:
        raise InputError(f"{path}: empty; a header with species and fasta is wanted")
    delimiter = "\t" if "\t" in lines[0][1] else ","
    header, *cells = csv.reader((line for _, line in lines), delimiter=delimiter)
    names = [name.strip().lower() for name in header]
    for name in REQUIRED:
        if name not in names:
            raise InputError(f"{path}: no column `{name}`; {_cure(lines[0][1], header)}")
    for (number, _), row in zip(lines[1:], cells, strict=True):
        given = {name: cell.strip() for name, cell in zip(names, row, strict=False)}
        for name in REQUIRED:
            if not given.get(name):
                raise InputError(f"{path}:{number}: the column `{name}` is empty")
        if given["species"].lower() == UNSURE or "\t" in given["species"]:
            raise InputError(
                f"{path}:{number}: species {given['species']!r}: a call of none is told by "
                f"{UNSURE!r}, and tabs part columns; choose another name"
            )
        split = given.get("split", "").lower() or None
        if split is not None and split not in SIDES:
            raise InputError(f"{path}:{number}: split {split!r} is not one of {', '.join(SIDES)}")
        fasta = path.parent / given["fasta"]
        yield Row(given["species"], fasta, split, given.get("region") or None, number)


def _cure(line: str, header: list[str]) -> str:
    if line.startswith(">"):
        return "it is a FASTA; a table is wanted that names a species and its FASTA on each line"
    if len(header) == 1 and (";" in line or " " in line.strip()):
        return f"tabs or commas part columns, and its first line has neither: {line}"
    return f"the header is {', '.join(header)}"


def _require_one_label_each(path: Path, rows: list[Row]) -> None:
    """Refuse a FASTA, or a region of one, that is given twice."""
    before: dict[tuple[Path, str | None], Row] = {}
    whole: dict[Path, Row] = {}
    for row in rows:
        fasta = row.fasta.resolve()
        others = [before.get((fasta, row.region)), whole.get(fasta)]
        if row.region is None:
            others += [other for (place, _), other in before.items() if place == fasta]
        for other in others:
            if other and other.species != row.species:
                raise InputError(
                    f"{path}:{row.line}: {row.fasta.name} is {row.species} here and "
                    f"{other.species} in line {other.line}; give each its own column `region`"
                )
        again = before.get((fasta, row.region))
        if again and again.split == row.split:
            raise InputError(
                f"{path}:{row.line}: the same sequence as line {again.line}, which would count "
                "twice; leave one out"
            )
        before[fasta, row.region] = row
        if row.region is None:
            whole.setdefault(fasta, row)
