"""BED files: regions with a name, a score, and whatever columns follow."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dnamamba.data.fasta import decompress
from dnamamba.data.region import Region, require_contig
from dnamamba.errors import InputError
from dnamamba.files import require_file

_DISPLAY_LINES = ("track", "browser")


@dataclass(frozen=True)
class BedRecord:
    """One line of a BED file.

    Attributes
    ----------
    region
        Where it lies; strand + where the file gives none.
    name, score
        Columns 4 and 5 as text; "" where there are none.
    extra
        The columns after the sixth, as text.
    line
        Its 1-based line number.
    """

    region: Region
    name: str
    score: str
    extra: tuple[str, ...]
    line: int


def read_bed(
    path: Path, lengths: Mapping[str, int] | None = None, genome: str = ""
) -> list[BedRecord]:
    """Read BED3 to BED12 and beyond, plain or gzipped.

    Columns are parted by tabs, or by any white space on a line that has no tab. Comments, `track`
    and `browser` lines and blank lines are passed over.

    Parameters
    ----------
    path
        The file; `-` is stdin.
    lengths
        Contig to length: regions must lie inside. None checks nothing.
    genome
        The genome's file name, for errors.

    Raises
    ------
    InputError
        With file and line, for what is not BED, a region whose start lies behind its end, an
        unknown contig, or a region that ends behind its contig.
    """
    if str(path) == "-":
        text = b"".join(decompress(sys.stdin.buffer, "stdin"))
    else:
        with require_file(path).open("rb") as handle:
            text = b"".join(decompress(handle, str(path)))
    records = []
    for number, line in enumerate(text.decode("utf-8-sig", "replace").splitlines(), start=1):
        words = line.split(maxsplit=1)
        if words and words[0] not in _DISPLAY_LINES and not line.startswith("#"):
            place = f"line {number:,} of {'stdin' if str(path) == '-' else path}"
            records.append(_read_line(line, number, place, lengths, genome))
    return records


def _read_line(
    line: str, number: int, place: str, lengths: Mapping[str, int] | None, genome: str
) -> BedRecord:
    columns = line.split("\t") if "\t" in line else line.split()
    if len(columns) < 3:
        raise InputError(f"{place}: not BED: contig, start and end are wanted, parted by tabs")
    contig, first, last = (column.strip() for column in columns[:3])
    if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
        raise InputError(f"{place}: {first!r} to {last!r}: whole numbers are wanted, from 0 on")
    start, end = int(first), int(last)
    if start > end:
        raise InputError(f"{place}: start {start:,} lies behind end {end:,}")
    if lengths is not None:
        try:
            require_contig(contig, lengths, genome)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
        if end > lengths[contig]:
            raise InputError(
                f"{place}: end {end:,} lies behind {contig} of {genome}, which ends at "
                f"{lengths[contig]:,}; is the BED for another assembly?"
            )
    name, score, strand = (*columns[3:6], "", "", "")[:3]
    if strand not in ("", ".", "+", "-"):
        raise InputError(f"{place}: strand {strand!r} is none of + - .")
    region = Region(contig, start, end, "-" if strand == "-" else "+")
    return BedRecord(region, name, score, tuple(columns[6:]), number)
