"""Text files line by line, plain or gzipped, from a file or a stream."""

import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from dnamamba.data.fasta import decompress
from dnamamba.errors import InputError
from dnamamba.files import require_file


def read_lines(path: Path) -> Generator[tuple[int, str], None, None]:
    """Yield the lines of a text file that are not blank, with their 1-based numbers.

    Parameters
    ----------
    path
        Plain text, gzip or BGZF, lines ending in LF, CRLF or CR; `-` is stdin.

    Raises
    ------
    InputError
        Where there is no such file, where gzip is damaged, and for what is not text.
    """
    source = name_source(path)
    with ExitStack() as stack:
        if str(path) == "-":
            stream = sys.stdin.buffer
        else:
            stream = stack.enter_context(require_file(path).open("rb"))
        lines = chain.from_iterable(_cut(decompress(stream, source)))
        for number, line in enumerate(lines, start=1):
            if b"\0" in line:
                raise InputError(f"{source}: line {number:,}: binary; plain text is wanted")
            text = line.decode("utf-8-sig" if number == 1 else "utf-8", "replace")
            if not text.isspace():
                yield number, text.rstrip("\r\n")


def name_source(path: Path) -> str:
    """Return what errors call a file: its path, or stdin for `-`."""
    return "stdin" if str(path) == "-" else str(path)


def _cut(blocks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Cut text into lines; each block's last waits for the next, which may begin with its LF."""
    tail = b""
    for block in blocks:
        *lines, tail = (tail + block).splitlines(keepends=True) or [b""]
        yield lines
    if tail:
        yield [tail]
