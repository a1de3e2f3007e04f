"""From a sheet of genomes to the tracks that a classifier is fitted, tuned and tested on.

Homologous regions of all species go to one side together: by the coordinates that records carry, a
table of synteny, or, where neither is there, the order of bases, which a warning tells.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from dnamamba.alphabet import BASE
from dnamamba.data.catalog import choose_contigs
from dnamamba.data.loci import (
    Piece,
    cut_folds,
    in_regions,
    pieces_by_order,
    read_synteny,
    tagged_pieces,
    without_n,
)
from dnamamba.data.overlap import without_shared
from dnamamba.data.region import Region, intersect, merge, parse_region
from dnamamba.data.sheet import Row, read_sheet
from dnamamba.data.splits import SIDES, read_locus_split
from dnamamba.data.store import Store, open_store
from dnamamba.data.tracks import Track, Tracks, tracks_of
from dnamamba.errors import InputError, UsageError
from dnamamba.log import logger

ORDER_PIECES: Final = 1000
"""Pieces that a genome of unknown homology is cut into: folds begin at one of their ends."""
_BLOCK: Final = 1 << 22


@dataclass(frozen=True)
class Genome:
    """One line of the sheet, opened: its species by number, its store, and the regions meant."""

    row: Row
    species: int
    store: Store
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class Sides:
    """What a classifier is fitted, tuned and tested on.

    Attributes
    ----------
    species
        Names, in the order of the sheet.
    train, valid, test
        Tracks of each species, without N.
    how
        What decided on the sides, for the report.
    removed
        The share of the training and valid bases that was left out because its k-mers are held out.
    """

    species: tuple[str, ...]
    train: Tracks
    valid: Tracks
    test: Tracks
    how: str
    removed: float

    def longest(self) -> tuple[int, str]:
        """Return the longest window that every species has on every side, and what bounds it."""
        return min(
            (max((track.length for track in tracks), default=0), f"{name} on the {side} side")
            for side in SIDES
            for name, tracks in zip(self.species, getattr(self, side), strict=True)
        )


def open_sheet(path: Path) -> list[Genome]:
    """Open a sheet's genomes, each tokenised once.

    Raises
    ------
    InputError
        As `read_sheet`, `open_store` and `parse_region`; for a species without a base, and for the
        same bases under two of them.
    """
    rows = read_sheet(path)
    names = list(dict.fromkeys(row.species for row in rows))
    stores: dict[Path, Store] = {}
    genomes = []
    for row in rows:
        if row.fasta not in stores:
            try:
                stores[row.fasta] = open_store(row.fasta)
            except InputError as error:
                raise InputError(f"{path}:{row.line}: {row.species}: {error}") from error
        store = stores[row.fasta]
        if row.region:
            try:
                regions = [parse_region(row.region, store.lengths, store.source.name)]
            except InputError as error:
                raise InputError(f"{path}:{row.line}: {error}") from error
        else:
            contigs, note = choose_contigs(store.lengths, None, store.source.name)
            if note:
                logger.info(note)
            regions = [Region(contig, 0, store.lengths[contig]) for contig in contigs]
        genomes.append(Genome(row, names.index(row.species), store, tuple(regions)))
    for number, name in enumerate(names):
        mine = [genome for genome in genomes if genome.species == number]
        if not any(
            len(region) > int(genome.store.n_count(region.contig, region.start, region.end))
            for genome in mine
            for region in genome.regions
        ):
            raise InputError(
                f"{path}:{mine[0].row.line}: {name} has no sequence: {mine[0].row.fasta.name} "
                "holds nothing but N there; give another file or region"
            )
    _require_unlike(path, genomes)
    return genomes


def _require_unlike(path: Path, genomes: Sequence[Genome]) -> None:
    """Refuse a copy of another line's sequence."""
    before: dict[bytes, Genome] = {}
    sizes = [sum(map(len, genome.regions)) for genome in genomes]
    for genome, size in zip(genomes, sizes, strict=True):
        if sizes.count(size) == 1:
            continue
        digest = hashlib.sha256()
        for region in genome.regions:
            for start in range(region.start, region.end, _BLOCK):
                end = min(start + _BLOCK, region.end)
                codes = genome.store.fetch(Region(region.contig, start, end))
                digest.update((codes & np.uint8(BASE)).tobytes())
            digest.update(b"end")
        other = before.setdefault(digest.digest(), genome)
        if other is not genome and (
            other.species != genome.species or other.row.split == genome.row.split
        ):
            raise InputError(
                f"{path}:{genome.row.line}: {genome.row.fasta.name} holds the same bases for "
                f"{genome.row.species} as {other.row.fasta.name} for {other.row.species} in line "
                f"{other.row.line}; give each its own"
            )


def choose_sides(
    genomes: Sequence[Genome],
    *,
    folds: int,
    fold: int,
    split: Path | None = None,
    synteny: Path | None = None,
) -> Sides:
    """Put every region on a side, and homologous ones on the same.

    Parameters
    ----------
    genomes
        Of the sheet.
    folds, fold
        Contiguous folds of the shared coordinates, of as many bases each: `fold`, counted from 1,
        is tested on, the next one is valid, and the rest is trained on.
    split
        A BED file of shared coordinates with a side, instead of folds.
    synteny
        A table that `read_synteny` reads; None takes the coordinates in the records' descriptions.

    Raises
    ------
    InputError
        For loci that lie on two sides, a faulty table, or too little sequence to cut.
    UsageError
        For settings that do not fit together.
    """
    if folds < 3 or not 1 <= fold <= folds:
        raise UsageError(f"--folds {folds} --fold {fold}: give 3 folds or more, and one of them")
    pieces, known = _pieces(genomes, synteny)
    columns = {genome.row.split for genome in genomes}
    if columns != {None}:
        if split:
            raise UsageError("--split: the sheet has a column `split`, too; leave out one of them")
        return _by_column(genomes, pieces, known, folds)
    if split:
        if not known:
            raise UsageError(
                "--split: the genomes share no coordinates: give --synteny, or a column `split`"
            )
        sides = {side: list(read_locus_split(split).side(side)) for side in SIDES}
        how = f"by the regions of {split.name}"
    else:
        cut = cut_folds(pieces, folds)
        tuned = fold % folds
        sides = {
            "test": cut[fold - 1],
            "valid": cut[tuned],
            "train": [
                region
                for number, regions in enumerate(cut)
                if number not in (fold - 1, tuned)
                for region in regions
            ],
        }
        how = f"fold {fold} of {folds}, {'by locus' if known else 'by the order of bases'}"
    if not sides["valid"]:
        train = [in_regions(mine, sides["train"]) for mine in pieces]
        *rest, sides["valid"] = cut_folds(train, folds)
        sides["train"] = [region for regions in rest for region in regions]
    return _sides(genomes, pieces, sides, known, how)


def _pieces(genomes: Sequence[Genome], synteny: Path | None) -> tuple[list[list[Piece]], bool]:
    """Cut each genome's regions into pieces with loci, and tell whether these mean homology."""
    stores = [genome.store for genome in genomes]
    if synteny:
        return _syntenic(genomes, synteny), True
    tagged = tagged_pieces(stores, [genome.regions for genome in genomes])
    if tagged is not None:
        return tagged, True
    logger.warning(
        "which regions of the species are homologous is not known: they are parted by the order of "
        "bases, which may put the same locus on both sides; give --synteny, or records that carry "
        "coordinates (NAME:START-END)"
    )
    return [pieces_by_order(genome.regions, ORDER_PIECES) for genome in genomes], False


def _syntenic(genomes: Sequence[Genome], synteny: Path) -> list[list[Piece]]:
    species: dict[str, list[Store]] = {}
    for genome in genomes:
        stores = species.setdefault(genome.row.species, [])
        if genome.store not in stores:
            stores.append(genome.store)
    table = read_synteny(synteny, species)
    found: list[list[Piece]] = []
    for genome in genomes:
        number = species[genome.row.species].index(genome.store)
        inside = [
            piece
            for place, piece in table[genome.row.species]
            if place == number
            and any(
                region.contig == piece.region.contig
                and region.start <= piece.region.start
                and piece.region.end <= region.end
                for region in genome.regions
            )
        ]
        if not inside:
            raise InputError(f"{synteny}: no region of {genome.row.species} is of its genome")
        found.append(inside)
    return found


def _by_column(
    genomes: Sequence[Genome], pieces: Sequence[Sequence[Piece]], known: bool, folds: int
) -> Sides:
    """Follow the sheet's column `split`, and cut a valid side from train where it has none."""
    for genome in genomes:
        if genome.row.split is None:
            raise InputError(
                f"line {genome.row.line} of the sheet: the column split is empty, and other lines "
                "have one"
            )
    if not known:
        logger.warning(
            "the sheet's column split parts contigs, and contigs of one number need not be "
            "homologous: the same locus may be on both sides; give --synteny to be sure"
        )
    given: dict[str, list[list[Piece]]] = {
        side: [
            list(mine) if genome.row.split == side else []
            for genome, mine in zip(genomes, pieces, strict=True)
        ]
        for side in SIDES
    }
    loci = {side: merge(piece.locus for mine in given[side] for piece in mine) for side in SIDES}
    if known:
        for one, other in itertools.combinations(SIDES, 2):
            if both := intersect(loci[one], loci[other]):
                more = f" and {len(both) - 1} more loci" if len(both) > 1 else ""
                raise InputError(
                    f"the sheet's column split puts {both[0]}{more} on both sides, {one} and "
                    f"{other}: homologous regions have to go together"
                )
    if not any(given["valid"]):
        *_, last = cut_folds([mine for mine in given["train"] if mine], folds)
        given["valid"] = [in_regions(mine, last) for mine in given["train"]]
        given["train"] = [
            [piece for piece in mine if piece not in valid]
            for mine, valid in zip(given["train"], map(set, given["valid"]), strict=True)
        ]
        loci["train"], loci["valid"] = (
            merge(piece.locus for mine in given[side] for piece in mine)
            for side in ("train", "valid")
        )
    tracks = {side: _tracks(genomes, given[side], loci[side] if known else None) for side in SIDES}
    return _checked(genomes, tracks, "by the sheet's column split", known)


def _sides(
    genomes: Sequence[Genome],
    pieces: Sequence[Sequence[Piece]],
    loci: dict[str, list[Region]],
    known: bool,
    how: str,
) -> Sides:
    tracks = {}
    for side in SIDES:
        inside = [in_regions(mine, loci[side]) for mine in pieces]
        tracks[side] = _tracks(genomes, inside, loci[side] if known else None)
    return _checked(genomes, tracks, how, known)


def _tracks(
    genomes: Sequence[Genome], pieces: Sequence[Sequence[Piece]], loci: list[Region] | None
) -> Tracks:
    """Lay pieces end to end: those of one locus where loci are known, else those of one contig."""
    count = 1 + max(genome.species for genome in genomes)
    tracks: list[list[Track]] = [[] for _ in range(count)]
    for genome, mine in zip(genomes, pieces, strict=True):
        whole = without_n(genome.store, mine)
        if loci is None:
            for contig in dict.fromkeys(piece.region.contig for piece in whole):
                here = [piece for piece in whole if piece.region.contig == contig]
                tracks[genome.species].append(Track(genome.store, here))
        else:
            tracks[genome.species] += tracks_of(genome.store, whole, loci)
    return tracks


def _checked(genomes: Sequence[Genome], tracks: dict[str, Tracks], how: str, known: bool) -> Sides:
    """Cut what is held out from the other sides, and make sure that something is left of each.

    A sheet's own column is left as it is: what it leaks is refused, not mended.
    """
    names = tuple(dict.fromkeys(genome.row.species for genome in genomes))
    removed = 0.0
    train, valid, test = (tracks[side] for side in SIDES)
    if not any(genome.row.split for genome in genomes):
        train, removed = without_shared(train, valid, test)
        valid, _ = without_shared(valid, test)
        if removed > 0.001:
            logger.info(
                "%.1f %% of the training bases left out: by k-mers they are homologous to what is "
                "held out%s",
                100 * removed,
                "" if known else ", where the order of bases is not that of loci",
            )
    for side, sided in zip(SIDES, (train, valid, test), strict=True):
        for name, mine in zip(names, sided, strict=True):
            if not mine:
                raise InputError(
                    f"{name} has no sequence on the {side} side ({how}); give it more, or cut "
                    "otherwise: --folds, --split, or the sheet's column split"
                )
    return Sides(names, train, valid, test, how, removed)
