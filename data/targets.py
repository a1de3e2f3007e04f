"""What is to be embedded or scored: windows of a genome, cut from regions of any length.

They are kept as columns: a mammal has millions. Their order is that of the regions they come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dnamamba.data.annotation import BedTable
from dnamamba.data.region import Region
from dnamamba.errors import UsageError

Short = Literal["refuse", "pad", "skip"]
"""What becomes of windows for which a region or contig is too short: an error; read as much as
there is; or leave them out."""


@dataclass(frozen=True, eq=False)
class Targets:
    """Windows of a genome.

    Attributes
    ----------
    contigs
        The genome's.
    contig
        (windows,) int32, which of them.
    starts, ends
        (windows,) int64, 0-based and half-open, inside the contig.
    reverse
        (windows,) bool, whether the reverse strand is meant.
    origin
        (windows,) int64: the row of the table, or the number of the contig, that each comes from.
    """

    contigs: tuple[str, ...]
    contig: NDArray[np.int32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    reverse: NDArray[np.bool_]
    origin: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    def region(self, row: int) -> Region:
        """Return one window."""
        strand = "-" if self.reverse[row] else "+"
        contig = self.contigs[self.contig[row]]
        return Region(contig, int(self.starts[row]), int(self.ends[row]), strand)

    def chosen(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "Targets":
        """Return some of the windows."""
        columns = ("contig", "starts", "ends", "reverse", "origin")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})


def whole_contigs(lengths: Mapping[str, int], wanted: Sequence[str]) -> Targets:
    """Take each wanted contig whole, on the + strand."""
    numbers = {name: number for number, name in enumerate(lengths)}
    count = len(wanted)
    return Targets(
        contigs=tuple(lengths),
        contig=np.array([numbers[name] for name in wanted], np.int32),
        starts=np.zeros(count, np.int64),
        ends=np.array([lengths[name] for name in wanted], np.int64),
        reverse=np.zeros(count, bool),
        origin=np.arange(count),
    )


def table_rows(table: BedTable, lengths: Mapping[str, int]) -> Targets:
    """Take each region of a table that was read for this genome."""
    numbers = {name: number for number, name in enumerate(lengths)}
    return Targets(
        contigs=tuple(lengths),
        contig=np.fromiter((numbers[name] for name in table.contigs), np.int32, len(table)),
        starts=table.starts,
        ends=table.ends,
        reverse=np.fromiter((strand == "-" for strand in table.strands), bool, len(table)),
        origin=np.arange(len(table)),
    )


def tile(regions: Targets, window: int, stride: int, short: Short = "refuse") -> Targets:
    """Lay windows along each region, from its start, every `stride` bases.

    On the reverse strand they are laid from the region's end. A last one that does not fit is left
    out, unless it is padded.

    Raises
    ------
    UsageError
        For a region that is shorter than a window, where that is refused.
    """
    sizes = regions.ends - regions.starts
    regions = _handle_short(regions, sizes < window, window, short)
    sizes = regions.ends - regions.starts
    fitting = np.maximum(0, (sizes - window) // stride + 1)
    # A padded one begins where there is still a base that no whole window holds.
    held = np.where(fitting > 0, (fitting - 1) * stride + window, 0)
    more = (held < sizes) & (fitting * stride < sizes) & (short == "pad")
    counts = fitting + more
    rows = np.repeat(np.arange(len(regions)), counts)
    number = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = number * stride
    end = np.minimum(begin + window, sizes[rows])
    tiles = regions.chosen(rows)
    starts = np.where(tiles.reverse, tiles.ends - end, tiles.starts + begin)
    return replace(tiles, starts=starts, ends=starts + (end - begin))


def centre(
    regions: Targets, window: int, lengths: Mapping[str, int], short: Short = "refuse"
) -> Targets:
    """Lay a window around the middle of each region.

    Of an even number of bases, the middle one is the one behind the middle.

    Raises
    ------
    UsageError
        For a window that reaches over an end of its contig, where that is refused.
    """
    middles = (regions.starts + regions.ends) // 2
    starts = middles - window // 2
    ends = starts + window
    contig_ends = np.array([lengths[name] for name in regions.contigs], np.int64)[regions.contig]
    over = (starts < 0) | (ends > contig_ends)
    windows = replace(regions, starts=np.maximum(starts, 0), ends=np.minimum(ends, contig_ends))
    return _handle_short(windows, over, window, short)


def _handle_short(
    windows: Targets, is_short: NDArray[np.bool_], window: int, short: Short
) -> Targets:
    if short == "skip":
        return windows.chosen(~is_short)
    if short == "refuse" and is_short.any():
        count = int(is_short.sum())
        first = windows.region(int(is_short.argmax()))
        raise UsageError(
            f"{count:,} {'regions have' if count > 1 else 'region has'} no room for a window of "
            f"{window:,} bases, the first at {first}: --short pad reads what there is, "
            "--short skip leaves them out"
        )
    return windows
