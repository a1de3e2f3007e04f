"""BED files: regions, and columns that are called what a header says, or else what BED says."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from dnamamba.data.annotation import BedTable, TableBuilder
from dnamamba.data.lines import read_lines
from dnamamba.errors import InputError

_PLACE: Final = ("chrom", "start", "end")
_BED6: Final = ("name", "score", "strand")
_THICK: Final = ("thick_start", "thick_end", "item_rgb")
_BLOCKS: Final = ("block_count", "block_sizes", "block_starts")
_PEAK: Final = ("signal_value", "p_value", "q_value")
_BY_SUFFIX: Final = {
    ".narrowpeak": (*_BED6, *_PEAK, "peak"),
    ".broadpeak": (*_BED6, *_PEAK),
    ".bedgraph": ("value",),
}
_KNOWN: Final = (*_PLACE, *_BED6, *_THICK, *_BLOCKS, *_PEAK, "peak", "value")
_SPELT: Final = {label.replace("_", ""): label for label in _KNOWN}
_COLOUR: Final = re.compile(r"0|\.|[0-9]+,[0-9]+,[0-9]+")
_LIST: Final = re.compile(r"[0-9]+(,[0-9]+)*,?")
_DISPLAY: Final = ("track", "browser")


def is_bed_name(path: Path) -> bool:
    """Tell whether a file is called as BED and its kin are, such as `peaks.narrowPeak.gz`."""
    return path.name.lower().removesuffix(".gz").endswith((".bed", *_BY_SUFFIX))


def read_bed(
    path: Path,
    lengths: Mapping[str, int] | None = None,
    genome: str = "",
    only: Collection[str] | None = None,
) -> BedTable:
    """Read BED3 to BED12 and beyond, plain or gzipped, in any order.

    Columns are parted by tabs, or by any white space on a line that has no tab. Comments, `track`
    and `browser` lines and blank lines are passed over.

    A header is the first line that is no comment, or a comment before it with as many columns,
    that calls the second column a start and the third an end (`chromStart`, `txEnd`, `stop`). Its
    labels stay as they are, but those of BED are written `thick_start`. Without a header, columns
    4 to 12 are those of BED; 7 and above are `column_7` and so on where the first line has other
    things there. Files called .narrowPeak, .broadPeak and .bedGraph need no header.

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

    Returns
    -------
    A row for each line. Names and scores are the columns labelled so, else columns 4 and 5 unless
    those are something else that BED knows.

    Raises
    ------
    InputError
        With all contigs that the genome lacks; and for every other fault the first lines that have
        it, and how many more: what is not BED, a start behind its end, a strand that is none, more
        or fewer columns than in other lines, a region that ends behind its contig.
    """
    builder = TableBuilder(path, lengths, genome, only)
    header, lines = _find_header(read_lines(path))
    labels = _header_labels(header, builder.source)
    width = len(header)
    strand_at = _place_of("strand", labels)
    for number, line in lines:
        if _is_display(line):
            continue
        cells = _split(line)
        if len(cells) < 3:
            builder.fault(number, "not BED: contig, start and end are wanted, parted by tabs")
            continue
        place = builder.parse_place(number, cells[1].strip(), cells[2].strip(), origin=0)
        if place is None:
            continue
        if not width:
            width = len(cells)
            labels = _standard_labels(path, cells, place)
            strand_at = _place_of("strand", labels)
        if len(cells) != width:
            where = "the header" if header else "lines before"
            builder.fault(number, f"not {width} columns, as in {where}", f"{len(cells)} columns")
            continue
        strand = cells[strand_at].strip() or "." if strand_at else "."
        if strand not in ("+", "-", "."):
            cure = "" if header else " (a header can say what column 6 is)"
            builder.fault(number, f"strand is none of + - .{cure}", repr(strand[:20]))
            continue
        builder.add(number, cells[0].strip(), *place, strand, cells[3:])
    return builder.table(labels, _label_of("name", 0, labels), _label_of("score", 1, labels))


def _split(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.split()


def _is_display(line: str) -> bool:
    """Whether a line is a comment, or for a browser alone."""
    return line.startswith("#") or (
        line.startswith(_DISPLAY) and line.split(maxsplit=1)[0] in _DISPLAY
    )


def _find_header(
    lines: Iterator[tuple[int, str]],
) -> tuple[list[str], Iterator[tuple[int, str]]]:
    """Return the header's cells, none without one, and the lines after it."""
    comment: list[str] = []
    for number, line in lines:
        if line.startswith("#"):
            cells = _split(line.lstrip("# "))
            comment = cells if _is_header(cells) else comment
        elif not _is_display(line):
            cells = _split(line)
            if _is_header(cells):
                return cells, lines
            header = comment if len(comment) == len(cells) else []
            return header, chain([(number, line)], lines)
    return comment, lines


def _is_header(cells: Sequence[str]) -> bool:
    if len(cells) < 3:
        return False
    start, end = cells[1].lower(), cells[2].lower()
    return "start" in start and ("end" in end or "stop" in end)


def _header_labels(header: Sequence[str], source: str) -> list[str]:
    labels = []
    for number, cell in enumerate(header[3:], start=4):
        known = _SPELT.get(re.sub("[^a-z]", "", cell.lower()))
        labels.append(known or cell.strip() or f"column_{number}")
    again = [label for label, count in Counter((*_PLACE, *labels)).items() if count > 1]
    if again:
        raise InputError(f"{source}: header: two columns are called `{again[0]}`; rename one")
    return labels


def _standard_labels(path: Path, cells: Sequence[str], place: tuple[int, int]) -> list[str]:
    """Label the columns after the third of a file without a header, by its first line."""
    name = path.name.lower().removesuffix(".gz")
    special = [labels for suffix, labels in _BY_SUFFIX.items() if name.endswith(suffix)]
    labels = special[0] if special else _BED6 + _bed12_labels(cells, place)
    rest = (f"column_{number}" for number in range(len(labels) + 4, len(cells) + 1))
    return [*labels, *rest][: len(cells) - 3]


def _bed12_labels(cells: Sequence[str], place: tuple[int, int]) -> tuple[str, ...]:
    """Return the labels of columns 7 to 9, or 7 to 12, where a line has there what BED has."""
    start, end = place
    thick, colour, blocks = cells[6:8], cells[8:9], cells[9:12]
    if not all(cell.isdecimal() and start <= int(cell) <= end for cell in thick):
        return ()
    if not all(map(_COLOUR.fullmatch, colour)):
        return ()
    is_bed12 = len(blocks) == 3 and all(map(_LIST.fullmatch, blocks))
    return _THICK + _BLOCKS if is_bed12 else _THICK


def _place_of(label: str, labels: Sequence[str]) -> int:
    """Return which column, counted from 0, has a label; 0 if none."""
    return labels.index(label) + 3 if label in labels else 0


def _label_of(wanted: str, place: int, labels: Sequence[str]) -> str:
    """Return `wanted` if a column is labelled so, else the label of the column in its place."""
    if wanted in labels:
        return wanted
    in_place = labels[place] if place < len(labels) else ""
    return "" if in_place in _KNOWN else in_place
