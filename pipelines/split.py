"""`dnamamba split`: cut genomes into training and held-out regions, and audit the cut."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import click

from dnamamba.data.audit import HOMOLOGOUS, Sharing, coverage, reached, share_kmers
from dnamamba.data.automatic import FRACTION, automatic_split
from dnamamba.data.catalog import choose_contigs
from dnamamba.data.region import Region, intersect
from dnamamba.data.sketch import K
from dnamamba.data.splits import (
    SIDES,
    Split,
    count_n,
    cut_gaps,
    format_splits,
    hold_out,
    read_splits,
)
from dnamamba.data.store import Store, open_store
from dnamamba.data.windows import admissible
from dnamamba.errors import DnamambaError, UsageError
from dnamamba.files import write_text
from dnamamba.log import logger
from dnamamba.pipelines import options
from dnamamba.pipelines.numbers import Count, Names
from dnamamba.pipelines.table import Cell, print_table

COLUMNS: Final = (
    *("genome", "side", "regions", "bases", "n", "unreachable", "reached_by_training"),
    *("seen_mean", "seen_min", "seen_max", "kmers", "kmers_shared"),
)
_NOTHING: Final = "NA"
_MOST_SHOWN: Final = 3


def choose_splits(
    stores: Sequence[Store],
    *,
    length: int,
    contigs: Sequence[str] | None = None,
    holdout: Sequence[str] | None = None,
    split: Path | None = None,
    fraction: float = FRACTION,
    seed: int = 0,
) -> tuple[list[Split], list[str]]:
    """Split genomes as the flags of a command ask for it.

    Parameters
    ----------
    stores
        The genomes.
    length
        Bases in a window.
    contigs
        Names and globs; None takes primary chromosomes where they are known, else all.
    holdout
        Contigs that are held out, as validation; each must be in one genome at least, and those
        genomes that have none of them are trained on as a whole.
    split
        A BED file with a fold column, read by `read_splits`.
    fraction, seed
        For `automatic_split`, which is what happens where neither of the two above is given.

    Returns
    -------
    One split for each genome, and notes for the user, a line each.

    Raises
    ------
    UsageError
        Where windows do not fit, or nothing would be left to train on or to hold out.
    InputError
        For an unknown contig, a faulty BED file, or contigs that are all N.
    """
    if length < 1:
        raise UsageError(f"--length {length}: give 1 or more")
    if not 0 < fraction < 1:
        raise UsageError(f"--fraction {fraction:g}: give a value between 0 and 1")
    if holdout and split:
        raise UsageError("--holdout and --split: give one of them")
    chosen, notes = [], []
    for store in stores:
        names, note = choose_contigs(store.lengths, contigs, store.source.name)
        chosen.append(names)
        notes += [note] if note else []
    if split:
        splits = read_splits(split, stores)
        if contigs:
            splits = [_restrict(*pair) for pair in zip(splits, chosen, strict=True)]
    elif holdout:
        splits = hold_out(stores, chosen, holdout)
    else:
        splits = []
        for store, names in zip(stores, chosen, strict=True):
            one, note = automatic_split(store, names, length, fraction=fraction, seed=seed)
            splits.append(one)
            notes.append(note)
    splits = [
        Split(*(tuple(cut_gaps(store, one.side(side), length)) for side in SIDES))
        for store, one in zip(stores, splits, strict=True)
    ]
    _require_windows(stores, splits, length)
    return splits, notes


def _restrict(split: Split, contigs: Sequence[str]) -> Split:
    kept = set(contigs)
    sides = (tuple(r for r in split.side(side) if r.contig in kept) for side in SIDES)
    return Split(*sides)


def _require_windows(stores: Sequence[Store], splits: Sequence[Split], length: int) -> None:
    """Raise a UsageError unless both sides hold a window."""
    genomes = ", ".join(store.source.name for store in stores)
    sides = {
        "for training": [region for split in splits for region in split.train],
        "held out": [region for split in splits for region in split.held_out],
    }
    for side, regions in sides.items():
        longest = max(regions, key=len, default=None)
        if longest is None:
            raise UsageError(f"{genomes}: nothing is {side}; choose another split")
        if len(longest) < length:
            raise UsageError(
                f"{genomes}: no window of {length:,} bases fits into what is {side}; the longest "
                f"stretch, on {longest.contig}, has {len(longest):,}: choose --length "
                f"{len(longest)} or less, or another split"
            )


def audit(
    stores: Sequence[Store], splits: Sequence[Split], length: int, *, threads: int = 1
) -> tuple[list[tuple[Cell, ...]], Sharing]:
    """Audit splits, for windows of `length` bases.

    Parameters
    ----------
    stores, splits
        The genomes and their splits.
    length
        Bases in a window.
    threads
        How many contigs are read at once.

    Returns
    -------
    A row of `COLUMNS` for each side of each genome, and what the sides share.
    """
    sharing = share_kmers(stores, splits, threads=threads)
    seen = coverage([split.train for split in splits], length)
    rows: list[tuple[Cell, ...]] = []
    for number, (store, split) in enumerate(zip(stores, splits, strict=True)):
        touched = reached(split, length)
        for side in SIDES:
            regions = split.side(side)
            bases = _bases(regions)
            row: list[Cell] = [store.source.name, side, len(regions), bases]
            row.append(sum(count_n(store, region) for region in regions))
            row.append(bases - _bases(admissible(regions, length)))
            if side == "train":
                row += [_NOTHING, seen[number].mean, seen[number].least, seen[number].most]
                row += [_NOTHING, _NOTHING]
            else:
                row += [_bases(intersect(regions, touched)), _NOTHING, _NOTHING, _NOTHING]
                sampled = sharing.sampled.get((number, side), 0)
                row.append(sampled)
                row.append(sharing.found[number, side] / sampled if sampled else _NOTHING)
            if regions:
                rows.append(tuple(row))
    return rows, sharing


def _bases(regions: Iterable[Region]) -> int:
    return sum(map(len, regions))


def _report(sharing: Sharing) -> None:
    """Say what was sampled, and warn of homologous contigs."""
    logger.info(
        "kmers_shared: %s-mers held out that training regions have, too, repeats among them; one "
        "in %s was looked at",
        K,
        f"{sharing.scale:,}",
    )
    pairs = sharing.homologies
    if not pairs:
        return
    genomes = {genome for pair in pairs for genome, _ in (pair.held_out, pair.train)}
    shown = []
    for pair in pairs[:_MOST_SHOWN]:
        held_out, train = (
            contig if len(genomes) == 1 else f"{contig} of {genome}"
            for genome, contig in (pair.held_out, pair.train)
        )
        shown.append(f"{held_out} with {train} {100 * pair.share:.0f} %")
    more = f", and {len(pairs) - len(shown):,} more pairs" if len(pairs) > len(shown) else ""
    logger.warning(
        "not an honest hold-out: of single-copy %s-mers, held-out contigs share more with training "
        "contigs than repeats do (%.0f %%): %s%s; keep homologous contigs on one side",
        K,
        100 * HOMOLOGOUS,
        ", ".join(shown),
        more,
    )


def require_apart(stores: Sequence[Store], splits: Sequence[Split], length: int) -> None:
    """Raise a DnamambaError that names held-out regions which training windows reach."""
    breaches = [
        f"{region} of {store.source.name}"
        for store, split in zip(stores, splits, strict=True)
        for region in reached(split, length)
    ]
    if breaches:
        more = f" and {len(breaches) - 5:,} more" if len(breaches) > 5 else ""
        raise DnamambaError(
            f"training windows of {length:,} bases reach held-out bases: "
            f"{', '.join(breaches[:5])}{more}; cut these out of one side"
        )


@click.command("split")
@click.argument(
    "genomes", metavar="GENOME...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--length", type=Count(), default=1024, show_default=True, help="Bases of a window.")
@click.option("--contigs", type=Names(), help="Contigs to use: names and globs, with commas.")
@click.option("--holdout", type=Names(), help="Contigs to hold out, with commas.")
@click.option(
    "--split",
    metavar="BED",
    type=click.Path(path_type=Path),
    help="Regions and their fold: train, valid or test.",
)
@click.option(
    "--fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=FRACTION,
    show_default=True,
    help="Share of the bases to hold out.",
)
@click.option("--audit", "audited", is_flag=True, help="Print an audit, and the BED only with -o.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="BED file to write.  [default: -, which is stdout]",
)
@click.option("--force", is_flag=True, help="Replace a BED file that is there already.")
@options.seed
@options.threads
@options.verbosity
def command(
    genomes: tuple[Path, ...],
    length: int,
    contigs: tuple[str, ...] | None,
    holdout: tuple[str, ...] | None,
    split: Path | None,
    fraction: float,
    audited: bool,
    output: Path | None,
    force: bool,
    seed: int,
    threads: int,
) -> None:
    """Cut genomes into training and held-out regions.

    GENOME is a FASTA file. The split is a BED file whose fourth column is train, valid or test, as
    pretrain --split reads it. Without --holdout and --split, whole contigs are held out where there
    are ten or more, else blocks.

    --audit proves that no held-out base can be reached by a training window, says how often a base
    is seen in an epoch, and warns where the sides share sequence. It exits with 1 if a held-out
    base can be reached.
    """
    to_stdout = str(output) == "-" or (output is None and not audited)
    if audited and to_stdout:
        raise UsageError("--audit prints a table: write the BED to a file with -o")
    if output and not to_stdout and output.exists() and not force:
        raise UsageError(f"{output}: exists; --force replaces it, -o chooses another")
    stores = [open_store(genome) for genome in genomes]
    splits, notes = choose_splits(
        stores,
        length=length,
        contigs=contigs,
        holdout=holdout,
        split=split,
        fraction=fraction,
        seed=seed,
    )
    for note in notes:
        logger.info("%s", note)
    if audited:
        rows, sharing = audit(stores, splits, length, threads=threads)
        print_table(COLUMNS, rows)
        _report(sharing)
        require_apart(stores, splits, length)
    bed = format_splits(splits, [store.source.name for store in stores])
    if to_stdout:
        click.echo(bed, nl=False)
    elif output:
        write_text(output, bed)
