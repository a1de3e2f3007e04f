"""The sides of a fine-tuning: labelled sequences to train on, to choose on, and to test."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnamamba.alphabet import BASE, Codes, reverse_complement
from dnamamba.data.examples import Examples, are_new, read_examples
from dnamamba.data.outcomes import Outcomes, read_outcomes, read_same_outcomes
from dnamamba.data.regions import clusters, fetch, forward, overlap, read_regions
from dnamamba.data.signals import read_signals
from dnamamba.data.store import open_store
from dnamamba.data.targets import Targets
from dnamamba.errors import InputError, UsageError
from dnamamba.log import logger
from dnamamba.pipelines.finetune_config import FinetuneConfig


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
    """

    sequences: list[Codes]
    outcomes: Outcomes
    numbers: list[int]
    windows: Targets | None = None

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(rows,) bases of each."""
        return np.array([len(codes) for codes in self.sequences], np.int64)

    def of(self, rows: Sequence[int] | NDArray[np.int64]) -> "Side":
        """Return some of the rows."""
        windows = self.windows
        return Side(
            [self.sequences[row] for row in rows],
            self.outcomes.of(rows),
            [self.numbers[row] for row in rows],
            None if windows is None else windows.chosen(np.asarray(rows, np.int64)),
        )


@dataclass(frozen=True, eq=False)
class Sides:
    """What a fit reads.

    Attributes
    ----------
    train, valid
        What is trained on, and what the model that is kept is chosen on.
    test
        What is read once, at the end; None where no file is given.
    new
        (test rows,) which of them stand on neither of the other sides.
    """

    train: Side
    valid: Side
    test: Side | None
    new: NDArray[np.bool_]


def read_sides(
    train: Path,
    valid: Path | None,
    test: Path | None,
    config: FinetuneConfig,
    *,
    allow_overlap: bool = False,
) -> Sides:
    """Read labelled sequences, and keep some of train to choose on where no file is given for it.

    What is kept has the share of each class, and sequences that are the same, on either strand, are
    kept or trained on together; so are regions that overlap.

    Raises
    ------
    InputError
        For what is wrong with a file, and for sequences that stand on two sides, or regions that
        overlap some of another, with their lines, unless they may.
    """
    reader = _Reader(config)
    examples = reader.examples(train)
    whole = reader.side(examples, None)
    if valid is None:
        kept = _keep_some(whole, config.valid_share, config.seed)
        chosen = whole.of(np.flatnonzero(kept))
        fitted = whole.of(np.flatnonzero(~kept))
    else:
        others = reader.examples(valid)
        _require_new(others, whole, train, allow_overlap)
        chosen = reader.side(others, whole.outcomes)
        fitted = whole
    if test is None:
        return Sides(fitted, chosen, None, np.zeros(0, bool))
    others = reader.examples(test)
    new = _require_new(others, whole, train, allow_overlap)
    if valid is not None:
        new &= _require_new(others, chosen, valid, allow_overlap)
    return Sides(fitted, chosen, reader.side(others, whole.outcomes), new)


class _Reader:
    """Reads sides: sequences from tables or a genome, and labels from columns or tracks."""

    def __init__(self, config: FinetuneConfig) -> None:
        self._config = config
        self._store = open_store(Path(config.genome)) if config.genome else None

    def examples(self, path: Path) -> Examples:
        """Read sequences. With tracks the + strand is read, as training draws strands anyway."""
        config = self._config
        if self._store is None:
            return read_examples(path, sequence=config.sequence, labels=config.labels)
        found = read_regions(path, self._store, config.window)
        windows = forward(found.windows) if config.tracks else found.windows
        return Examples(list(fetch(self._store, windows)), found.table, windows)

    def side(self, examples: Examples, like: Outcomes | None) -> Side:
        """Read what is to be predicted of them, as of others if those were read before."""
        config, table = self._config, examples.table
        if config.tracks and self._store is not None and examples.windows is not None:
            paths = list(map(Path, config.tracks))
            outcomes = read_signals(paths, self._store, examples.windows, examples.sequences)
            if config.task not in (None, outcomes.kind):
                raise UsageError(
                    f"--task {config.task}: {paths[0]} has {outcomes.kind}; leave it out"
                )
            _require_known(outcomes, table.source, whole=like is None)
        elif like is None:
            outcomes = read_outcomes(table, config.labels, config.task)
        else:
            outcomes = read_same_outcomes(table, config.labels, like)
        return Side(examples.sequences, outcomes, table.numbers, examples.windows)


def _require_known(outcomes: Outcomes, source: str, *, whole: bool) -> None:
    """Refuse tracks that say nothing of the regions; of those to be fitted on, all the same."""
    for name, column in zip(outcomes.names, outcomes.values.T, strict=True):
        known = column[~np.isnan(column)]
        if not len(known):
            raise InputError(f"{source}: the track {name} says nothing of a base in these regions")
        if whole and known.min() == known.max():
            raise InputError(
                f"{source}: the track {name} is {known[0]:g} at each base of these regions: there "
                "is nothing to learn; choose others, some of whose bases differ"
            )


def _require_new(examples: Examples, seen: Side, source: Path, allowed: bool) -> NDArray[np.bool_]:
    """Tell which rows do not stand on a side; refuse the others, unless they may."""
    if examples.windows is not None and seen.windows is not None:
        new = ~overlap(examples.windows, seen.windows)
        what = f"regions overlap some in {source}"
    else:
        new = are_new(examples.sequences, seen.sequences)
        what = f"sequences stand in {source}, too, on either strand"
    if new.all():
        return new
    table = examples.table
    told = (
        f"{table.source}: {table.where(np.flatnonzero(~new).tolist())}: {(~new).sum():,} of "
        f"{len(new):,} {what}: a measure of them says little"
    )
    if not allowed:
        raise InputError(f"{told}; leave them out, or --allow-overlap")
    logger.warning(told)
    return new


def _keep_some(side: Side, share: float, seed: int) -> NDArray[np.bool_]:
    """Draw rows to choose on, of each class its share, and together what is much the same."""
    groups = _same(side.sequences) if side.windows is None else clusters(side.windows)
    firsts = np.unique(groups, return_index=True)[1]
    outcomes = side.outcomes
    strata = outcomes.values if outcomes.kind == "classes" else np.zeros(len(side), np.int64)
    unlike = "sequences that differ" if side.windows is None else "regions apart from each other"
    random = np.random.default_rng(seed)
    kept: list[int] = []
    for stratum in np.unique(strata):
        members = groups[firsts[strata[firsts] == stratum]]
        count = max(1, round(share * len(members)))
        if len(members) < 2:
            name = outcomes.names[stratum] if outcomes.kind == "classes" else "the table"
            raise InputError(
                f"{name}: {len(members)} {unlike}; two or more are wanted, one to train and one to "
                "choose on, or --valid FILE"
            )
        kept += random.permutation(members)[: min(count, len(members) - 1)].tolist()
    return np.isin(groups, kept)


def _same(sequences: Sequence[Codes]) -> NDArray[np.int64]:
    """Give the same number to the same sequence, on either strand, soft-masked or not."""
    numbers: dict[bytes, int] = {}
    found = []
    for codes in sequences:
        bases = codes & np.uint8(BASE)
        key = min(bases.tobytes(), reverse_complement(bases).tobytes())
        found.append(numbers.setdefault(key, len(numbers)))
    return np.array(found, np.int64)
