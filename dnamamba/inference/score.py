"""How much likelier, or less likely, a model finds a genome with a variant in it.

The score of a variant is the natural logarithm of p(alternate) / p(reference), where both are the
same window of the genome, once with the allele in it. N are not read. Windows lie on a grid
(`data.variants.window_of`), so that the score of a variant does not depend on what else is scored,
and those of one window share what is read of the reference.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.data.known import Known
from dnamamba.data.region import Region
from dnamamba.data.variants import Bases, Variant, window_of
from dnamamba.errors import InputError, UsageError
from dnamamba.inference.embed import BATCH_BASES
from dnamamba.inference.score_causal import CausalScorer
from dnamamba.inference.score_masked import MaskedScorer
from dnamamba.inference.score_window import Change, Window, WindowScorer
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.models.precision import Autocast

Strands = Literal["both", "forward"]
SHORTEST: Final = 64
LONGEST: Final = 2**20
"""The least and the most bases of a context."""
FLANK: Final = 16
"""Bases on either side of an insertion or deletion that a masked model is asked for."""


@dataclass(frozen=True)
class Scoring:
    """What a score is made of.

    Attributes
    ----------
    context
        Bases of a window. Before and behind a variant lie a quarter of it or more, as far as the
        contig reaches.
    horizon
        Of a causal model: bases behind an allele over which the ratio is summed; None sums to the
        window's end, which is exact.
    strands
        Whether the reverse complement is read too.
    flank
        Of a masked model: bases on either side of an insertion or deletion.

    Raises
    ------
    UsageError
        For a number out of range.
    """

    context: int
    horizon: int | None = None
    strands: Strands = "both"
    flank: int = FLANK

    def __post_init__(self) -> None:
        if not SHORTEST <= self.context <= LONGEST:
            raise UsageError(
                f"--context {self.context:,}: {SHORTEST} to {LONGEST:,} bases are read at once"
            )
        if self.horizon is not None and self.horizon < 0:
            raise UsageError(f"--horizon {self.horizon}: no bases; `all` reads to the window's end")
        if self.flank < 0:
            raise UsageError(f"--flank {self.flank}: is below 0")

    def to_the_end(self) -> "Scoring":
        """Return the same without a horizon."""
        return replace(self, horizon=None)


class Scorer:
    """Scores variants with one model, in one way.

    Parameters
    ----------
    model
        Its mode is restored after each call.
    scoring
        What a score is made of.
    device
        Where the model lies.
    batch_bases
        The most bases that are read at once; by default as suits the device.
    autocast
        The context of the forward pass. Half precision is not for scores: what it rounds away in
        each of thousands of bases adds up to more than most variants change.
    """

    def __init__(
        self,
        model: LanguageModel,
        scoring: Scoring,
        *,
        device: torch.device,
        batch_bases: int | None = None,
        autocast: Autocast = nullcontext,
    ) -> None:
        self.scoring = scoring
        self._batch_bases = batch_bases or BATCH_BASES.get(device.type, BATCH_BASES["cpu"])
        self._is_symmetric = is_symmetric(model.config)
        self._one_strand: WindowScorer
        if model.config.objective == "masked":
            self._one_strand = MaskedScorer(
                model,
                flank=scoring.flank,
                device=device,
                batch_bases=self._batch_bases,
                autocast=autocast,
            )
        else:
            self._one_strand = CausalScorer(
                model,
                horizon=scoring.horizon,
                device=device,
                batch_bases=self._batch_bases,
                autocast=autocast,
            )

    def score(
        self, bases: Bases, variants: Sequence[Variant]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Score variants, window by window.

        Parameters
        ----------
        bases
            The genome.
        variants
            In any order.

        Yields
        ------
        The numbers of some variants, (variants,), and their scores in nats, (variants, 2): as the
        strand that is given has them, and the other, NaN where it is not read.

        Raises
        ------
        InputError
            For a variant that does not lie in the genome.
        """
        for numbers, windows in self._groups(bases, variants):
            yield np.array(numbers, np.int64), self._both_strands(windows)

    def _both_strands(self, windows: Sequence[Window]) -> NDArray[np.float64]:
        here = self._one_strand.score(windows)
        if self.scoring.strands == "forward":
            there = np.full(len(here), np.nan)
        elif self._is_symmetric:
            there = here
        else:
            there = self._one_strand.score([window.other_strand() for window in windows])
        return np.stack([here, there], 1)

    def _groups(
        self, bases: Bases, variants: Sequence[Variant]
    ) -> Iterator[tuple[list[int], list[Window]]]:
        """Yield windows that are read at once, and the numbers of the variants in them."""
        numbers: list[int] = []
        windows: list[Window] = []
        size = 0
        for inside, window in self._windows(bases, variants):
            if windows and size + len(window.codes) > self._batch_bases:
                yield numbers, windows
                numbers, windows, size = [], [], 0
            numbers += inside
            windows.append(window)
            size += len(window.codes)
        if windows:
            yield numbers, windows

    def _windows(
        self, bases: Bases, variants: Sequence[Variant]
    ) -> Iterator[tuple[list[int], Window]]:
        """Yield each window that holds variants, and their numbers, along the genome."""
        order = {contig: place for place, contig in enumerate(bases.lengths)}

        def place(number: int) -> tuple[int, int, int]:
            variant = variants[number]
            length = bases.lengths[variant.contig]
            return (order[variant.contig], *window_of(variant, length, self.scoring.context))

        for variant in variants:
            _require_inside(variant, bases)
        contigs = list(order)
        along = sorted(range(len(variants)), key=lambda n: (place(n), variants[n].start))
        for (contig, start, end), inside in itertools.groupby(along, key=place):
            numbers = list(inside)
            known = Known(bases.fetch(Region(contigs[contig], start, end)))
            changes = [_change(variants[number], known, start) for number in numbers]
            yield numbers, Window(known.fetch(0, len(known)), changes)


def score(
    model: LanguageModel,
    bases: Bases,
    variants: Sequence[Variant],
    *,
    context: int,
    horizon: int | None = None,
    strands: Strands = "both",
    flank: int = FLANK,
) -> NDArray[np.float64]:
    """Score variants of a genome, on the device where the model lies.

    Parameters
    ----------
    model
        A language model.
    bases
        A `Genome`, or a `Store`.
    variants
        In any order; `data.variants.make_variant` makes one of two alleles.
    context, horizon, strands, flank
        As in `Scoring`.

    Returns
    -------
    (variants, 2) float64, in nats: the log-likelihood ratio of the alternate over the reference as
    the strand that is given has it, and the other, NaN where it is not read. Their mean is the
    score.

    Raises
    ------
    UsageError
        For a number out of range.
    InputError
        For a variant that does not lie in the genome.
    """
    scoring = Scoring(context, horizon, strands, flank)
    scorer = Scorer(model, scoring, device=next(model.parameters()).device)
    return collect(scorer.score(bases, variants), len(variants))


def collect(
    parts: Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]], count: int
) -> NDArray[np.float64]:
    """Put the scores that `Scorer.score` yields in the order of the variants, (count, 2)."""
    scores = np.full((count, 2), np.nan)
    for numbers, found in parts:
        scores[numbers] = found
    return scores


def mean_of_strands(strands: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the strands that were read; (..., 2) gives (...)."""
    forward, reverse = strands[..., 0], strands[..., 1]
    mean: NDArray[np.float64] = np.where(np.isnan(reverse), forward, (forward + reverse) / 2)
    return mean


def is_symmetric(config: ModelConfig) -> bool:
    """Tell a model whose predictions from either strand are the same."""
    return config.objective == "masked" and config.symmetry != "none"


def _require_inside(variant: Variant, bases: Bases) -> None:
    length = bases.lengths.get(variant.contig, -1)
    if not 0 <= variant.start <= variant.end <= length:
        raise InputError(
            f"{variant.contig}:{variant.start + 1}-{variant.end}: a variant outside the genome"
        )


def _change(variant: Variant, known: Known, origin: int) -> Change:
    start, end = known.before([variant.start - origin, variant.end - origin])
    return Change(int(start), int(end), np.frombuffer(variant.alt, np.uint8))
