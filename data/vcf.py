"""VCF as text: lines are read, and given back byte for byte but for what is added to INFO.

A library that parses VCF would write other bytes than it read: htslib keeps floats in 32 bits and
writes six digits of them, and wants each contig and key in the header. Here a record is split at
its tabs, and only its first five columns and INFO are looked into. VCF 4.5 is the specification:
https://samtools.github.io/hts-specs/VCFv4.5.pdf
"""

import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from dnamamba.data.fasta import compression, decompress
from dnamamba.data.lines import name_source
from dnamamba.errors import InputError
from dnamamba.files import require_file

COLUMNS: Final = (b"#CHROM", b"POS", b"ID", b"REF", b"ALT", b"QUAL", b"FILTER", b"INFO")
_INFO: Final = 7
_END_MARK: Final = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""The empty block that ends a BGZF file (SAM specification, section 4.1.2)."""


class Record(NamedTuple):
    """What a line says of its variant.

    Attributes
    ----------
    line
        Its 1-based number.
    contig, name
        CHROM and ID.
    position
        POS, 1-based; 0 is before the first base.
    ref
        REF, as it is spelt.
    alts
        ALT, parted at commas; a single `.` where there is none.
    info
        INFO, as it is spelt.
    """

    line: int
    contig: str
    position: int
    name: str
    ref: str
    alts: tuple[str, ...]
    info: str = ""

    def value(self, key: str, allele: int) -> str | None:
        """Return what INFO says under a key: "" of a flag, None where the key is missing or ".".

        Where there is a value for each of several alternate alleles, it is that of number `allele`.
        """
        for entry in self.info.split(";"):
            name, _, text = entry.partition("=")
            if name == key:
                each = text.split(",")
                if len(each) == len(self.alts):
                    text = each[allele]
                return None if text == "." else text
        return None


class Vcf:
    """A VCF that may be read more than once; `open_vcf` makes it.

    Parameters
    ----------
    path
        Where its bytes lie.
    source
        What errors call it.
    """

    def __init__(self, path: Path, source: str) -> None:
        self.path = path
        self.source = source

    def records(self) -> Iterator[Record]:
        """Yield the records in order.

        Raises
        ------
        InputError
            For what is no VCF, naming the line; and for gzip or BGZF that is not whole.
        """
        for number, line in self._lines():
            if not _is_header(line):
                yield self._record(number, line)

    def defined(self) -> set[str]:
        """Return the INFO keys that the header defines; errors as in `records`."""
        found = set()
        for _, line in self._lines():
            if line.startswith(b"##INFO=<ID="):
                found.add(line[len(b"##INFO=<ID=") :].split(b",", 1)[0].decode("utf-8", "replace"))
            elif not line.startswith(b"#"):
                break
        return found

    def annotated(self, header: Sequence[str], entries: Iterable[str]) -> Iterator[bytes]:
        """Yield the lines again, with more in their INFO.

        Parameters
        ----------
        header
            Lines to put before that of the columns, without their ends.
        entries
            For each record what is added to its INFO, `KEY=VALUE` parted by semicolons.
        """
        remaining = iter(entries)
        for _, line in self._lines():
            if _is_header(line):
                if line.startswith(COLUMNS[0]):
                    end = _line_end(line) or b"\n"
                    yield from (text.encode() + end for text in header)
                yield line
            else:
                yield _append(line, next(remaining).encode())

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield lines with their ends and their numbers, from one that was found to be VCF."""
        has_columns = False
        with self.path.open("rb") as handle:
            blocks = decompress(_Whole(handle, self.source), self.source)
            for number, line in enumerate(_cut(blocks), start=1):
                if number == 1:
                    _require_vcf(line, self.source)
                if line.startswith(COLUMNS[0]):
                    has_columns = True
                    self._require_columns(number, line)
                elif not has_columns and not _is_header(line):
                    raise InputError(
                        f"{self.source}: line {number:,}: a record before the line of columns, "
                        f"{COLUMNS[0].decode()} POS ID ...; is the header lost?"
                    )
                yield number, line
        if not has_columns:
            raise InputError(f"{self.source}: no VCF: it has no line that begins with #CHROM")

    def _require_columns(self, number: int, line: bytes) -> None:
        if tuple(line.rstrip(b"\r\n").split(b"\t")[: len(COLUMNS)]) != COLUMNS:
            wanted = b" ".join(COLUMNS).decode()
            raise InputError(
                f"{self.source}: line {number:,}: the columns are not {wanted}, parted by tabs"
            )

    def _record(self, number: int, line: bytes) -> Record:
        cells = line.rstrip(b"\r\n").split(b"\t", len(COLUMNS))
        place = f"{self.source}: line {number:,}"
        if len(cells) < len(COLUMNS):
            raise InputError(
                f"{place}: {len(cells)} columns, and {len(COLUMNS)} or more are wanted, parted by "
                "tabs; is the file complete?"
            )
        contig, position, name, ref, alt = (
            cell.decode("utf-8", "replace") for cell in cells[: _INFO - 2]
        )
        if not (position.isdecimal() and position.isascii() and len(position) < 19):
            raise InputError(f"{place}: POS {position[:20]!r} is no whole number")
        info = cells[_INFO].decode("utf-8", "replace")
        return Record(number, contig, int(position), name, ref, tuple(alt.split(",")), info)


@contextmanager
def open_vcf(path: Path) -> Iterator[Vcf]:
    """Open a VCF: plain text, gzip or BGZF, whatever its name; `-` is stdin.

    Stdin is kept in a temporary file meanwhile. No index is needed, and records may be in any
    order.

    Raises
    ------
    InputError
        Where there is no such file.
    """
    source = name_source(path)
    if source != "stdin":
        yield Vcf(require_file(path), source)
        return
    with tempfile.NamedTemporaryFile(prefix="dnamamba-", suffix=".vcf") as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
        kept.flush()
        yield Vcf(Path(kept.name), source)


class _Whole:
    """A file that is refused at its end if it is BGZF without the mark that ends it."""

    def __init__(self, handle: BinaryIO, source: str) -> None:
        self._handle = handle
        self._source = source
        self._is_bgzf: bool | None = None
        self._tail = b""

    def read(self, size: int, /) -> bytes:
        data = self._handle.read(size)
        if self._is_bgzf is None:
            self._is_bgzf = compression(data) == "bgzf"
        self._tail = (self._tail + data)[-len(_END_MARK) :]
        if not data and self._is_bgzf and self._tail != _END_MARK:
            raise InputError(
                f"{self._source}: truncated BGZF, without the mark that ends a file; fetch or "
                "write it again"
            )
        return data


def _cut(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut text into lines at LF, which they keep."""
    tail = b""
    for block in blocks:
        *lines, tail = (tail + block).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if tail:
        yield tail


def _require_vcf(line: bytes, source: str) -> None:
    if line.startswith(b"BCF"):
        raise InputError(f"{source}: is BCF; bcftools view -Oz -o X.vcf.gz {source} writes VCF")
    if not line.startswith(b"#"):
        begins = line[:20].decode("latin-1")
        raise InputError(f"{source}: no VCF: it begins with {begins!r}, and ## is wanted")


def _is_header(line: bytes) -> bool:
    """Tell what is no record: the header, and lines that are blank."""
    return line.startswith(b"#") or not line.strip()


def _line_end(line: bytes) -> bytes:
    return line[len(line.rstrip(b"\r\n")) :]


def _append(line: bytes, entries: bytes) -> bytes:
    end = _line_end(line)
    cells = line[: len(line) - len(end)].split(b"\t", len(COLUMNS))
    before = cells[_INFO]
    cells[_INFO] = entries if before in (b".", b"") else before.rstrip(b";") + b";" + entries
    return b"\t".join(cells) + end
