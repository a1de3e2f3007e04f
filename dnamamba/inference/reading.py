"""What an embedder reads: sequences without N, from either strand, and the spans to pool."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dnamamba.alphabet import Codes, reverse_complement


class Source(Protocol):
    """A sequence of known bases; an array of store codes without N is wrapped in `Whole`."""

    def __len__(self) -> int: ...

    def fetch(self, start: int, end: int) -> Codes:
        """Return bases [start, end)."""


@dataclass(frozen=True)
class Whole:
    """A sequence that lies in memory, (bases,) uint8 store codes without N."""

    codes: Codes

    def __len__(self) -> int:
        return len(self.codes)

    def fetch(self, start: int, end: int) -> Codes:
        """Return bases [start, end)."""
        return self.codes[start:end]


@dataclass(frozen=True)
class OtherStrand:
    """The reverse complement of a sequence."""

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, start: int, end: int) -> Codes:
        """Return bases [start, end) of this strand."""
        length = len(self.source)
        return reverse_complement(self.source.fetch(length - end, length - start))


@dataclass(frozen=True)
class Reading:
    """A sequence to read, and the spans of it to pool.

    Attributes
    ----------
    source
        Bases without N.
    spans
        (spans, 2) int64, half-open, inside the sequence, each with a base at least.
    """

    source: Source
    spans: NDArray[np.int64]

    def other_strand(self) -> "Reading":
        """Return the reverse complement, with the same spans in the same order."""
        return Reading(OtherStrand(self.source), len(self.source) - self.spans[:, ::-1])
