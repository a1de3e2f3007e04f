"""Gzip into BGZF, checked on the way: whole gzip, FASTA of nucleotides, and what it adds up to.

BGZF is gzip of many small members, each of which says how long it is (SAM specification, section
4.1): any reader of gzip reads it, and an index finds any base in it. Blocks are compressed in
threads, and written in order.
"""

import hashlib
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

from dnamamba.data.fasta import Header, decompress, parse_fasta, read_ahead
from dnamamba.log import progress

_BLOCK: Final = 0xFF00
"""Bytes of text in a block, as bgzip cuts it: even what cannot be compressed fits in 64 KiB."""
_HEADER: Final = struct.pack("<4BI2BH2BH", 0x1F, 0x8B, 8, 4, 0, 0, 0xFF, 6, *b"BC", 2)
_AHEAD: Final = 8


def _compress(text: bytes) -> bytes:
    """Make a block of text; the shorter of two fast ways.

    Bases hardly repeat: Huffman codes alone, a symbol at a time, come to the same size as zlib's
    level 6, at ten times its speed. Repeats and runs of N are left to level 1.
    """
    huffman = zlib.compressobj(1, zlib.DEFLATED, -15, zlib.DEF_MEM_LEVEL, zlib.Z_HUFFMAN_ONLY)
    by_symbols = huffman.compress(text) + huffman.flush()
    body = min(by_symbols, zlib.compress(text, 1, wbits=-15), key=len)
    size = len(_HEADER) + 2 + len(body) + 8
    return b"".join(
        (
            _HEADER,
            struct.pack("<H", size - 1),
            body,
            struct.pack("<II", zlib.crc32(text), len(text)),
        )
    )


_END: Final = _compress(b"")


class BgzfWriter:
    """Write text as BGZF into an open file; the end mark comes where the `with` block succeeds.

    Parameters
    ----------
    handle
        An open binary file; it stays open.
    threads
        How many blocks are compressed at once.
    """

    def __init__(self, handle: BinaryIO, *, threads: int = 1) -> None:
        self._handle = handle
        self._rest = b""
        self._pool = ThreadPoolExecutor(max_workers=threads)
        self._pending: deque[Future[bytes]] = deque()
        self._most_pending = _AHEAD * threads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._rest:
            self._submit(self._rest)
        while kind is None and self._pending:
            self._handle.write(self._pending.popleft().result())
        self._pool.shutdown(cancel_futures=True)
        if kind is None:
            self._handle.write(_END)

    def write(self, text: bytes) -> None:
        """Take text, of any length."""
        text = self._rest + text
        whole = len(text) - len(text) % _BLOCK
        for start in range(0, whole, _BLOCK):
            self._submit(text[start : start + _BLOCK])
        self._rest = text[whole:]

    def _submit(self, block: bytes) -> None:
        self._pending.append(self._pool.submit(_compress, block))
        while len(self._pending) > self._most_pending:
            self._handle.write(self._pending.popleft().result())


@dataclass(frozen=True)
class Contents:
    """What a compressed FASTA holds: its hex MD5 as it lay on disk, and contig to bases."""

    md5: str
    lengths: dict[str, int]


class _Digested:
    """A file whose MD5 is taken, and whose bar is moved, as it is read."""

    def __init__(self, path: Path, handle: BinaryIO) -> None:
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.bar = progress(path.stat().st_size, f"checking {path.name}", "B")
        self._handle = handle

    def read(self, size: int, /) -> bytes:
        data = self._handle.read(size)
        self.md5.update(data)
        self.bar.update(len(data))
        return data


def recompress(source: Path, target: Path, *, threads: int = 1) -> Contents:
    """Read a FASTA once, plain or gzip, check it, and write the same text as BGZF.

    Parameters
    ----------
    source
        The file as it came.
    target
        What is written; a part of it stays where the reading fails.
    threads
        How many blocks are compressed at once.

    Raises
    ------
    InputError
        For gzip that is truncated or corrupt, and for what is no FASTA of nucleotides.
    """
    lengths: dict[str, int] = {}
    contig = ""
    with source.open("rb") as handle, target.open("wb") as out:
        stream = _Digested(source, handle)
        with stream.bar, BgzfWriter(out, threads=threads) as writer:
            blocks = read_ahead(decompress(stream, source.name))
            for piece in parse_fasta(_copied(blocks, writer), source.name):
                if isinstance(piece, Header):
                    contig = piece.name
                    lengths[contig] = 0
                else:
                    lengths[contig] += len(piece)
    return Contents(stream.md5.hexdigest(), lengths)


def _copied(blocks: Iterator[bytes], writer: BgzfWriter) -> Iterator[bytes]:
    for block in blocks:
        writer.write(block)
        yield block
