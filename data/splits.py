"""Which bases are for training and which are held out.

A split is made of regions, not of windows: every window lies wholly inside one region of its side,
so that no base of one side is ever seen from another. Runs of N as long as a window are cut out of
all regions, because a window there would hold nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dnamamba.data.annotation import BedRecord, BedTable
from dnamamba.data.bed import read_bed
from dnamamba.data.region import Region, merge, require_contig, subtract
from dnamamba.data.store import Store
from dnamamba.errors import InputError, UsageError

SIDES: Final = ("train", "valid", "test")
_FOLDS: Final = {**{side: side for side in SIDES}, "val": "valid", "validation": "valid"}


@dataclass(frozen=True)
class Split:
    """One genome's sides; no base is on two of them."""

    train: tuple[Region, ...]
    valid: tuple[Region, ...]
    test: tuple[Region, ...] = ()

    @property
    def held_out(self) -> tuple[Region, ...]:
        """All regions that are not for training."""
        return self.valid + self.test

    def side(self, name: str) -> tuple[Region, ...]:
        """Return the regions of `train`, `valid` or `test`."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]


def cut_gaps(store: Store, regions: Iterable[Region], length: int) -> list[Region]:
    """Cut runs of at least `length` N out of regions; merged and sorted."""
    regions = list(regions)
    runs = []
    for contig in dict.fromkeys(region.contig for region in regions):
        gaps = store.gaps(contig)
        long = gaps[gaps[:, 1] - gaps[:, 0] >= length]
        runs += [Region(contig, start, end) for start, end in long.tolist()]
    return subtract(regions, runs)


def count_n(store: Store, region: Region) -> int:
    """Count the N of a region."""
    return int(store.n_count(region.contig, region.start, region.end))


def hold_out(
    stores: Sequence[Store], contigs: Sequence[Sequence[str]], names: Sequence[str]
) -> list[Split]:
    """Hold out whole contigs, as validation.

    Parameters
    ----------
    stores
        The genomes.
    contigs
        The contigs to use of each; those held out are added where they are missing.
    names
        Contigs to hold out, from each genome that has them.

    Returns
    -------
    One split for each genome; one that has none of the names is for training as a whole.

    Raises
    ------
    InputError
        For a name that no genome has, with the nearest one that is known.
    UsageError
        Where no contig would be left to train on.
    """
    genomes = ", ".join(store.source.name for store in stores)
    known = {contig: length for store in stores for contig, length in store.lengths.items()}
    held = {require_contig(name, known, genomes) for name in names}
    splits = []
    for store, used in zip(stores, contigs, strict=True):
        wanted = held.union(used)
        whole = [Region(c, 0, length) for c, length in store.lengths.items() if c in wanted]
        train = tuple(region for region in whole if region.contig not in held)
        splits.append(Split(train, tuple(region for region in whole if region.contig in held)))
    if not any(split.train for split in splits):
        raise UsageError(
            f"{genomes}: holding out {', '.join(names)} would leave nothing to train on; hold out "
            f"fewer contigs"
        )
    return splits


def read_splits(path: Path, stores: Sequence[Store]) -> list[Split]:
    """Read a BED file whose fourth column is the fold: train, valid or test.

    So Basenji, HyenaDNA and Caduceus write theirs (`sequences_human.bed`). Intervals of one side
    may overlap; they are joined. A fifth column may name a genome's file, for that genome alone;
    other lines hold for each genome that has the contig.

    Parameters
    ----------
    path
        The BED file, plain or gzipped.
    stores
        The genomes.

    Returns
    -------
    One split for each genome.

    Raises
    ------
    InputError
        With the line, for a fold of another name, an unknown contig, an interval outside its
        contig, and for sides that overlap, with both lines.
    """
    genomes = [store.source.name for store in stores]
    lengths: dict[str, int] = {}
    for store in stores:
        for contig, length in store.lengths.items():
            lengths[contig] = max(length, lengths.get(contig, 0))
    records: list[list[BedRecord]] = [[] for _ in stores]
    for record in _require_folds(read_bed(path, lengths, ", ".join(genomes)), path):
        region = record.region
        for genome, store, mine in zip(genomes, stores, records, strict=True):
            named = record.score == genome or record.score not in genomes
            if not named or (region.contig not in store.lengths and record.score != genome):
                continue
            require_contig(region.contig, store.lengths, genome)
            if region.end > store.lengths[region.contig]:
                raise InputError(
                    f"line {record.line:,} of {path}: end {region.end:,} lies behind "
                    f"{region.contig} of {genome}; name a genome's file in the fifth column"
                )
            mine.append(record)
    return [_as_split(mine, path) for mine in records]


def read_locus_split(path: Path) -> Split:
    """Read a BED file of folds in coordinates that several genomes share.

    Raises
    ------
    InputError
        As `read_splits`; no contig is unknown.
    """
    return _as_split(_require_folds(read_bed(path), path), path)


def _require_folds(table: BedTable, path: Path) -> list[BedRecord]:
    records = list(table)
    for record in records:
        if record.name.strip().lower() not in _FOLDS:
            said = f"fold {record.name!r}" if record.name else "no fourth column"
            raise InputError(f"line {record.line:,} of {path}: {said}: write train, valid or test")
    return records


def _as_split(records: Sequence[BedRecord], path: Path) -> Split:
    """Gather a genome's lines by side, where no two sides overlap."""
    sides: dict[str, list[Region]] = {side: [] for side in SIDES}
    reach: dict[tuple[str, str], BedRecord] = {}
    for record in sorted(records, key=lambda record: record.region):
        region, side = record.region, _FOLDS[record.name.strip().lower()]
        for other in SIDES:
            before = reach.get((region.contig, other))
            if other != side and before and len(region) and before.region.end > region.start:
                first, second = sorted((before, record), key=lambda each: each.line)
                raise InputError(
                    f"{path}: line {first.line:,} ({first.name}) and line {second.line:,} "
                    f"({second.name}) overlap at {region.contig}:{region.start + 1:,}; no base can "
                    f"be on two sides: cut one of them"
                )
        last = reach.get((region.contig, side))
        if len(region) and (last is None or region.end > last.region.end):
            reach[region.contig, side] = record
        sides[side].append(region)
    return Split(*(tuple(merge(sides[side])) for side in SIDES))


def format_splits(splits: Sequence[Split], genomes: Sequence[str]) -> str:
    """Write splits as BED with a fold column, and the genome's file name after it if several."""
    lines = []
    for split, genome in zip(splits, genomes, strict=True):
        rows = [(region, side) for side in SIDES for region in split.side(side)]
        for region, side in sorted(rows):
            columns = [region.contig, str(region.start), str(region.end), side]
            lines.append("\t".join(columns + [genome] * (len(splits) > 1)))
    return "".join(f"{line}\n" for line in lines)
