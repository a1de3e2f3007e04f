"""FASTA as people have it, read once as a stream: bytes in, store codes out.

Nothing here walks over letters or lines in Python: one `bytes.translate` maps a block of half a
megabyte and strips it of white space, so that CRLF and lines of any width cost the same. Gzip is
known by its first bytes, never by a suffix; BGZF is gzip of many members.
"""

import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from dnamamba.alphabet import ENCODE, INVALID
from dnamamba.errors import InputError
from dnamamba.log import logger

BLOCK: Final = 1 << 19
"""Bytes of text handled at once: few enough for the cache, many enough to outweigh a call."""
_COMPRESSED_BLOCK: Final = 1 << 17
_WHITE: Final = b" \t\r\n\v\f"
_ENCODE: Final = ENCODE.tobytes()
_ENCODE_WHITE: Final = bytes(0 if byte in _WHITE else _ENCODE[byte] for byte in range(256))
_INVALID: Final = bytes([INVALID])
_BOM: Final = b"\xef\xbb\xbf"
_GZIP: Final = b"\x1f\x8b"
_LONGEST_HEADER: Final = 1 << 20
_PROTEIN_ONLY: Final = "EFIJLOPQXZ*"

_LOOKS_LIKE: Final = (
    (b"@", "looks like FASTQ; seqtk seq -A turns it into FASTA"),
    (b"<", "looks like HTML: a page was saved in place of the file; download it again"),
    (b"PK\x03\x04", "is a zip archive; unzip it"),
    (b"\x1a\x41\x27\x43", "is UCSC 2bit; twoBitToFa turns it into FASTA"),
    (b"\x43\x27\x41\x1a", "is UCSC 2bit; twoBitToFa turns it into FASTA"),
    (b"BZh", "is compressed by bzip2; bunzip2 it"),
    (b"\xfd7zXZ", "is compressed by xz; unxz it"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd; unzstd it"),
    (b"LOCUS", "looks like GenBank; write it as FASTA"),
    (b"##", "looks like VCF or GFF; give the genome's FASTA"),
    (b"version https://git-lfs", "is a Git LFS pointer; git lfs pull fetches the file"),
)


class Stream(Protocol):
    """What is read: an open binary file, or anything with its `read`."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end."""
        ...


@dataclass(frozen=True)
class Header:
    """A record's first line: its name, what follows the name, and its 1-based line number."""

    name: str
    description: str
    line: int


def compression(head: bytes) -> Literal["plain", "gzip", "bgzf"]:
    """Tell how a file is compressed by its first 18 bytes."""
    if not head.startswith(_GZIP):
        return "plain"
    return "bgzf" if head[12:14] == b"BC" else "gzip"


def decompress(stream: Stream, source: str) -> Iterator[bytes]:
    """Yield a file's text in blocks of about `BLOCK` bytes, whether plain, gzip or BGZF.

    Parameters
    ----------
    stream
        The file as it lies on disk, at its beginning.
    source
        Its name, for errors.

    Raises
    ------
    InputError
        For gzip that is truncated or corrupt.
    """
    head = stream.read(_COMPRESSED_BLOCK)
    if compression(head) != "plain":
        yield from _gunzip(head, stream, source)
        return
    yield head + stream.read(BLOCK - len(head))
    while block := stream.read(BLOCK):
        yield block


def _gunzip(data: bytes, stream: Stream, source: str) -> Iterator[bytes]:
    is_bgzf = compression(data) == "bgzf"
    member, produced = None, 0
    pieces: list[bytes] = []
    size = 0
    while data or (data := stream.read(_COMPRESSED_BLOCK)):
        if member is None:
            data = data.lstrip(b"\0")
            if not data:
                continue
            member, produced = zlib.decompressobj(wbits=31), 0
        try:
            piece = member.decompress(data, BLOCK)
        except zlib.error as error:
            raise InputError(f"{source}: corrupt gzip ({error}); download it again") from error
        produced += len(piece)
        size += len(piece)
        pieces.append(piece)
        if size >= BLOCK:
            yield b"".join(pieces)
            pieces, size = [], 0
        if member.eof:
            data, member = member.unused_data, None
        else:
            data = member.unconsumed_tail
    if member is not None:
        pieces.append(member.flush())
        if not member.eof:
            raise InputError(f"truncated gzip: {source}; download it again")
    if is_bgzf and produced:
        logger.warning("%s: no BGZF end-of-file mark; is the file complete?", source)
    yield b"".join(pieces)


def read_ahead(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same blocks, the next one being read in a second thread meanwhile."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        pending = reader.submit(next, blocks, None)
        while (block := pending.result()) is not None:
            pending = reader.submit(next, blocks, None)
            yield block


def parse_fasta(blocks: Iterable[bytes], source: str) -> Iterator[Header | bytes]:
    """Turn FASTA text into headers, each followed by its bases as store codes, piece by piece.

    Parameters
    ----------
    blocks
        The text, cut anywhere.
    source
        The file's name, for errors.

    Yields
    ------
    A `Header` for each record; after it, bytes of store codes (uint8), never empty. A record
    without bases is a header alone.

    Raises
    ------
    InputError
        Where the text is not FASTA, holds a letter that is not a nucleotide code, a header without
        a name, two records of one name, or no record at all.
    """
    lines: dict[str, int] = {}
    contig = ""
    line = 1
    header: bytes | None = None
    line_begins = True
    nothing = True
    for block in blocks:
        at = 0
        if nothing and block:
            at = len(_BOM) if block.startswith(_BOM) else 0
            nothing = False
        while at < len(block):
            if header is not None:
                end = block.find(b"\n", at) + 1 or len(block)
                header += block[at:end]
                if block[end - 1 : end] == b"\n":
                    yield (record := _read_header(header, line, source, lines))
                    contig, header, line_begins = record.name, None, True
                    line += 1
                elif len(header) > _LONGEST_HEADER:
                    raise InputError(f"line {line:,} of {source}: a header of over a megabyte")
            elif line_begins and block[at : at + 1] == b">":
                header, end = b"", at + 1
            else:
                end = _sequence_end(block, at)
                piece = block[at:end]
                if not contig and (stray := piece.strip(_WHITE)):
                    raise _not_fasta(stray, source)
                codes = piece.translate(_ENCODE, _WHITE)
                if _INVALID in codes:
                    raise _invalid_letter(piece, line, contig, source)
                if codes:
                    yield codes
                line += piece.count(b"\n")
                line_begins = piece.endswith(b"\n")
            at = end
    if nothing:
        raise InputError(f"{source}: is empty; download it again")
    if header is not None:
        yield _read_header(header, line, source, lines)
    if not lines:
        raise InputError(f"{source}: holds no FASTA record, only white space; download it again")


def _sequence_end(block: bytes, at: int) -> int:
    """Find where the lines of bases that begin at `at` end: at a '>' that begins a line."""
    end = block.find(b">", at + 1)
    while end > 0 and block[end - 1 : end] != b"\n":
        end = block.find(b">", end + 1)
    return len(block) if end < 0 else end


def _read_header(raw: bytes, line: int, source: str, lines: dict[str, int]) -> Header:
    words = raw.decode("utf-8", "replace").strip().split(maxsplit=1)
    place = f"line {line:,} of {source}"
    if b"\r" in raw.rstrip(b"\r\n"):
        raise InputError(f"{place}: lines end in CR alone; tr '\\r' '\\n' mends the file")
    if not words or raw[:1].isspace():
        raise InputError(f"{place}: a '>' with no name right after it; give the record a name")
    name = words[0]
    if name in lines:
        raise InputError(
            f"{source}: two records are named {name!r}, on lines {lines[name]:,} and {line:,}; "
            f"rename one, or remove it if it is the same (seqkit rmdup)"
        )
    lines[name] = line
    return Header(name, words[1] if len(words) > 1 else "", line)


def _not_fasta(stray: bytes, source: str) -> InputError:
    for magic, meaning in _LOOKS_LIKE:
        if stray.startswith(magic):
            return InputError(f"{source}: not FASTA: {meaning}")
    first = stray[:20].splitlines()[0]
    if not first.isascii() or b"\0" in stray[:1024]:
        return InputError(f"{source}: not FASTA: a binary file; give the genome's FASTA")
    return InputError(
        f"{source}: not FASTA: it begins with {first.decode()!r}, and '>' and a name are wanted"
    )


def _invalid_letter(piece: bytes, line: int, contig: str, source: str) -> InputError:
    at = piece.translate(_ENCODE_WHITE).index(_INVALID)
    letter = piece[at : at + 1].decode("latin-1")
    hint = ""
    if letter.upper() in _PROTEIN_ONLY:
        hint = "; is this a protein?"
    elif letter in "-.":
        hint = "; is this an alignment? seqkit seq -g removes its gaps"
    line += piece.count(b"\n", 0, at)
    return InputError(
        f"line {line:,} of {source} (contig {contig}): {letter!r} is not a nucleotide code{hint}"
    )
