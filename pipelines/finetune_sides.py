"""The sides of a fine-tuning, and what is kept of one to choose on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dnamamba.alphabet import BASE, Codes, reverse_complement
from dnamamba.data.outcomes import Outcomes
from dnamamba.data.regions import clusters
from dnamamba.data.targets import Targets
from dnamamba.errors import InputError


@dataclass(frozen=True, eq=False)
class Side:
    """Labelled sequences.

    Attributes
    ----------
    sequences
        (bases,) uint8 store codes each.
    outcomes
        What they are.
    numbers
        Their lines in the file that they are from, or of Parquet their rows.
    windows
        Where they lie; None where they are no regions of a genome.
    groups
        (rows,) the name of what each belongs to; None where no column says so.
    """

    sequences: list[Codes]
    outcomes: Outcomes
    numbers: list[int]
    windows: Targets | None = None
    groups: list[str] | None = None

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(rows,) bases of each."""
        return np.array([len(codes) for codes in self.sequences], np.int64)

    def of(self, rows: Sequence[int] | NDArray[np.int64]) -> "Side":
        """Return some of the rows."""
        windows, groups = self.windows, self.groups
        return Side(
            [self.sequences[row] for row in rows],
            self.outcomes.of(rows),
            [self.numbers[row] for row in rows],
            None if windows is None else windows.chosen(np.asarray(rows, np.int64)),
            None if groups is None else [groups[row] for row in rows],
        )


@dataclass(frozen=True, eq=False)
class Sides:
    """What a fit reads.

    Attributes
    ----------
    train, valid
        What is trained on, and what the model that is kept is chosen on.
    test
        What is read once, at the end; None where there is none.
    new
        (test rows,) which of them stand on neither of the other sides.
    """

    train: Side
    valid: Side
    test: Side | None
    new: NDArray[np.bool_]


def require_all(train: Side, what: str) -> None:
    """Raise an InputError where a side to train on lacks a class, or a value of a label.

    Parameters
    ----------
    train
        The side.
    what
        What the error calls it.
    """
    outcomes = train.outcomes
    if outcomes.kind == "classes":
        counts = np.bincount(outcomes.values, minlength=len(outcomes.names))
        lacking = [
            f"`{name}`" for name, count in zip(outcomes.names, counts, strict=True) if not count
        ]
    elif outcomes.kind == "labels":
        lacking = [
            f"{value} of `{name}`"
            for name, column in zip(outcomes.names, outcomes.values.T, strict=True)
            for value in (0, 1)
            if not (column == value).any()
        ]
    else:
        known = ~np.isnan(outcomes.values).all(0)
        lacking = [
            f"`{name}`" for name, some in zip(outcomes.names, known, strict=True) if not some
        ]
    if lacking:
        raise InputError(f"{what} has no row with {', '.join(lacking)}")


def keep_some(side: Side, share: float, seed: int) -> NDArray[np.bool_]:
    """Draw rows to choose on, and together what is much the same, or of one group.

    Without groups it is of each class its share.

    Returns
    -------
    (rows,) whether each is kept.

    Raises
    ------
    InputError
        Where there are too few that differ, or too few groups.
    """
    alike = same(side.sequences) if side.windows is None else clusters(side.windows)
    if side.groups is not None:
        return _keep_groups(side.groups, alike, share, seed)
    firsts = np.unique(alike, return_index=True)[1]
    outcomes = side.outcomes
    strata = outcomes.values if outcomes.kind == "classes" else np.zeros(len(side), np.int64)
    unlike = "sequences that differ" if side.windows is None else "regions apart from each other"
    random = np.random.default_rng(seed)
    kept: list[int] = []
    for stratum in np.unique(strata):
        members = alike[firsts[strata[firsts] == stratum]]
        count = max(1, round(share * len(members)))
        if len(members) < 2:
            name = outcomes.names[stratum] if outcomes.kind == "classes" else "the table"
            raise InputError(
                f"{name}: {len(members)} {unlike}; two or more are wanted, one to train and one to "
                "choose on, or --valid FILE"
            )
        kept += random.permutation(members)[: min(count, len(members) - 1)].tolist()
    return np.isin(alike, kept)


def _keep_groups(
    groups: Sequence[str], alike: NDArray[np.int64], share: float, seed: int
) -> NDArray[np.bool_]:
    """Draw groups until they have about their share of rows; what is alike joins its groups."""
    named = np.unique(groups, return_inverse=True)[1]
    places = (named, named.max() + 1 + alike)
    size = int(places[1].max()) + 1
    graph = coo_array((np.ones(len(named)), places), shape=(size, size))
    parts = np.unique(connected_components(graph, directed=False)[1][named], return_inverse=True)[1]
    sizes = np.bincount(parts)
    if len(sizes) < 2:
        raise InputError(
            f"{len(set(groups))} groups, all in one where the same sequences join them: two or "
            "more are wanted, one to train and one to choose on, or --valid FILE"
        )
    order = np.random.default_rng(seed).permutation(len(sizes))
    closest = int(np.abs(np.cumsum(sizes[order]) - share * len(parts)).argmin()) + 1
    return np.isin(parts, order[: min(closest, len(sizes) - 1)])


def same(sequences: Sequence[Codes]) -> NDArray[np.int64]:
    """Give the same number to the same sequence, on either strand, soft-masked or not."""
    numbers: dict[bytes, int] = {}
    found = [numbers.setdefault(key, len(numbers)) for key in keys(sequences)]
    return np.array(found, np.int64)


def keys(sequences: Sequence[Codes]) -> Iterator[bytes]:
    """Yield what a sequence has in common with its reverse complement and no other has."""
    for codes in sequences:
        bases = codes & np.uint8(BASE)
        yield min(bases.tobytes(), reverse_complement(bases).tobytes())
