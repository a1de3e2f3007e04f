"""Windows of genomes: drawn at random for training, laid side by side for what is held out.

A training window is a pure function of (seed, step, index). No state is carried from one draw to
the next, so that a resumed run sees what it would have seen, on any number of processes and GPUs.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import numpy as np
import torch
from torch.utils.data import Dataset

from dnamamba.data.region import Region, merge
from dnamamba.data.store import Store
from dnamamba.errors import UsageError

MAX_N_FRACTION: Final = 0.5
"""Windows with more N than this are passed over."""
_TRIES: Final = 100


@dataclass(frozen=True)
class Source:
    """A genome, and the regions of it that windows may lie in."""

    store: Store
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class Window:
    """Where a sample lies: the number of its source, and its region there."""

    source: int
    region: Region


def admissible(regions: Iterable[Region], length: int) -> list[Region]:
    """Return the regions that hold a whole window, merged and sorted.

    A window lies wholly inside one region, so that together these are the bases that windows of
    `length` bases can reach, each and no other. `TrainingWindows` draws from this list, and the
    audit of a split proves its case on it.
    """
    return [region for region in merge(regions) if len(region) >= length]


class TrainingWindows(Dataset[torch.Tensor]):
    """Random windows; the key (step, index) gives a (length,) uint8 tensor of store codes.

    All starts of all regions that hold a whole window are equally likely. A window with too many N
    is drawn again, a hundred times at most, and then the one with the fewest N is taken.

    Parameters
    ----------
    sources
        Genomes and their training regions.
    length
        Bases in a window.
    seed
        Any integer; its lowest 64 bits count.
    reverse_complement
        Whether a coin decides on the strand.
    max_n_fraction
        The largest share of N, 0 to 1.

    Attributes
    ----------
    bases
        Bases that windows can reach.

    Raises
    ------
    UsageError
        Where no region holds a window.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        length: int,
        *,
        seed: int,
        reverse_complement: bool = True,
        max_n_fraction: float = MAX_N_FRACTION,
    ) -> None:
        self.sources = tuple(sources)
        self.length = length
        self.reverse_complement = reverse_complement
        self._seed = seed
        self._max_n_fraction = max_n_fraction
        self._most_missing = max_n_fraction * length
        self._key = np.array([seed % 2**64, 0], dtype=np.uint64)
        self._regions = [
            (number, region, int(source.store.n_count(region.contig, region.start, region.end)))
            for number, source in enumerate(self.sources)
            for region in admissible(source.regions, length)
        ]
        if not self._regions:
            longest = max((len(r) for source in sources for r in source.regions), default=0)
            raise UsageError(
                f"no training region holds a window of {length:,} bases: the longest has "
                f"{longest:,}; choose a smaller --length"
            )
        self.bases = sum(len(region) for _, region, _ in self._regions)
        starts = (len(region) - length + 1 for _, region, _ in self._regions)
        self._starts_before = [0, *accumulate(starts)]

    def of_length(self, length: int) -> "TrainingWindows":
        """Return windows of another length from the same regions, drawn with the same seed."""
        return TrainingWindows(
            self.sources,
            length,
            seed=self._seed,
            reverse_complement=self.reverse_complement,
            max_n_fraction=self._max_n_fraction,
        )

    def window(self, step: int, index: int) -> Window:
        """Return where sample `index` of step `step` lies."""
        # A counter-based generator (Salmon et al. 2011, Philox); the first word counts its draws.
        random = np.random.Philox(key=self._key, counter=[0, index, step, 0])
        strand = "-" if self.reverse_complement and random.random_raw() >> 63 else "+"
        best, fewest = self._draw(random.random_raw(), strand)
        tries = 1
        while fewest > self._most_missing and tries < _TRIES:
            window, missing = self._draw(random.random_raw(), strand)
            if missing < fewest:
                best, fewest = window, missing
            tries += 1
        return best

    def _draw(self, bits: int, strand: str) -> tuple[Window, int]:
        """Turn 64 random bits into one of all starts; return the window and its N."""
        place = bits * self._starts_before[-1] >> 64
        row = bisect_right(self._starts_before, place) - 1
        source, region, missing = self._regions[row]
        start = region.start + place - self._starts_before[row]
        end = start + self.length
        if missing > self._most_missing:
            missing = int(self.sources[source].store.n_count(region.contig, start, end))
        return Window(source, Region(region.contig, start, end, strand)), missing

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        return _read(self.sources, self.window(*key))


def tile(
    sources: Sequence[Source],
    length: int,
    *,
    limit: int | None = None,
    max_n_fraction: float = MAX_N_FRACTION,
) -> list[Window]:
    """Lay windows side by side over each region, from its start; a shorter rest is left out.

    Parameters
    ----------
    sources
        Genomes and their held-out regions.
    length
        Bases in a window.
    limit
        Keep so many at most, evenly spaced over what there is.
    max_n_fraction
        Leave out windows with a larger share of N.

    Returns
    -------
    Windows on the + strand, in order of source, contig and start; none twice, none overlapping.
    """
    regions = [
        (number, region)
        for number, source in enumerate(sources)
        for region in admissible(source.regions, length)
    ]
    starts = []
    for number, region in regions:
        every = np.arange(region.start, region.end - length + 1, length)
        missing = sources[number].store.n_count(region.contig, every, every + length)
        starts.append(every[missing <= max_n_fraction * length])
    before = [0, *accumulate(map(len, starts))]
    total = before[-1]
    count = total if limit is None else min(limit, total)
    windows = []
    for i in range(count):
        place = (2 * i + 1) * total // (2 * count)
        row = bisect_right(before, place) - 1
        number, region = regions[row]
        start = int(starts[row][place - before[row]])
        windows.append(Window(number, Region(region.contig, start, start + length)))
    return windows


class HeldOutWindows(Dataset[torch.Tensor]):
    """Given windows of one length; the key i gives the i-th, (length,) uint8 store codes."""

    def __init__(self, sources: Sequence[Source], windows: Sequence[Window]) -> None:
        self.sources = tuple(sources)
        self.windows = tuple(windows)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, key: int) -> torch.Tensor:
        return _read(self.sources, self.windows[key])


def _read(sources: Sequence[Source], window: Window) -> torch.Tensor:
    return torch.from_numpy(sources[window.source].store.fetch(window.region))
