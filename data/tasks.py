"""Public sets of labelled sequences by name: where the hub has them, where a folder does.

A name is that of a collection and of a set in it, `genomic-benchmarks/human_enhancers_ensembl`. A
set is two tables, a train and a test side as its authors cut them, with classes in the column
`label`. In a folder they are NAME.train.parquet and NAME.test.parquet, as the hub has them, or
NAME.train.csv.gz and NAME.test.csv.gz.

A revision is pinned where it is known that it holds both sides whole. Elsewhere `main` is asked for
what it is; the sets have not changed for years.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dnamamba.data.examples import SEQUENCE
from dnamamba.errors import InputError, UsageError

FOLDER: Final = Path("tasks")
"""Where sets lie if nobody says."""
SIDES: Final = ("train", "test")
SUFFIXES: Final = (".parquet", ".csv.gz")
"""Of the tables, the first that both sides have."""
_ALIKE: Final = 0.8


@dataclass(frozen=True)
class Task:
    """A set of labelled sequences, and where the hub has it.

    Attributes
    ----------
    name
        Of the collection and the set.
    species
        Whose sequences they are.
    repository
        A dataset of the Hugging Face hub, owner/name.
    folder
        Of the repository: train*.parquet and test*.parquet lie there.
    sequence
        The column of sequences in these.
    revision
        The commit; None where none is pinned.
    """

    name: str
    species: str
    repository: str
    folder: str
    sequence: str
    revision: str | None = None

    @property
    def short(self) -> str:
        """The name without that of the collection: how files are called."""
        return self.name.rpartition("/")[2]

    def path(self, folder: Path, side: str, suffix: str = SUFFIXES[0]) -> Path:
        """Say where a side lies in a folder."""
        return folder / f"{self.short}.{side}{suffix}"


def _genomic_benchmark(short: str, species: str, revision: str | None = None) -> Task:
    repository = f"katarinagresova/Genomic_Benchmarks_{short}"
    return Task(f"genomic-benchmarks/{short}", species, repository, "data", "seq", revision)


def _nucleotide_transformer(short: str) -> Task:
    return Task(
        f"nucleotide-transformer/{short}",
        "Homo sapiens",
        "InstaDeepAI/nucleotide_transformer_downstream_tasks_revised",
        short,
        SEQUENCE,
        "851f9946252e90c665cdb3cc3eedb78f1f26197c",
    )


COLLECTIONS: Final = {
    "genomic-benchmarks": (
        _genomic_benchmark("demo_coding_vs_intergenomic_seqs", "Homo sapiens"),
        _genomic_benchmark(
            "demo_human_or_worm",
            "Homo sapiens, Caenorhabditis elegans",
            "a4f7f76b18a38f43ff3a7d5e8299408c3c121df2",
        ),
        _genomic_benchmark(
            "drosophila_enhancers_stark",
            "Drosophila melanogaster",
            "b8f2b8f47628860eb9f239c69c3ecc78ebb97e1f",
        ),
        _genomic_benchmark("dummy_mouse_enhancers_ensembl", "Mus musculus"),
        _genomic_benchmark("human_enhancers_cohn", "Homo sapiens"),
        _genomic_benchmark(
            "human_enhancers_ensembl", "Homo sapiens", "1e4a3993d89263e6496b64824cad9716c5f6643b"
        ),
        _genomic_benchmark("human_ensembl_regulatory", "Homo sapiens"),
        _genomic_benchmark(
            "human_nontata_promoters", "Homo sapiens", "e0003669df0a180c8570ebe091ed91f20fa080ec"
        ),
        _genomic_benchmark("human_ocr_ensembl", "Homo sapiens"),
    ),
    "nucleotide-transformer": tuple(
        _nucleotide_transformer(short)
        for short in (
            *("promoter_all", "promoter_tata", "promoter_no_tata", "enhancers", "enhancers_types"),
            *("splice_sites_all", "splice_sites_acceptors", "splice_sites_donors", "H2AFZ"),
            *("H3K27ac", "H3K27me3", "H3K36me3", "H3K4me1", "H3K4me2", "H3K4me3", "H3K9ac"),
            *("H3K9me3", "H4K20me1"),
        )
    ),
}
"""What the name of a collection alone stands for; of the Nucleotide Transformer's tasks these are
the revised ones, all human."""
TASKS: Final = tuple(task for tasks in COLLECTIONS.values() for task in tasks)
_KNOWN: Final = {
    **COLLECTIONS,
    **{task.name.lower(): (task,) for task in TASKS},
}
_IN_FULL: Final = {task.short.lower(): task.name for task in TASKS}


def is_task_name(name: str) -> bool:
    """Tell whether a set is meant: by its collection, misspelt or not, or by what follows it."""
    collection = name.lower().partition("/")[0]
    near = difflib.get_close_matches(collection, COLLECTIONS, n=1, cutoff=_ALIKE)
    return bool(near) or name.lower() in _IN_FULL


def find_tasks(names: Sequence[str]) -> list[Task]:
    """Find sets by their names, and those of collections, in any case; each once, in this order.

    Raises
    ------
    UsageError
        For a name that is none of these, with the nearest.
    """
    wanted: dict[Task, None] = {}
    for name in names:
        if name.lower() not in _KNOWN:
            raise UsageError(f"{name}: not in the catalogue; {_suggest(name.lower())}")
        wanted |= dict.fromkeys(_KNOWN[name.lower()])
    return list(wanted)


def _suggest(name: str) -> str:
    exact = [_IN_FULL[name]] if name in _IN_FULL else []
    near = exact or difflib.get_close_matches(name, _KNOWN, n=1)
    return f"did you mean `{near[0]}`?" if near else "`dnamamba fetch` lists it"


@dataclass(frozen=True)
class TaskFiles:
    """The two sides of a set in a folder, and their column of sequences; classes are in `label`."""

    train: Path
    test: Path
    sequence: str


def find_files(name: str, folder: Path = FOLDER) -> TaskFiles:
    """Find a set in a folder.

    Parameters
    ----------
    name
        As `find_tasks` takes it, of one set.
    folder
        Where both sides lie, Parquet or else CSV; sequences are in the column `sequence` of CSV.

    Raises
    ------
    UsageError
        For an unknown name, and that of a collection.
    InputError
        Where there is not a pair of files; with what brings them.
    """
    tasks = find_tasks([name])
    if len(tasks) > 1:
        raise UsageError(f"{name}: has {len(tasks)} sets; take one, such as {tasks[0].name}")
    task = tasks[0]
    there: list[str] = []
    for suffix in SUFFIXES:
        train, test = (task.path(folder, side, suffix) for side in SIDES)
        found = [path.name for path in (train, test) if path.exists()]
        if len(found) == len(SIDES):
            return TaskFiles(train, test, task.sequence if suffix == SUFFIXES[0] else SEQUENCE)
        there += found
    missing = f"has {' and '.join(there)} alone" if there else "has no files"
    raise InputError(
        f"{folder}: {missing} of {task.name}: dnamamba fetch {task.name} -o {folder} brings both "
        f"sides; {train.name} and {test.name} of your own are read there as well; --data names "
        f"another folder"
    )
