"""The sides of a fine-tuning: labelled sequences to train on, to choose on, and to test."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnamamba.alphabet import BASE, Codes, reverse_complement
from dnamamba.data.examples import Examples, are_new, read_examples
from dnamamba.data.outcomes import Outcomes, read_outcomes, read_same_outcomes
from dnamamba.errors import InputError
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
    """

    sequences: list[Codes]
    outcomes: Outcomes
    numbers: list[int]

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(rows,) bases of each."""
        return np.array([len(codes) for codes in self.sequences], np.int64)

    def of(self, rows: Sequence[int] | NDArray[np.int64]) -> "Side":
        """Return some of the rows."""
        outcomes = self.outcomes
        return Side(
            [self.sequences[row] for row in rows],
            Outcomes(outcomes.kind, outcomes.names, outcomes.values[np.asarray(rows, np.int64)]),
            [self.numbers[row] for row in rows],
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

    What is kept has the share of each class, and sequences that are the same, on either strand,
    are kept or trained on together.

    Raises
    ------
    InputError
        For what is wrong with a file, and for sequences that stand on two sides, with their lines,
        unless they may.
    """
    examples = _read(train, config)
    outcomes = read_outcomes(examples.table, config.labels, config.task)
    whole = _side(examples, outcomes)
    if valid is None:
        kept = _keep_some(whole, config.valid_share, config.seed)
        chosen = whole.of(np.flatnonzero(kept))
        fitted = whole.of(np.flatnonzero(~kept))
    else:
        others = _read(valid, config)
        _require_new(others, whole.sequences, train, allow_overlap)
        chosen = _side(others, read_same_outcomes(others.table, config.labels, outcomes))
        fitted = whole
    if test is None:
        return Sides(fitted, chosen, None, np.zeros(0, bool))
    others = _read(test, config)
    new = _require_new(others, whole.sequences, train, allow_overlap)
    tested = _side(others, read_same_outcomes(others.table, config.labels, outcomes))
    return Sides(fitted, chosen, tested, new)


def _read(path: Path, config: FinetuneConfig) -> Examples:
    return read_examples(path, sequence=config.sequence, labels=config.labels)


def _side(examples: Examples, outcomes: Outcomes) -> Side:
    return Side(examples.sequences, outcomes, examples.table.numbers)


def _require_new(
    examples: Examples, seen: Sequence[Codes], train: Path, allowed: bool
) -> NDArray[np.bool_]:
    """Tell which sequences do not stand in train; refuse the others, unless they may."""
    new = are_new(examples.sequences, seen)
    if new.all():
        return new
    table = examples.table
    told = (
        f"{table.source}: {table.where(np.flatnonzero(~new).tolist())}: {(~new).sum():,} of "
        f"{len(new):,} sequences stand in {train}, too, on either strand: a measure of them says "
        "little"
    )
    if not allowed:
        raise InputError(f"{told}; leave them out, or --allow-overlap")
    logger.warning(told)
    return new


def _keep_some(side: Side, share: float, seed: int) -> NDArray[np.bool_]:
    """Draw rows to choose on, of each class its share, the same sequences together."""
    groups = _same(side.sequences)
    firsts = np.unique(groups, return_index=True)[1]
    outcomes = side.outcomes
    strata = outcomes.values if outcomes.kind == "classes" else np.zeros(len(side), np.int64)
    random = np.random.default_rng(seed)
    kept: list[int] = []
    for stratum in np.unique(strata):
        members = groups[firsts[strata[firsts] == stratum]]
        count = max(1, round(share * len(members)))
        if len(members) < 2:
            name = outcomes.names[stratum] if outcomes.kind == "classes" else "the table"
            raise InputError(
                f"{name}: {len(members)} sequences that differ; two or more are wanted, one to "
                "train and one to choose on, or --valid FILE"
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
