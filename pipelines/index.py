"""`dnamamba index`: tokenise genomes once, ahead of the commands that read them."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from dnamamba.data.store import Store, find_store, open_store
from dnamamba.pipelines import options
from dnamamba.pipelines.table import print_table

COLUMNS = ("genome", "store", "contigs", "bases", "n", "soft_masked", "state", "seconds")


def index(genomes: Sequence[Path], *, force: bool = False) -> Iterator[tuple[Store, bool, float]]:
    """Open the store of each genome, building those that are missing or stale.

    Parameters
    ----------
    genomes
        FASTA files.
    force
        Build them all.

    Yields
    ------
    The store, whether it was built now, and the seconds it took.
    """
    for genome in genomes:
        begin = time.perf_counter()
        store = None if force else find_store(genome)
        yield store or open_store(genome, rebuild=force), not store, time.perf_counter() - begin


@click.command("index")
@click.argument(
    "genomes", metavar="GENOME...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--force", is_flag=True, help="Build stores anew even where they are valid.")
@options.verbosity
def command(genomes: tuple[Path, ...], force: bool) -> None:
    """Tokenise genomes once into memory-mapped stores.

    GENOME is a FASTA file: plain text, gzip or BGZF. Its store is the folder GENOME.dnamamba beside
    it, or lies in the cache where that place cannot be written. Other commands build a store by
    themselves when they need it; a FASTA that has changed is tokenised again.
    """
    print_table(
        COLUMNS,
        (
            (
                str(genome),
                str(store.folder),
                len(store.lengths),
                sum(store.lengths.values()),
                store.n_total,
                store.soft_masked,
                "built" if built else "fresh",
                round(seconds, 3),
            )
            for genome, (store, built, seconds) in zip(
                genomes, index(genomes, force=force), strict=True
            )
        ),
    )
