"""Windows of a genome as an embedder reads them: without N, with their flanks, on their strand."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dnamamba.data.known import Known
from dnamamba.data.region import Region
from dnamamba.data.store import Store
from dnamamba.inference.reading import OtherStrand, Reading


@dataclass(frozen=True)
class Stretch:
    """A part of a contig that is read at once, on one strand.

    Attributes
    ----------
    start, end
        Its positions, flanks included.
    known
        Its bases on the + strand.
    reverse
        Whether the reverse strand is read.
    """

    start: int
    end: int
    known: Known
    reverse: bool = False

    def on(self, *, reverse: bool) -> "Stretch":
        """Return the same stretch on a given strand."""
        return replace(self, reverse=reverse)

    def spans(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where windows lie in what is read, (windows, 2) int64; empty where all is N."""
        inside = np.array([starts, ends]).T - self.start
        spans = self.known.before(inside)
        return len(self.known) - spans[:, ::-1] if self.reverse else spans

    def reading(self, spans: NDArray[np.int64]) -> Reading:
        """Return what an embedder reads."""
        return Reading(OtherStrand(self.known) if self.reverse else self.known, spans)

    def positions(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where bases that are read, by their numbers, lie in the contig."""
        there = len(self.known) - 1 - places if self.reverse else places
        return self.start + self.known.positions(there)


class GenomeReader:
    """Cuts what is to be read from a tokenised genome.

    Parameters
    ----------
    store
        The genome.
    context
        Bases on either side that are read too, as far as the contig reaches.
    """

    def __init__(self, store: Store, context: int = 0) -> None:
        self._store = store
        self._context = context
        self._gaps = {contig: store.gaps(contig) for contig in store.lengths}

    def around(self, region: Region) -> Stretch:
        """Cut a region with its flanks, on its strand."""
        start = max(0, region.start - self._context)
        end = min(region.end + self._context, self._store.lengths[region.contig])
        return self._cut(region.contig, start, end, region.strand == "-")

    def contig(self, name: str, *, reverse: bool) -> Stretch:
        """Take a whole contig, on one strand."""
        return self._cut(name, 0, self._store.lengths[name], reverse)

    def _cut(self, contig: str, start: int, end: int, reverse: bool) -> Stretch:
        codes = self._store.codes(contig)[start:end]
        gaps = self._gaps[contig]
        first, last = gaps[:, 1].searchsorted(start, "right"), gaps[:, 0].searchsorted(end)
        gaps = gaps[first:last]
        if len(gaps):
            gaps = np.clip(gaps - start, 0, end - start)
        return Stretch(start, end, Known(codes, gaps), reverse)


def composition(
    store: Store, contig: str, starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of G and C among the known bases of windows, and that of N.

    Returns
    -------
    (windows,) float64 each; NaN where a window has no known base, or no base.
    """
    codes = store.codes(contig)
    missing = store.n_count(contig, starts, ends)
    sizes = ends - starts
    strong = np.array(
        [_strong(codes[start:end]) for start, end in zip(starts, ends, strict=True)], np.int64
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return strong / (sizes - missing), missing / sizes


def _strong(codes: NDArray[np.uint8]) -> int:
    """Count C (1) and G (2), soft-masked or not, by the two lowest bits; N is 4."""
    return int(np.count_nonzero(((codes + 1) & 6) == 2))
