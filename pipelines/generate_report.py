"""How like real DNA is what was made: bits per base under the model, composition, k-mers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from dnamamba.alphabet import BASE, Codes, N
from dnamamba.data.catalog import choose_contigs
from dnamamba.data.region import Region
from dnamamba.data.store import Store, open_store
from dnamamba.data.windows import HeldOutWindows, Source, tile
from dnamamba.errors import UsageError
from dnamamba.evaluation.language import Score, score_model
from dnamamba.evaluation.spectrum import KS, Divergence, Spectrum, plot_spectrum
from dnamamba.files import write_text
from dnamamba.log import logger
from dnamamba.models.heads import LanguageModel
from dnamamba.pipelines.table import Cell
from dnamamba.training.objectives import NextBase

SHORTEST: Final = max(KS)
"""Bases that a sequence must have to be compared."""
PIECE: Final = 2**20
"""Bases whose k-mers are counted at once."""
SEGMENT: Final = 2**13
"""Bases of real DNA that the model reads at once."""
SAMPLES: Final = (
    "sample",
    "sequences",
    "bases",
    "bits_per_base",
    "low",
    "high",
    "perplexity",
    "gc",
)


class Report:
    """What was made beside as much real DNA: samples.tsv, divergences.tsv, spectrum.png.

    Parameters
    ----------
    folder
        Where they go; written in the end.
    genome
        The real DNA, FASTA; indexed where it is not yet.
    sequences, length
        How many are made, and of how many bases.
    seed
        Of what is drawn.

    Attributes
    ----------
    spectrum
        Counts the k-mers of what is made.

    Raises
    ------
    UsageError
        For sequences too short to compare, or a genome with too few windows as long.
    InputError
        For a genome that cannot be read.
    """

    def __init__(self, folder: Path, genome: Path, sequences: int, length: int, seed: int) -> None:
        if length < SHORTEST:
            raise UsageError(f"--report: counts {SHORTEST}-mers; give --length {SHORTEST} or more")
        self.store = open_store(genome)
        self.spectrum = Spectrum()
        self._folder, self._seed = folder, seed
        self._real, self._more = choose_real(self.store, sequences, length, seed)

    def write(self, model: LanguageModel, made: Score) -> None:
        """Score real DNA too, write the files, and say what is in the tables.

        Parameters
        ----------
        model
            What made the sequences.
        made
            How it scored them.
        """
        real = self._score(model)
        sample, more, independent = self._spectra()
        rows = [_row("made", made, self.spectrum), _row("real", real, sample)]
        _write(self._folder / "samples.tsv", SAMPLES, rows)
        others = self.spectrum, more, independent
        divergences = [Divergence(k, *(each.divergence(sample, k) for each in others)) for k in KS]
        logger.info("divergence of k-mers from those of real DNA, in bits:")
        _write(self._folder / "divergences.tsv", Divergence._fields, divergences)
        plot_spectrum(self.spectrum, sample, divergences, self._folder / "spectrum.png")

    def _score(self, model: LanguageModel) -> Score:
        length = len(self._real[0])
        return score_model(
            model,
            self._real,
            NextBase(model.tokens),
            batch=max(1, SEGMENT // length),
            device=next(model.parameters()).device,
            segment=min(length, SEGMENT),
        )

    def _spectra(self) -> tuple[Spectrum, Spectrum, Spectrum]:
        """Count both samples, and as many independent bases in the proportions of the first."""
        sample, more, independent = Spectrum(), Spectrum(), Spectrum()
        bases = np.zeros(N, np.int64)
        for number in range(len(self._real)):
            codes = self._real[number].numpy()
            bases += np.bincount(codes & BASE, minlength=N)
            _count(sample, codes)
            _count(more, self._more[number].numpy())
        random = np.random.default_rng([self._seed, 1])
        total = int(bases.sum())
        for start in range(0, total, PIECE):
            drawn = random.choice(N, min(PIECE, total - start), p=bases / total)
            independent.add(drawn.astype(np.uint8))
        return sample, more, independent


def choose_real(
    store: Store, sequences: int, length: int, seed: int
) -> tuple[HeldOutWindows, HeldOutWindows]:
    """Lay windows without N evenly over a genome's default contigs, and share them out.

    Parameters
    ----------
    store
        The genome.
    sequences, length
        How many windows a sample has, and of how many bases.
    seed
        Says which window is in which sample.

    Returns
    -------
    Two samples; none of their windows overlap.

    Raises
    ------
    UsageError
        Where the genome has too few such windows.
    """
    contigs = choose_contigs(store.lengths, None, store.source.name)[0]
    sources = [Source(store, tuple(Region(name, 0, store.lengths[name]) for name in contigs))]
    windows = tile(sources, length, limit=2 * sequences, max_n_fraction=0)
    if len(windows) < 2 * sequences:
        raise UsageError(
            f"{store.source.name}: has {len(windows):,} windows of {length:,} bases without N, and "
            f"two samples of {sequences:,} are wanted; make fewer or shorter sequences, or choose "
            "a larger genome --against which to compare"
        )
    mixed = np.random.default_rng([seed, 0]).permutation(len(windows))
    one, other = (
        HeldOutWindows(sources, [windows[number] for number in np.sort(half)])
        for half in (mixed[:sequences], mixed[sequences:])
    )
    return one, other


def _row(name: str, score: Score, spectrum: Spectrum) -> tuple[Cell, ...]:
    bits, low, high = score.interval()
    sequences, bases = len(score.bases), int(score.bases.sum())
    return name, sequences, bases, bits, low, high, score.perplexity, spectrum.gc


def _count(spectrum: Spectrum, codes: Codes) -> None:
    for start in range(0, codes.size, PIECE):
        spectrum.add(codes[start : start + PIECE])


def _write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Write a table as TSV, and show it on stderr."""
    texts = [list(columns), *(list(map(_text, row)) for row in rows)]
    write_text(path, "".join("\t".join(row) + "\n" for row in texts))
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        logger.info("  ".join(map(str.rjust, row, widths)))


def _text(cell: Cell) -> str:
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
