"""Regions of a genome that something is said of: BED, or a table with chrom, start and end."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.alphabet import Codes
from dnamamba.data.annotation import BedTable, TableBuilder
from dnamamba.data.bed import read_bed
from dnamamba.data.lines import read_lines
from dnamamba.data.store import Store
from dnamamba.data.table import Table, is_parquet, read_table
from dnamamba.data.targets import Targets, centre, table_rows
from dnamamba.errors import InputError

PLACE: Final = ("chrom", "start", "end")
"""The columns of a table that say where a region lies; `strand` may stand beside them."""
_STRANDS: Final = ("+", "-", ".")
_LINE: Final = 1 << 48
"""Bases from the begin of one contig to that of the next, where all are laid on one line."""


@dataclass(frozen=True, eq=False)
class Regions:
    """Windows of a genome, and the table that says what they are.

    Attributes
    ----------
    windows
        (rows,), in the order of the table.
    table
        All columns of the rows; of BED they are called as `read_bed` has it.
    """

    windows: Targets
    table: Table

    def __len__(self) -> int:
        return len(self.table)


def read_regions(path: Path, store: Store, window: int | None = None) -> Regions:
    """Read regions, and the windows that are laid around their middles.

    Parameters
    ----------
    path
        BED3 to BED12 and beyond, as `read_bed` has it; or CSV, TSV or Parquet whose header has
        `chrom`, `start` and `end`, and maybe `strand`, 0-based and half-open as in BED.
    store
        The genome's.
    window
        Bases of each; None takes regions as they are.

    Raises
    ------
    InputError
        As `read_table` and `read_bed`: all contigs that the genome lacks, and the lines of all
        other faults; for regions without a base, windows that reach over the end of a contig, and
        a file without regions.
    """
    lengths, genome = store.lengths, store.source.name
    if _is_table(path):
        table = read_table(path)
        bed = _places(path, table, store)
    else:
        bed = read_bed(path, lengths, genome)
        place = (bed.contigs, *(list(map(str, each.tolist())) for each in (bed.starts, bed.ends)))
        columns = {**dict(zip(PLACE, place, strict=True)), **bed.columns}
        table = Table(str(path), columns, bed.lines.tolist())
    if not len(table):
        raise InputError(f"{table.source}: holds no region")
    regions = table_rows(bed, lengths)
    if window is None:
        without, why = regions.starts == regions.ends, "a region without a base"
        cure = "--window N lays a window around its middle"
    else:
        regions = centre(regions, window, lengths, "pad")
        without = regions.ends - regions.starts < window
        why = f"no room for a window of {window:,} bases before an end of the contig"
        cure = "leave it out, or choose a smaller --window"
    if without.any():
        where = table.where(np.flatnonzero(without).tolist())
        raise InputError(f"{table.source}: {where}: {why}; {cure}")
    return Regions(regions, table)


def _is_table(path: Path) -> bool:
    """Tell a table, by a header with the names of `PLACE`, from BED."""
    if str(path) != "-" and path.is_file() and is_parquet(path):
        return True
    with closing(read_lines(path)) as lines:
        _, header = next(lines, (0, ""))
    return any(set(PLACE) <= set(header.replace('"', "").split(mark)) for mark in "\t,")


def _places(path: Path, table: Table, store: Store) -> BedTable:
    builder = TableBuilder(path, store.lengths, store.source.name, unit=table.unit)
    cells = [table.column(name) for name in PLACE]
    strands = table.columns.get("strand") or ["."] * len(table)
    for number, *where, strand in zip(table.numbers, *cells, strands, strict=True):
        contig, start, end = (cell.strip() for cell in where)
        place = builder.parse_place(number, start, end, origin=0)
        if (strand.strip() or ".") not in _STRANDS:
            builder.fault(number, "strand is none of + - .", repr(strand[:20]))
        elif place is not None:
            builder.add(number, contig, *place, strand.strip() or ".", ())
    return builder.table((), "")


def fetch(store: Store, windows: Targets) -> Iterator[Codes]:
    """Yield the (bases,) uint8 store codes of each window; strand - is read backwards."""
    for row in range(len(windows)):
        yield store.fetch(windows.region(row))


def forward(windows: Targets) -> Targets:
    """Return the same windows, all of them on the + strand."""
    return replace(windows, reverse=np.zeros(len(windows), bool))


def overlap(windows: Targets, others: Targets) -> NDArray[np.bool_]:
    """Tell which windows share a base with any of some others of the same genome, by strand not."""
    starts, ends = _on_a_line(windows)
    other_starts, other_ends = _on_a_line(others)
    order = np.argsort(other_starts, kind="stable")
    reach = np.maximum.accumulate(np.append(-1, other_ends[order]))
    before = np.searchsorted(other_starts[order], ends, side="left")
    return np.asarray(reach[before] > starts)


def clusters(windows: Targets) -> NDArray[np.int64]:
    """Give the same number to windows that overlap, be it through others."""
    starts, ends = _on_a_line(windows)
    order = np.argsort(starts, kind="stable")
    reach = np.maximum.accumulate(np.append(-1, ends[order]))[:-1]
    numbers = np.empty(len(windows), np.int64)
    numbers[order] = np.cumsum(starts[order] >= reach)
    return numbers


def _on_a_line(windows: Targets) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    begins = windows.contig.astype(np.int64) * _LINE
    return begins + windows.starts, begins + windows.ends
