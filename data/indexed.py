"""Random access to a FASTA without a store, by its .fai index (and .gzi, for BGZF).

No file stays open between reads: a handle shared by forked workers shares its offset, and then they
read each other's bases. pyfaidx makes and parses the index; each read opens the file, takes the
bytes of its region and closes it.
"""

import bisect
import itertools
import os
import re
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyfaidx import Faidx, FastaIndexingError

from dnamamba.alphabet import Codes, encode, reverse_complement
from dnamamba.data.fasta import compression
from dnamamba.data.place import lock, places, writable_place
from dnamamba.data.region import Region, require_contig
from dnamamba.errors import InputError
from dnamamba.files import atomic_path, require_file
from dnamamba.log import logger

_NEWLINES: Final = b"\r\n"


@dataclass(frozen=True)
class _Record:
    """A line of the .fai: where a contig's bases begin, and how its lines are laid out."""

    length: int
    offset: int
    line_bases: int
    line_bytes: int

    def position(self, base: int) -> int:
        """Return the byte of the text where a base lies."""
        if not self.line_bases:
            return self.offset
        lines, column = divmod(base, self.line_bases)
        return self.offset + lines * self.line_bytes + column

    @property
    def end(self) -> int:
        """The byte of the text behind the last base."""
        return self.position(self.length - 1) + 1 if self.length else self.offset


class Indexed:
    """A FASTA, plain text or BGZF, read through its .fai and .gzi.

    Parameters
    ----------
    path
        The FASTA.
    files
        Its .fai, and for BGZF its .gzi; made if they are missing.

    Attributes
    ----------
    lengths
        Contig to its length in bases, in the file's order.
    """

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        fai, *gzi = files
        try:
            faidx = Faidx(path, indexname=fai, gzi_indexname=gzi[0] if gzi else None)
        except (FastaIndexingError, ValueError, LookupError, RuntimeError, OSError) as error:
            raise _not_indexable(path) from error
        with faidx:
            self._records = {
                name: _Record(record.rlen, record.offset, record.lenc, record.lenb)
                for name, record in faidx.index.items()
            }
            blocks = faidx.gzi_index if gzi else []
        self.path = path
        self.lengths = {name: record.length for name, record in self._records.items()}
        self._text_starts = [block.ustart for block in blocks]
        self._version = _version(path)
        self._file_starts = [*(block.cstart for block in blocks), self._version[0]]

    def read(self, start: int, end: int) -> bytes:
        """Return bytes `start` to `end` of the text; fewer where the text ends."""
        if _version(self.path) != self._version:
            raise InputError(f"{self.path}: changed since it was opened; open it again")
        with self.path.open("rb", buffering=0) as handle:
            if not self._text_starts:
                return os.pread(handle.fileno(), max(end - start, 0), start)
            first = bisect.bisect_right(self._text_starts, start) - 1
            last = bisect.bisect_left(self._text_starts, end, lo=first + 1)
            bounds = self._file_starts[first : last + 1]
            blocks = os.pread(handle.fileno(), bounds[-1] - bounds[0], bounds[0])
        cuts = [bound - bounds[0] for bound in bounds]
        try:
            text = b"".join(
                zlib.decompress(blocks[cut:next_cut], wbits=31)
                for cut, next_cut in itertools.pairwise(cuts)
            )
        except zlib.error as error:
            raise InputError(f"{self.path}: corrupt gzip ({error}); download it again") from error
        return text[start - self._text_starts[first] : end - self._text_starts[first]]

    def is_current(self) -> bool:
        """Tell whether the index is this file's: records and headers tile it as the index says."""
        end, tail = 0, rb""
        for name, record in self._records.items():
            header = tail + rb"\s*>" + re.escape(name.encode()) + rb"([^\S\n][^\n]*)?\n?"
            if not re.fullmatch(header, self.read(end, record.offset)):
                return False
            # From the last base on: a longer last line would put the end behind it.
            end, tail = record.end - bool(record.length), rb"\w" if record.length else rb""
        return re.fullmatch(tail + rb"\s*", self.read(end, end + 64)) is not None

    def fetch(self, region: Region) -> Codes:
        """Return a region's (length,) uint8 store codes; strand - is read backwards.

        Raises
        ------
        InputError
            For an unknown contig, a region that ends behind it, a letter that is no base, or a file
            that is damaged or was changed.
        """
        require_contig(region.contig, self.lengths, self.path.name)
        record = self._records[region.contig]
        if region.end > record.length:
            raise InputError(
                f"{region}: {region.contig} of {self.path.name} ends at {record.length:,}"
            )
        text = self.read(record.position(region.start), record.position(region.end))
        try:
            codes = encode(text.translate(None, _NEWLINES))
        except InputError as error:
            raise InputError(f"{self.path.name}, in {region}: {error}") from error
        if codes.size != len(region):
            raise InputError(f"{self.path}: its .fai does not fit; remove it and try again")
        return reverse_complement(codes) if region.strand == "-" else codes


def _version(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def open_indexed(path: Path) -> Indexed:
    """Open a FASTA by its index; make one where there is none, or where it is not this file's.

    Raises
    ------
    InputError
        Where the file is missing, is plain gzip, or is laid out so that no index can be made.
    """
    source = require_file(path).resolve()
    suffixes = _index_suffixes(path)
    beside, cached = (
        list(pair) for pair in zip(*(places(source, suffix) for suffix in suffixes), strict=True)
    )
    if found := _open_current(source, beside) or _open_current(source, cached):
        return found
    files = [writable_place(source, suffix) for suffix in suffixes]
    with lock(files[0]):
        if found := _open_current(source, files):
            return found
        if files[0].exists():
            logger.warning("%s is not the index of this %s: making it again", files[0], path.name)
        _make_index(source, files)
        return Indexed(source, files)


def _index_suffixes(path: Path) -> tuple[str, ...]:
    """Name the index files that a FASTA needs, if it can be read at random at all."""
    with path.open("rb") as handle:
        kind = compression(handle.read(18))
    named_gzip = path.suffix.lower() in (".gz", ".bgz")
    if kind == "gzip":
        raise InputError(
            f"{path}: plain gzip has no random access; dnamamba index {path} makes a store, "
            f"and gunzip and bgzip make it BGZF"
        )
    if named_gzip != (kind == "bgzf"):
        what = "BGZF without .gz at the end of its name" if kind == "bgzf" else "not gzip at all"
        raise InputError(f"{path}: is {what}; rename it")
    return (".fai", ".gzi") if kind == "bgzf" else (".fai",)


def _open_current(source: Path, files: Sequence[Path]) -> Indexed | None:
    """Open a FASTA by index files that exist, are no older than it, and fit it."""
    changed = source.stat().st_mtime_ns
    if not all(file.exists() and file.stat().st_mtime_ns >= changed for file in files):
        return None
    try:
        indexed = Indexed(source, files)
        return indexed if indexed.is_current() else None
    except InputError:
        return None


def _make_index(source: Path, files: Sequence[Path]) -> None:
    with ExitStack() as stack:
        made = [stack.enter_context(atomic_path(file)) for file in files]
        if not Indexed(source, made).is_current():
            raise _not_indexable(source)


def _not_indexable(path: Path) -> InputError:
    return InputError(
        f"{path}: no index can be made (lines of one width are wanted, and names that differ); "
        f"dnamamba index {path} reads it and says what is wrong"
    )
