"""How like are the k-mers of two samples of DNA? Their spectra, and the divergence of these.

A spectrum counts both strands: a k-mer and its reverse complement are one. Two samples of the same
DNA differ too, by chance and from place to place, so a divergence means something only beside
theirs, and beside that of bases drawn independently of each other.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnamamba.alphabet import Codes, decode
from dnamamba.evaluation.controls import kmer_frequencies
from dnamamba.evaluation.plots import BLUE, GREEN, ORANGE, new_figure, save_png
from dnamamba.log import logger

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KS: Final = tuple(range(1, 9))
"""Lengths of k-mers that are counted."""
DRAWN: Final = 3
"""The length whose k-mers are drawn one by one."""


class Spectrum:
    """The k-mers of a sample, for every k of `KS`, counted as it comes."""

    def __init__(self) -> None:
        self._counts = {k: np.zeros(4**k, np.int64) for k in KS}

    def add(self, codes: Codes) -> None:
        """Count the k-mers of a sequence, or of a piece of one.

        Parameters
        ----------
        codes
            (length,) uint8 store codes without N; the soft mask is dropped. K-mers that reach over
            the end of a piece are not counted.
        """
        for k, counts in self._counts.items():
            columns, roots = kmer_frequencies(codes, k)
            counts[columns] += np.rint(roots**2 * (codes.size - k + 1)).astype(np.int64)

    def shares(self, k: int) -> NDArray[np.float64]:
        """Return the share of each k-mer, (4^k,), by its number: its codes as digits of base 4.

        Of a k-mer and its reverse complement, the lesser number has the share of both.
        """
        counts = self._counts[k]
        found: NDArray[np.float64] = counts / max(1, counts.sum())
        return found

    @property
    def gc(self) -> float:
        """The share of C and G."""
        return float(self.shares(1)[1])

    def divergence(self, other: "Spectrum", k: int) -> float:
        """Return the Jensen-Shannon divergence from another sample, 0 to 1 bits.

        The mean of the Kullback-Leibler divergences of both from their mean (Lin 1991,
        doi 10.1109/18.61115).
        """
        here, there = self.shares(k), other.shares(k)
        apart = _entropy((here + there) / 2) - (_entropy(here) + _entropy(there)) / 2
        return max(0.0, apart)


def _entropy(shares: NDArray[np.float64]) -> float:
    seen = shares[shares > 0]
    return float(-(seen * np.log2(seen)).sum())


class Divergence(NamedTuple):
    """Bits between the k-mers of a sample of real DNA and those of others.

    Attributes
    ----------
    k
        Their length.
    made, real, independent
        The others: what a model made, more real DNA, and bases drawn independently of each other.
    """

    k: int
    made: float
    real: float
    independent: float


def plot_spectrum(
    made: Spectrum, real: Spectrum, divergences: Sequence[Divergence], path: Path
) -> list[Path]:
    """Draw the 3-mers of made DNA over those of real, and the divergence by k.

    Parameters
    ----------
    made, real
        The two samples.
    divergences
        One for each k.
    path
        The PNG, written atomically.

    Returns
    -------
    What was drawn: nothing without matplotlib, and a message says how to get it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        logger.info("no %s: matplotlib is missing; pip install 'dnamamba[plot]'", path.name)
        return []
    figure = new_figure(4.5, 10.0)
    left, right = figure.subplots(1, 2)
    _draw_kmers(left, made, real)
    _draw_divergences(right, divergences)
    save_png(figure, path)
    return [path]


def _draw_kmers(axes: "Axes", made: Spectrum, real: Spectrum) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    shares = 100 * np.stack([real.shares(DRAWN), made.shares(DRAWN)])
    there = np.flatnonzero((shares > 0).all(0))
    ends = shares[shares > 0].min() / 1.2, shares.max() * 1.2
    axes.plot(ends, ends, color="0.7", linewidth=0.8)
    axes.plot(*shares[:, there], ".", color=BLUE)
    for number, place in zip(there, shares[:, there].T, strict=True):
        digits = np.array([number >> 2 * power & 3 for power in reversed(range(DRAWN))])
        label = decode(digits.astype(np.uint8))
        axes.annotate(label, tuple(place), (3, 2), textcoords="offset points", fontsize="xx-small")
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    axes.set(xlabel="share in real DNA (%)", ylabel="share in made DNA (%)")
    axes.set_title(f"{DRAWN}-mers, each with its reverse complement", fontsize="medium")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())


def _draw_divergences(axes: "Axes", divergences: Sequence[Divergence]) -> None:
    ks = [each.k for each in divergences]
    lines = (
        ("made", "o", BLUE, [each.made for each in divergences]),
        ("more real DNA", "s", GREEN, [each.real for each in divergences]),
        ("independent bases", "^", ORANGE, [each.independent for each in divergences]),
    )
    for name, marker, color, bits in lines:
        axes.plot(ks, bits, marker=marker, color=color, linewidth=1.3, label=name)
    axes.set(yscale="log", xlabel="k", ylabel="divergence from real DNA (bits)")
    axes.legend(frameon=False)
