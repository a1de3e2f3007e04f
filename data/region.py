"""Regions of a genome: parsed and compared in this one place.

Inside the program a region is 0-based and half-open, as in BED and Python. Text is read and written
as samtools does: 1-based, both ends inside. A contig is never renamed silently.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from dnamamba.errors import InputError, UsageError

_RANGE = re.compile(r"(?P<start>[0-9][0-9,]*)?(?P<dash>-)?(?P<end>[0-9][0-9,]*)?")
_STRAND = re.compile(r"(?P<place>.+)\((?P<strand>[+-])\)")


@dataclass(frozen=True, order=True)
class Region:
    """Bases `start` to `end` of a contig, 0-based and half-open.

    `len(region)` is its bases; `str(region)` is samtools' text (`chr1:1001-2000`, with `(-)` after
    it on the reverse strand).

    Raises
    ------
    UsageError
        Unless 0 <= start <= end and strand is + or -.
    """

    contig: str
    start: int
    end: int
    strand: str = "+"

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end or self.strand not in ("+", "-"):
            raise UsageError(
                f"{self.contig}: no region from {self.start} to {self.end} on strand "
                f"{self.strand!r}: 0 <= start <= end is wanted, and strand + or -"
            )

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        mark = "(-)" if self.strand == "-" else ""
        return f"{self.contig}:{self.start + 1}-{self.end}{mark}"


def parse_region(text: str, lengths: Mapping[str, int], source: str) -> Region:
    """Read a region as samtools writes it.

    Parameters
    ----------
    text
        `name`, `name:start-end`, `name:start` or `name:start-` (to the end), or `name:-end`;
        1-based, both ends inside, commas allowed; `(+)` or `(-)` may follow. A text that is a
        contig's whole name is that contig, whatever colons it has.
    lengths
        Contig to its length in bases.
    source
        The genome's file name, for errors.

    Raises
    ------
    InputError
        For an unknown contig, a range that is none, or one outside the contig.
    """
    if text in lengths:
        return Region(text, 0, lengths[text])
    strand = "+"
    if match := _STRAND.fullmatch(text):
        text, strand = match["place"], match["strand"]
        if text in lengths:
            return Region(text, 0, lengths[text], strand)
    contig, colon, place = text.rpartition(":")
    if not colon:
        require_contig(text, lengths, source)
    match = _RANGE.fullmatch(place)
    if match is None or not (match["start"] or match["end"]):
        if contig not in lengths:
            require_contig(text, lengths, source)
        raise InputError(
            f"{text!r}: {place!r} is not a range; write {contig}:START-END, 1-based, both ends "
            f"inside, such as {contig}:1,001-2,000"
        )
    require_contig(contig, lengths, source)
    length = lengths[contig]
    start = _number(match["start"], 1)
    end = _number(match["end"], length)
    if start < 1 or start > length or end > length:
        raise InputError(f"{text!r}: {contig} of {source} is 1-{length:,}")
    if start > end:
        raise InputError(f"{text!r}: the start lies behind the end; swap them")
    return Region(contig, start - 1, end, strand)


def _number(text: str | None, default: int) -> int:
    return int(text.replace(",", "")) if text else default


def require_contig(name: str, lengths: Mapping[str, int], source: str) -> str:
    """Return `name` if the genome has it.

    Raises
    ------
    InputError
        Naming the nearest contig that the genome has.
    """
    if name not in lengths:
        _unknown_contig(name, lengths, source)
    return name


def _unknown_contig(name: str, lengths: Mapping[str, int], source: str) -> NoReturn:
    raise InputError(f"`{name}` is not in {source}; {suggest_contig(name, lengths)}")


def suggest_contig(name: str, lengths: Mapping[str, int]) -> str:
    """Word the cure for a contig name that the genome lacks."""
    near = nearest_contig(name, lengths)
    return f"did you mean `{near}`?" if near else f"it holds {list_contigs(lengths)}"


def nearest_contig(name: str, lengths: Mapping[str, int]) -> str | None:
    """Find the contig that a name may mean: another spelling, or one that looks much like it."""
    if respelt := respell_contig(name, lengths):
        return respelt
    close = difflib.get_close_matches(name, lengths, n=1)
    return close[0] if close else None


def respell_contig(name: str, lengths: Mapping[str, int]) -> str | None:
    """Find the contig that goes by another spelling: with or without `chr`, or in other case."""
    bare = re.sub("^chr", "", name, flags=re.IGNORECASE)
    mitochondrion = ("chrM", "MT", "M", "chrMT") if bare.upper() in ("M", "MT") else ()
    wanted = {near.lower() for near in (name, bare, f"chr{bare}", *mitochondrion)}
    return next((contig for contig in lengths if contig.lower() in wanted), None)


def list_contigs(lengths: Mapping[str, int]) -> str:
    """Name a genome's first contigs, and count the others."""
    first = ", ".join(f"`{contig}`" for contig in list(lengths)[:5])
    return first + (f" and {len(lengths) - 5:,} more" if len(lengths) > 5 else "")


def merge(regions: Iterable[Region]) -> list[Region]:
    """Sort regions and join those that overlap or touch; strands are dropped, empty ones too."""
    merged: list[Region] = []
    for region in sorted(regions):
        if not len(region):
            continue
        last = merged[-1] if merged else None
        if last and last.contig == region.contig and region.start <= last.end:
            merged[-1] = Region(last.contig, last.start, max(last.end, region.end))
        else:
            merged.append(Region(region.contig, region.start, region.end))
    return merged


def intersect(a: Iterable[Region], b: Iterable[Region]) -> list[Region]:
    """Return the bases that lie in both sets, merged and sorted."""
    left, right = merge(a), merge(b)
    shared: list[Region] = []
    i = j = 0
    while i < len(left) and j < len(right):
        one, other = left[i], right[j]
        if one.contig == other.contig:
            start, end = max(one.start, other.start), min(one.end, other.end)
            if start < end:
                shared.append(Region(one.contig, start, end))
        if (one.contig, one.end) < (other.contig, other.end):
            i += 1
        else:
            j += 1
    return shared


def subtract(a: Iterable[Region], b: Iterable[Region]) -> list[Region]:
    """Return the bases of `a` that are not in `b`, merged and sorted."""
    left = merge(a)
    holes = intersect(left, b)
    kept: list[Region] = []
    at = 0
    for region in left:
        start = region.start
        while at < len(holes) and holes[at].contig == region.contig and holes[at].end <= region.end:
            if start < holes[at].start:
                kept.append(Region(region.contig, start, holes[at].start))
            start = holes[at].end
            at += 1
        if start < region.end:
            kept.append(Region(region.contig, start, region.end))
    return kept
