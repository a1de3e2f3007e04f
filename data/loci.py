"""Which sequence of one genome is homologous to which of another.

A locus is a region of coordinates that genomes share: those of a reference that an alignment was
made to. Records carry it in their descriptions (`hg19_chr22:17443628-17448117`), or a table says
it. Where nothing does, all that is known is the order of bases, and a locus is a share of that.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from dnamamba.data.region import Region, require_contig
from dnamamba.data.store import Store
from dnamamba.errors import InputError
from dnamamba.files import require_file

TAG: Final = re.compile(r"(\S+):([0-9][0-9,]*)-([0-9][0-9,]*)")
ORDER: Final = "(order)"
"""The contig of loci that stand for a place in the order of a genome's bases."""
SCALE: Final = 10**9
"""Positions of `ORDER`: a genome's end."""
COLUMNS: Final = ("species", "contig", "start", "end", "locus")


@dataclass(frozen=True)
class Piece:
    """A region of a genome, and the locus that it is homologous to.

    Attributes
    ----------
    region
        In the genome; strand - where it runs against the locus.
    locus
        In shared coordinates.
    """

    region: Region
    locus: Region


def tagged_pieces(
    stores: Sequence[Store], regions: Sequence[Sequence[Region]]
) -> list[list[Piece]] | None:
    """Find the coordinates that all genomes' records have in their descriptions.

    A description may hold several tags, `NAME:START-END`, 1-based and both ends inside: those of
    the record's own genome and those of a reference. The reference's names stand in all genomes.

    Parameters
    ----------
    stores
        Genomes of two species or more.
    regions
        Of each, the regions that are meant.

    Returns
    -------
    Pieces of each genome, by locus; None where no tag is common to all.

    Raises
    ------
    InputError
        Where a region is a part of a tagged record: where in its locus it lies is not known.
    """
    tags = [
        {region: _tags(store.descriptions[region.contig]) for region in meant}
        for store, meant in zip(stores, regions, strict=True)
    ]
    most = min((len(found) for genome in tags for found in genome.values()), default=0)
    for place in reversed(range(most)):
        names = [{found[place].contig for found in genome.values()} for genome in tags]
        if set.intersection(*names):
            return [
                sorted(
                    (_piece(store, region, found[place]) for region, found in genome.items()),
                    key=lambda piece: piece.locus,
                )
                for store, genome in zip(stores, tags, strict=True)
            ]
    return None


def _tags(description: str) -> list[Region]:
    found = []
    for name, first, last in TAG.findall(description):
        start, end = (int(text.replace(",", "")) for text in (first, last))
        if start <= end:
            found.append(Region(name, max(start - 1, 0), end))  # some write the first base as 0
    return found


def _piece(store: Store, region: Region, locus: Region) -> Piece:
    if len(region) != store.lengths[region.contig]:
        raise InputError(
            f"{store.source.name}: {region} is a part of a record that carries {locus}; where in "
            "it the part lies is not known: give the whole record, or a table of synteny"
        )
    return Piece(region, locus)


def read_synteny(
    path: Path, species: Mapping[str, Sequence[Store]]
) -> dict[str, list[tuple[int, Piece]]]:
    """Read which regions are homologous: a TSV with species, contig, start, end and locus.

    Parameters
    ----------
    path
        The table. start and end are 0-based and half-open, as in BED; locus is text as samtools
        writes it (`chr22:1,001-2,000`), with `(-)` behind it where the region runs against it.
    species
        Name to its genomes.

    Returns
    -------
    For each species the number of a genome of its, and a piece, by locus.

    Raises
    ------
    InputError
        With file and line: for a missing column, an unknown species or contig, or what is no
        region.
    """
    require_file(path)
    with path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle, delimiter="\t")
        for name in COLUMNS:
            if name not in (reader.fieldnames or ()):
                raise InputError(f"{path}: no column `{name}`; {', '.join(COLUMNS)} are wanted")
        pieces: dict[str, list[tuple[int, Piece]]] = {name: [] for name in species}
        for line, row in enumerate(reader, 2):
            where = f"{path}:{line}"
            if row["species"] not in species:
                known = ", ".join(species)
                raise InputError(f"{where}: species {row['species']!r} is not one of {known}")
            pieces[row["species"]].append(_syntenic(where, row, species[row["species"]]))
    for found in pieces.values():
        found.sort(key=lambda numbered: numbered[1].locus)
    return pieces


def _syntenic(where: str, row: Mapping[str, str], stores: Sequence[Store]) -> tuple[int, Piece]:
    contig = row["contig"]
    number = next((i for i, store in enumerate(stores) if contig in store.lengths), None)
    if number is None:
        try:
            require_contig(contig, stores[0].lengths, stores[0].source.name)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    store = stores[number or 0]
    strand = "-" if row["locus"].endswith("(-)") else "+"
    tags = _tags(row["locus"].removesuffix("(-)").removesuffix("(+)"))
    numeric = row["start"].isdigit() and row["end"].isdigit()
    if len(tags) != 1 or not numeric or int(row["start"]) >= int(row["end"]):
        raise InputError(
            f"{where}: start before end, 0-based, and a locus NAME:START-END are wanted"
        )
    if int(row["end"]) > store.lengths[contig]:
        raise InputError(
            f"{where}: {contig} of {store.source.name} ends at {store.lengths[contig]:,}"
        )
    return number or 0, Piece(Region(contig, int(row["start"]), int(row["end"]), strand), tags[0])


def pieces_by_order(regions: Sequence[Region], count: int) -> list[Piece]:
    """Cut a genome into `count` pieces of about as many bases, by the order of its regions.

    What stands at the same share of two genomes gets the same locus, which says no more than that.

    Parameters
    ----------
    regions
        In the order of the file.
    count
        Pieces; a region's end cuts one more.
    """
    total = sum(len(region) for region in regions)
    # A cut has the same place in every genome, whatever its length; in between, places are rounded.
    cuts = {total * number // count: SCALE * number // count for number in range(count + 1)}
    pieces = []
    before = 0
    for region in regions:
        after = before + len(region)
        ends = [*(cut for cut in cuts if before < cut < after), after]
        for start, end in zip([before, *ends], ends, strict=False):
            first, last = (cuts.get(place, SCALE * place // total) for place in (start, end))
            here = Region(
                region.contig,
                region.start + start - before,
                region.start + end - before,
                region.strand,
            )
            pieces.append(Piece(here, Region(ORDER, first, last)))
        before = after
    return pieces


def without_n(store: Store, pieces: Sequence[Piece]) -> list[Piece]:
    """Cut the runs of N out of pieces, so that what is laid end to end holds none.

    How many N a genome has, and where, tells how it was sequenced: a classifier that sees them can
    tell species without reading a base.

    Parameters
    ----------
    store
        The genome.
    pieces
        Its pieces; the rest of each keeps the share of its locus that it had.
    """
    found = []
    gaps = {contig: store.gaps(contig) for contig in {p.region.contig for p in pieces}}
    for piece in pieces:
        region, locus = piece.region, piece.locus
        runs = gaps[region.contig]
        first = np.searchsorted(runs[:, 1], region.start, "right")
        last = np.searchsorted(runs[:, 0], region.end)
        edges = [region.start, *runs[first:last].flatten().tolist(), region.end]
        scale = len(locus) / len(region)
        parts = []
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            if start < end:
                near, far = start - region.start, end - region.start
                if region.strand == "-":
                    near, far = region.end - end, region.end - start
                a, b = (locus.start + round(scale * place) for place in (near, far))
                part = Region(region.contig, start, end, region.strand)
                parts.append(Piece(part, Region(locus.contig, a, max(b, a + 1))))
        found += parts if region.strand == "+" else parts[::-1]
    return found


def cut_folds(genomes: Sequence[Sequence[Piece]], count: int) -> list[list[Region]]:
    """Cut the loci of all genomes into contiguous folds of about as many bases.

    No locus of any genome is cut, and none lies in two folds: loci of different genomes that
    overlap, or are joined by others that do, stay together.

    Parameters
    ----------
    genomes
        Pieces of each.
    count
        Folds.

    Returns
    -------
    For each fold, the regions of shared coordinates that it holds.

    Raises
    ------
    InputError
        Where there are fewer stretches that can be told apart than folds.
    """
    bases: dict[Region, int] = {}
    for pieces in genomes:
        for piece in pieces:
            bases[piece.locus] = bases.get(piece.locus, 0) + len(piece.region)
    stretches: list[tuple[Region, int]] = []
    for locus, size in sorted(bases.items()):
        stretch, held = stretches[-1] if stretches else (locus, 0)
        if stretches and stretch.contig == locus.contig and locus.start < stretch.end:
            joined = Region(locus.contig, stretch.start, max(stretch.end, locus.end))
            stretches[-1] = joined, held + size
        else:
            stretches.append((locus, size))
    if len(stretches) < count:
        raise InputError(
            f"{len(stretches)} stretches of homologous sequence cannot make {count} folds: give "
            "fewer folds, or genomes in more records"
        )
    folds: list[list[Region]] = [[] for _ in range(count)]
    total, before, fold = sum(size for _, size in stretches), 0, 0
    for number, (region, size) in enumerate(stretches):
        share = count * (2 * before + size) // (2 * total)
        # The next fold at most, so that none is left empty, and as many as are still to be filled.
        fold = max(min(share, fold + 1), count - (len(stretches) - number)) if number else 0
        last = folds[fold][-1] if folds[fold] else None
        if last and last.contig == region.contig:
            folds[fold][-1] = Region(region.contig, last.start, region.end)
        else:
            folds[fold].append(region)
        before += size
    return folds


def in_regions(pieces: Sequence[Piece], regions: Sequence[Region]) -> list[Piece]:
    """Return the pieces whose loci begin inside one of the regions."""
    return [
        piece
        for piece in pieces
        if any(
            region.contig == piece.locus.contig and region.start <= piece.locus.start < region.end
            for region in regions
        )
    ]
