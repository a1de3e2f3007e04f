"""Sequences that grow side by side, on disk until they are whole, and FASTA of those that are."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import click
import numpy as np

from dnamamba.alphabet import DECODE, Codes
from dnamamba.files import describe_os_error, take_space

WIDTH: Final = 60
"""Letters of a line."""
PIECE: Final = WIDTH * 2**14
"""Bases that are read back at once."""


class Spool:
    """Sequences of one length, in a file whose space is taken at once; removed in the end.

    Parameters
    ----------
    path
        Of the file.
    sequences, length
        How many there are, and of how many bases.

    Raises
    ------
    DnamambaError
        Where the disk is full.
    """

    def __init__(self, path: Path, sequences: int, length: int) -> None:
        self._path, self._length, self._place = path, length, 0
        try:
            take_space(path, sequences * length)
        except OSError as error:
            raise describe_os_error(error, path) from error
        # No memory map: its pages would count as memory of the process.
        self._file = path.open("r+b")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._path.unlink()

    def add(self, codes: Codes) -> None:
        """Append (sequences, bases) store codes, a row to each sequence."""
        for number, row in enumerate(codes):
            self._file.seek(number * self._length + self._place)
            self._file.write(row.tobytes())
        self._place += codes.shape[1]

    def pieces(self, number: int) -> Iterator[Codes]:
        """Yield the store codes of one sequence, piece by piece."""
        for start in range(0, self._length, PIECE):
            self._file.seek(number * self._length + start)
            data = self._file.read(min(PIECE, self._length - start))
            yield np.frombuffer(data, np.uint8)


def write_record(header: str, pieces: Iterable[Codes]) -> None:
    """Write a FASTA record to stdout, lines of `WIDTH` letters, as its pieces come."""
    click.echo(f">{header}")
    rest = np.empty(0, np.uint8)
    for piece in pieces:
        codes = np.concatenate([rest, piece])
        whole = codes.size - codes.size % WIDTH
        lines = DECODE[codes[:whole]].reshape(-1, WIDTH)
        ended = np.pad(lines, ((0, 0), (0, 1)), constant_values=ord("\n"))
        click.echo(ended.tobytes().decode("ascii"), nl=False)
        rest = codes[whole:]
    if rest.size:
        click.echo(DECODE[rest].tobytes().decode("ascii"))
