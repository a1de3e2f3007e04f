"""In-silico saturation mutagenesis: each base of a region replaced by each of the three others."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.alphabet import BASE, Codes, N
from dnamamba.data.region import Region
from dnamamba.data.variants import Bases, Variant
from dnamamba.errors import InputError, UsageError
from dnamamba.inference.score import Scorer, mean_of_strands

PART: Final = 2**14
"""Bases whose substitutions are listed at a time, so that a long region takes no more memory."""


@dataclass(frozen=True)
class Saturation:
    """The substitutions of a region, and their scores.

    Attributes
    ----------
    region
        On the forward strand.
    reference
        (bases,) uint8 store codes without soft mask.
    strands
        (bases, 4, 2) float64 in nats: the log-likelihood ratio of A, C, G and T over the reference,
        as the forward strand has it and the reverse complement. NaN at the reference base, at N,
        and where a strand is not read.
    """

    region: Region
    reference: Codes
    strands: NDArray[np.float64]

    @property
    def ratios(self) -> NDArray[np.float64]:
        """The mean of the strands that were read, (bases, 4)."""
        return mean_of_strands(self.strands)

    @property
    def importance(self) -> NDArray[np.float64]:
        """Minus the mean over the three substitutions, (bases,) in nats; NaN at N."""
        mean = np.nansum(self.ratios, axis=1) / 3
        found: NDArray[np.float64] = np.where(self.reference < N, -mean, np.nan)
        return found


def read_reference(bases: Bases, region: Region) -> Codes:
    """Return the bases of a region that is to be saturated, (bases,) uint8 without soft mask.

    Raises
    ------
    UsageError
        For a region on the reverse strand.
    InputError
        For one outside the genome, or of N alone.
    """
    if region.strand == "-":
        raise UsageError(
            f"{region}: both strands are read, and scores are of the forward strand's bases; leave "
            "out (-)"
        )
    reference: Codes = bases.fetch(region) & np.uint8(BASE)
    if not (reference < N).any():
        raise InputError(f"{region}: has no base other than N to replace; choose another region")
    return reference


def saturate(
    scorer: Scorer,
    bases: Bases,
    region: Region,
    *,
    advance: Callable[[int], object] = lambda _count: None,
) -> Saturation:
    """Score all substitutions of a region.

    Parameters
    ----------
    scorer
        A model, and what a score is made of.
    bases
        A `Genome`, or a `Store`.
    region
        On the forward strand. N in it are not replaced.
    advance
        Is told how many more substitutions have been scored.

    Raises
    ------
    UsageError, InputError
        As in `read_reference`.
    """
    reference = read_reference(bases, region)
    strands = np.full((len(reference), 4, 2), np.nan)
    for start, end in _parts(region, scorer.scoring.context):
        places = substitutions(reference[start - region.start : end - region.start])
        places[:, 0] += start - region.start
        for numbers, found in scorer.score(bases, variants_at(region, places)):
            strands[places[numbers, 0], places[numbers, 1]] = found
            advance(len(numbers))
    return Saturation(region, reference, strands)


def substitutions(reference: Codes) -> NDArray[np.int64]:
    """List what each base can be replaced by: (substitutions, 2), a base's place and a code."""
    others = np.arange(4) != reference[:, None]
    return np.argwhere(others & (reference < N)[:, None])


def variants_at(region: Region, places: NDArray[np.int64]) -> list[Variant]:
    """Turn (substitutions, 2) of a region, places and codes, into variants of its contig."""
    return [
        Variant(region.contig, region.start + place, region.start + place + 1, bytes([code]))
        for place, code in places.tolist()
    ]


def _parts(region: Region, context: int) -> Iterator[tuple[int, int]]:
    """Cut a region where windows of the grid do, so that none is read for two parts in vain."""
    cell = context // 2
    step = PART // cell * cell or PART
    for start in range(region.start // step * step, region.end, step):
        yield max(start, region.start), min(start + step, region.end)
