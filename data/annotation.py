"""What BED and GTF become: a table of regions, or one error for all that is wrong with the file.

A table is kept column by column, so that millions of rows cost their text and little more.
"""

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.data.lines import name_source
from dnamamba.data.region import Region, list_contigs, nearest_contig, respell_contig
from dnamamba.errors import InputError

_SHOWN: Final = 5
"""Lines that are named for each kind of fault; the others are counted."""
_SUGGESTED: Final = 20
"""Unknown contigs for which a near name is looked for, which takes milliseconds each."""
_COORDINATE: Final = re.compile(r"[0-9]{1,18}")
_WHOLE: Final = re.compile(r"0|-?[1-9][0-9]{0,17}")
_DECIMAL: Final = re.compile(
    r"[+-]?(((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|inf)", re.IGNORECASE
)
_MISSING: Final = frozenset(("", ".", "NA", "NaN", "nan"))
_TEXT: Final = re.compile(r".*([nN]ame|(^|_)id|I[dD])|item_rgb|block_(sizes|starts)")
"""Labels of columns that stay text, though their cells may look like numbers."""


@dataclass(frozen=True, slots=True)
class BedRecord:
    """One line of a BED file, or of a GTF file in BED's terms.

    Attributes
    ----------
    region
        Where it lies; strand + where the file gives none.
    name, score
        As text; "" where there are none.
    extra
        The other columns but the strand, as text.
    line
        Its 1-based line number.
    """

    region: Region
    name: str
    score: str
    extra: tuple[str, ...]
    line: int


@dataclass(frozen=True, eq=False)
class BedTable:
    """Regions in the order of their file, and what it says of them; iterates over `BedRecord`.

    Attributes
    ----------
    contigs
        (rows,) names.
    starts, ends
        (rows,) int64, 0-based and half-open.
    strands
        (rows,) `+`, `-`, or `.` where the file gives none.
    lines
        (rows,) int64, 1-based line numbers.
    names, scores
        (rows,) text; empty lists where the file has none.
    columns
        Label to (rows,) text, for each column of the file but contig, start and end.
    """

    contigs: list[str]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    strands: list[str]
    lines: NDArray[np.int64]
    names: list[str]
    scores: list[str]
    columns: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.contigs)

    def __getitem__(self, row: int) -> BedRecord:
        strand = "-" if self.strands[row] == "-" else "+"
        return BedRecord(
            Region(self.contigs[row], int(self.starts[row]), int(self.ends[row]), strand),
            self.names[row] if self.names else "",
            self.scores[row] if self.scores else "",
            tuple(cells[row] for cells in self._extra),
            int(self.lines[row]),
        )

    def __iter__(self) -> Iterator[BedRecord]:
        return map(self.__getitem__, range(len(self)))

    @cached_property
    def _extra(self) -> list[list[str]]:
        taken = (id(self.names), id(self.scores), id(self.columns.get("strand")))
        return [cells for cells in self.columns.values() if id(cells) not in taken]

    def typed_columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns but `name` and `strand` as arrays, numbers where each cell is one.

        Returns
        -------
        Label to (rows,) int64; or float64, with NaN where a cell is empty, `.` or NA; or objects
        of str. Identifiers, names, colours and lists of blocks stay text whatever they look like.
        """
        return {
            label: np.array(cells, dtype=object) if _TEXT.fullmatch(label) else _as_numbers(cells)
            for label, cells in self.columns.items()
            if label not in ("name", "strand")
        }


def _as_numbers(cells: Sequence[str]) -> NDArray[Any]:
    if all(map(_WHOLE.fullmatch, cells)):
        return np.fromiter(map(int, cells), dtype=np.int64, count=len(cells))
    missing = [cell in _MISSING for cell in cells]
    if not all(missing) and all(
        gone or _DECIMAL.fullmatch(cell) for cell, gone in zip(cells, missing, strict=True)
    ):
        values = (np.nan if cell in _MISSING else float(cell) for cell in cells)
        return np.fromiter(values, dtype=np.float64, count=len(cells))
    return np.array(cells, dtype=object)


class TableBuilder:
    """Takes a file's regions line by line, and notes what is wrong with them for one error.

    Parameters
    ----------
    path
        The file; `-` is stdin.
    lengths
        Contig to length: regions must lie inside. None checks nothing.
    genome
        The genome's file name, for errors.
    only
        Contigs to take; what lies on others is passed over. None takes all.
    unit
        What errors call a line: of Parquet, a row.
    """

    def __init__(
        self,
        path: Path,
        lengths: Mapping[str, int] | None,
        genome: str,
        only: Collection[str] | None = None,
        unit: str = "line",
    ) -> None:
        self.source = name_source(path)
        self._unit = unit
        self._only = None if only is None else frozenset(only)
        self._lengths, self._genome = lengths, genome
        self._faults: Counter[str] = Counter()
        self._named: defaultdict[str, list[str]] = defaultdict(list)
        self._unknown: Counter[str] = Counter()
        self._seen: dict[str, str] = {}
        self._contigs: list[str] = []
        self._strands: list[str] = []
        self._starts, self._ends, self._lines = array("q"), array("q"), array("q")
        self._cells: list[list[str]] = []

    def fault(self, line: int, what: str, detail: str = "") -> None:
        """Note a line that cannot be used, by what is wrong with it and others, and in detail."""
        self._faults[what] += 1
        if self._faults[what] <= _SHOWN:
            place = f"{self._unit} {line:,}" + f" ({detail})" * bool(detail)
            self._named[what].append(place)

    def parse_place(self, line: int, first: str, last: str, origin: int) -> tuple[int, int] | None:
        """Turn two cells into a 0-based half-open start and end, or note why they are none.

        Parameters
        ----------
        line
            1-based.
        first, last
            As the file has them; counted from `origin`: 0 and half-open (BED), or 1 and both
            inside (GTF).
        """
        if not (_COORDINATE.fullmatch(first) and _COORDINATE.fullmatch(last)):
            start, end = -1, -1
        else:
            start, end = int(first) - origin, int(last)
        if start < 0:
            what = f"start and end are no whole numbers from {origin} on"
            self.fault(line, what, f"{first[:20]!r} to {last[:20]!r}")
        elif start + origin > end:
            self.fault(line, "start lies behind end", f"{start + origin:,} to {end:,}")
        else:
            return start, end
        return None

    def add(
        self, line: int, contig: str, start: int, end: int, strand: str, cells: Sequence[str]
    ) -> None:
        """Take one region, with as many cells as each other has; or note why it cannot be."""
        if self._only is not None and contig not in self._only:
            return
        if self._lengths is not None and contig not in self._lengths:
            self._unknown[contig] += 1
            return
        contig = self._seen.setdefault(contig, contig)
        if self._lengths is not None:
            length = self._lengths[contig]
            if end > length:
                what = f"behind a contig's end in {self._genome} (another assembly's, or to be cut)"
                self.fault(line, what, f"to {end:,}, and {contig} has {length:,} bases")
                return
        self._contigs.append(contig)
        self._starts.append(start)
        self._ends.append(end)
        self._lines.append(line)
        self._strands.append(strand)
        if not self._cells:
            self._cells = [[] for _ in cells]
        for column, cell in zip(self._cells, cells, strict=True):
            column.append(cell)

    def table(self, labels: Sequence[str], name: str, score: str = "") -> BedTable:
        """Return what was taken.

        Parameters
        ----------
        labels
            Of the cells, in order.
        name, score
            Those among them that are names and scores; "" where there are none.

        Raises
        ------
        InputError
            Where anything was noted: all of it, with the first lines of each kind.
        """
        said = [f"{what}: {self._places(what)}" for what in self._faults]
        if self._unknown:
            said.append(self._describe_unknown())
        if said:
            raise InputError(f"{self.source}: {'; '.join(said)}")
        columns = dict(zip(labels, self._cells or [[] for _ in labels], strict=True))
        return BedTable(
            self._contigs,
            np.frombuffer(self._starts, dtype=np.int64),
            np.frombuffer(self._ends, dtype=np.int64),
            self._strands,
            np.frombuffer(self._lines, dtype=np.int64),
            columns.get(name, []),
            columns.get(score, []),
            columns,
        )

    def _places(self, what: str) -> str:
        more = self._faults[what] - _SHOWN
        return ", ".join(self._named[what]) + (f" and {more:,} more" if more > 0 else "")

    def _describe_unknown(self) -> str:
        """Name all contigs that the genome lacks, and what to do about them.

        Where some lines have the genome's names, others are other contigs, however much alike.
        """
        lengths = self._lengths or {}
        find = respell_contig if self._seen else nearest_contig
        near = {name: find(name, lengths) for name in list(self._unknown)[:_SUGGESTED]}
        said = []
        for name, count in self._unknown.items():
            hint = f"; did you mean `{near[name]}`?" if near.get(name) else ""
            said.append(f"`{name}` ({count:,} {self._unit}{'s' * (count > 1)}{hint})")
        named = f"not in {self._genome}: {', '.join(said)}"
        if any(near.values()):
            return named
        mine = next(iter(self._seen), "")
        keep = f"; grep -w ^{mine} keeps the lines of {mine}" if mine else ""
        return f"{named}; it holds {list_contigs(lengths)}{keep}"
