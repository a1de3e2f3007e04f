"""Windows of labelled genomes: pieces laid end to end, and cut whole from one fold.

A *track* is what a window may be cut from without leaving its fold: pieces of one genome in the
order of their loci, end to end. Alignment blocks are shorter than long contexts, so that a window
may run over several.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from dnamamba.alphabet import Codes
from dnamamba.data.loci import ORDER, SCALE, Piece
from dnamamba.data.region import Region
from dnamamba.data.store import Store


class Track:
    """Pieces of one genome, end to end.

    Parameters
    ----------
    store
        The genome.
    pieces
        In order; at least one.

    Attributes
    ----------
    length
        Bases.
    """

    def __init__(self, store: Store, pieces: Sequence[Piece]) -> None:
        self.store = store
        self.pieces = tuple(pieces)
        self._starts = [0, *accumulate(len(piece.region) for piece in pieces)]
        self.length = self._starts[-1]

    def codes(self, start: int, end: int) -> Codes:
        """Return (end - start,) uint8 store codes, a copy, in the order of the loci."""
        parts = [self.store.fetch(region) for region in self.regions(start, end)]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def loci(self, start: int, end: int) -> list[Region]:
        """Return the loci that a stretch is homologous to, to the base where lengths agree."""
        found = []
        for piece, first, last in self._inside(start, end):
            scale = len(piece.locus) / len(piece.region)
            a, b = (piece.locus.start + round(scale * place) for place in (first, last))
            found.append(Region(piece.locus.contig, a, max(b, a + 1)))
        return found

    def regions(self, start: int, end: int) -> list[Region]:
        """Return where in the genome a stretch lies, in the order of the loci."""
        found = []
        for piece, first, last in self._inside(start, end):
            region = piece.region
            begin = region.start + first if region.strand == "+" else region.end - last
            found.append(Region(region.contig, begin, begin + last - first, region.strand))
        return found

    def place_of(self, piece: int, locus: int) -> int:
        """Return where in the track a position of shared coordinates lies, in a piece of it."""
        here = self.pieces[piece]
        share = (locus - here.locus.start) / len(here.locus)
        return self._starts[piece] + round(min(max(share, 0.0), 1.0) * len(here.region))

    def cut(self, start: int, end: int) -> list[Piece]:
        """Return the pieces of a stretch, cut at its ends."""
        pairs = zip(self.regions(start, end), self.loci(start, end), strict=True)
        return [Piece(region, locus) for region, locus in pairs]

    def _inside(self, start: int, end: int) -> Iterable[tuple[Piece, int, int]]:
        """Give the pieces of a stretch, and its ends within each."""
        for number in range(bisect_right(self._starts, start) - 1, len(self.pieces)):
            before = self._starts[number]
            if before >= end:
                return
            piece = self.pieces[number]
            yield piece, max(start - before, 0), min(end - before, len(piece.region))


Tracks = Sequence[Sequence[Track]]
"""The tracks of each species."""


def tracks_of(store: Store, pieces: Sequence[Piece], regions: Sequence[Region]) -> list[Track]:
    """Lay the pieces inside each of a fold's regions end to end.

    Parameters
    ----------
    store
        The genome.
    pieces
        Its pieces, by locus.
    regions
        Of shared coordinates; a piece belongs to the one that its locus begins in.

    Returns
    -------
    A track for each region that holds any.
    """
    tracks = []
    for region in regions:
        inside = [
            piece
            for piece in pieces
            if piece.locus.contig == region.contig
            and region.start <= piece.locus.start < region.end
        ]
        if inside:
            tracks.append(Track(store, inside))
    return tracks


@dataclass(frozen=True)
class LabelledWindow:
    """Where a sample lies: its species, its track among those of the species, and its bases."""

    species: int
    track: int
    start: int
    end: int


def read(species: Tracks, window: LabelledWindow) -> torch.Tensor:
    """Read a window's (length,) uint8 store codes."""
    return torch.from_numpy(species[window.species][window.track].codes(window.start, window.end))


def tile_tracks(species: Tracks, length: int) -> list[LabelledWindow]:
    """Lay windows side by side over each track, from its start; a shorter rest is left out.

    Returns
    -------
    Windows, species by species.
    """
    return [
        LabelledWindow(label, number, start, start + length)
        for label, tracks in enumerate(species)
        for number, track in enumerate(tracks)
        for start in range(0, track.length - length + 1, length)
    ]


def describe(species: Tracks, window: LabelledWindow) -> str:
    """Say where in its genome a window lies, such as `chr22.fa.gz chr22:1001-2000 and 3 more`."""
    track = species[window.species][window.track]
    first, *others = _joined(track.regions(window.start, window.end))
    more = f" and {len(others)} more" if others else ""
    return f"{track.store.source.name} {first}{more}"


def _joined(regions: Iterable[Region]) -> Iterator[Region]:
    """Join regions that follow upon each other, on one strand."""
    last: Region | None = None
    for region in regions:
        if last and (region.contig, region.strand) == (last.contig, last.strand):
            start, end = min(last.start, region.start), max(last.end, region.end)
            if end - start == len(last) + len(region):
                last = Region(last.contig, start, end, last.strand)
                continue
        if last:
            yield last
        last = region
    if last:
        yield last


def locus_text(species: Tracks, window: LabelledWindow) -> str:
    """Say which stretch of shared coordinates a window is homologous to, from end to end."""
    loci = species[window.species][window.track].loci(window.start, window.end)
    first, last = loci[0], loci[-1]
    if first.contig == ORDER:
        share = 100 / SCALE
        return f"from {first.start * share:.6g} to {last.end * share:.6g} % of the genome"
    if first.contig != last.contig:
        return f"{first} to {last}"
    return str(Region(first.contig, min(first.start, last.start), max(first.end, last.end)))


def spread(windows: Sequence[LabelledWindow], most: int) -> list[LabelledWindow]:
    """Keep `most` windows of each species at most, evenly spaced: homologous ones stay."""
    kept = []
    for species in sorted({window.species for window in windows}):
        mine = [window for window in windows if window.species == species]
        count = min(most, len(mine))
        kept += [mine[(2 * i + 1) * len(mine) // (2 * count)] for i in range(count)]
    return kept


def group_by_locus(species: Tracks, windows: Sequence[LabelledWindow]) -> list[int]:
    """Give each window the number of its locus, which homologous windows share.

    The loci are the windows of the first species that has any on a contig of shared coordinates;
    another's window belongs to the one whose middle is nearest to its own. Resampling loci, not
    windows, keeps windows together that are no independent witnesses.

    Parameters
    ----------
    species
        Their tracks.
    windows
        As `tile_tracks` gives them.

    Returns
    -------
    A number for each window, from 0 on.
    """
    middles = [_middle(species, window) for window in windows]
    first: dict[str, int] = {}
    for window, (contig, _) in zip(windows, middles, strict=True):
        first[contig] = min(window.species, first.get(contig, window.species))
    loci: dict[str, list[int]] = {contig: [] for contig in first}
    for window, (contig, place) in zip(windows, middles, strict=True):
        if window.species == first[contig]:
            loci[contig].append(place)
    before = dict(zip(loci, accumulate(map(len, loci.values()), initial=0), strict=False))
    for places in loci.values():
        places.sort()
    return [before[contig] + _nearest(loci[contig], place) for contig, place in middles]


def _middle(species: Tracks, window: LabelledWindow) -> tuple[str, int]:
    """Return the locus of a window's middle base."""
    middle = (window.start + window.end) // 2
    (locus,) = species[window.species][window.track].loci(middle, middle + 1)
    return locus.contig, locus.start


def _nearest(places: Sequence[int], place: int) -> int:
    at = bisect_right(places, place)
    near = [index for index in (at - 1, at) if 0 <= index < len(places)]
    return min(near, key=lambda index: abs(places[index] - place))
