"""Random windows of labelled genomes, to train on."""

from bisect import bisect_right
from itertools import accumulate

import numpy as np
import torch
from torch.utils.data import Dataset

from dnamamba.data.tracks import LabelledWindow, Tracks, read
from dnamamba.errors import UsageError


class LabelledWindows(Dataset[torch.Tensor]):
    """Random windows of all species; the key (step, index) gives (length,) uint8 store codes.

    A step shows each locus in every species in turn: what tells loci apart is far more than what
    tells close species apart, and would drown it in a gradient's noise. A window is drawn in one of
    the species, all starts of its tracks as likely; those of the others are cut around the same
    locus. A window is a pure function of (seed, step, index).

    Parameters
    ----------
    species
        The tracks of each.
    length
        Bases in a window.
    seed
        Any integer; its lowest 64 bits count.
    by_track
        Draw each sample by itself: a species, then a track, each as likely, whatever its length,
        then a window. That is how the Mamba paper's great apes are drawn.

    Raises
    ------
    UsageError
        Where a species has no track that holds a window.
    """

    def __init__(
        self,
        species: Tracks,
        length: int,
        *,
        seed: int,
        by_track: bool = False,
    ) -> None:
        self.species = tuple(tuple(tracks) for tracks in species)
        self.length = length
        self._seed = seed
        self._by_track = by_track
        self._key = np.array([seed % 2**64, 1], dtype=np.uint64)
        self._starts_before: list[list[int]] = []
        for number, tracks in enumerate(self.species):
            starts = [max(0, track.length - length + 1) for track in tracks]
            if not any(starts):
                longest = max((track.length for track in tracks), default=0)
                raise UsageError(
                    f"species {number + 1} has no stretch of {length:,} bases to train on: the "
                    f"longest has {longest:,}; choose a smaller --length"
                )
            self._starts_before.append([0, *accumulate(starts)])
        self._pieces = [self._pieces_by_locus(number) for number in range(len(self.species))]

    @property
    def bases(self) -> int:
        """Bases of all tracks that hold a window."""
        tracks = [track for each in self.species for track in each]
        return sum(track.length for track in tracks if track.length >= self.length)

    def of_length(self, length: int) -> "LabelledWindows":
        """Return windows of another length; those of one key are of one species in both."""
        return LabelledWindows(self.species, length, seed=self._seed, by_track=self._by_track)

    def label(self, step: int, index: int) -> int:
        """Return the species of sample `index` of step `step`."""
        if self._by_track:
            return self._species(self._random(step, index))
        return (index + step) % len(self.species)

    def _random(self, step: int, index: int) -> np.random.Philox:
        return np.random.Philox(key=self._key, counter=[0, index, step, 0])

    def _species(self, random: np.random.Philox) -> int:
        return len(self.species) * random.random_raw() >> 64

    def window(self, step: int, index: int) -> LabelledWindow:
        """Return where sample `index` of step `step` lies."""
        random = self._random(step, index if self._by_track else index // len(self.species))
        drawn = self._species(random)
        window = self._draw(random, drawn)
        wanted = drawn if self._by_track else self.label(step, index)
        if drawn == wanted:
            return window
        return self._homolog(window, wanted) or self._draw(random, wanted)

    def _draw(self, random: np.random.Philox, species: int) -> LabelledWindow:
        before = self._starts_before[species]
        low, high = 0, before[-1]
        if self._by_track:
            holding = [i for i in range(len(before) - 1) if before[i + 1] > before[i]]
            chosen = holding[len(holding) * random.random_raw() >> 64]
            low, high = before[chosen], before[chosen + 1]
        place = low + ((high - low) * random.random_raw() >> 64)
        track = bisect_right(before, place) - 1
        start = place - before[track]
        return LabelledWindow(species, track, start, start + self.length)

    def _homolog(self, window: LabelledWindow, species: int) -> LabelledWindow | None:
        """Cut a window of a species around the locus of another's; None where it has none there."""
        middle = (window.start + window.end) // 2
        (locus,) = self.species[window.species][window.track].loci(middle, middle + 1)
        pieces = self._pieces[species].get(locus.contig, [])
        if not pieces:
            return None
        _, number, piece = pieces[
            max(0, bisect_right(pieces, locus.start, key=lambda found: found[0]) - 1)
        ]
        track = self.species[species][number]
        start = track.place_of(piece, locus.start) - self.length // 2
        start = min(max(start, 0), track.length - self.length)
        return LabelledWindow(species, number, start, start + self.length)

    def _pieces_by_locus(self, species: int) -> dict[str, list[tuple[int, int, int]]]:
        """Sort the pieces of tracks that hold a window: contig to (start, track, piece)."""
        found: dict[str, list[tuple[int, int, int]]] = {}
        for number, track in enumerate(self.species[species]):
            if track.length >= self.length:
                for piece, each in enumerate(track.pieces):
                    locus = each.locus
                    found.setdefault(locus.contig, []).append((locus.start, number, piece))
        for pieces in found.values():
            pieces.sort()
        return found

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        return read(self.species, self.window(*key))
