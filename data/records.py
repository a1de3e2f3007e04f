"""The records of a FASTA one at a time, from a file or a stream: nothing is kept of the last one.

What is read again and again has a store (`dnamamba.data.store`); what is read once needs none.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnamamba.alphabet import Codes
from dnamamba.data.fasta import Header, decompress, parse_fasta, read_ahead
from dnamamba.files import require_file


@dataclass(frozen=True)
class Record:
    """One sequence of a FASTA.

    Attributes
    ----------
    name, description
        Of its header: the first word, and what follows it.
    codes
        (length,) uint8 store codes; none where the record is a header alone.
    """

    name: str
    description: str
    codes: Codes


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a FASTA in order, each as soon as all of it was read.

    Parameters
    ----------
    path
        Plain text, gzip or BGZF; `-` is stdin.

    Raises
    ------
    InputError
        Where there is no such file, or as `parse_fasta` and `decompress` say.
    """
    with ExitStack() as stack:
        if str(path) == "-":
            stream, source = sys.stdin.buffer, "stdin"
        else:
            stream, source = stack.enter_context(require_file(path).open("rb")), str(path)
        header: Header | None = None
        bases = bytearray()
        for item in parse_fasta(read_ahead(decompress(stream, source)), source):
            if not isinstance(item, Header):
                bases += item
                continue
            if header is not None:
                yield _record(header, bases)
            header, bases = item, bytearray()
        if header is not None:
            yield _record(header, bases)


def _record(header: Header, bases: bytearray) -> Record:
    return Record(header.name, header.description, np.frombuffer(bases, dtype=np.uint8))
