"""Reading the sides of a fine-tuning: to train on, to choose on, and to test."""

from pathlib import Path

import numpy as np

from dnamamba.data.examples import Examples, read_examples
from dnamamba.data.outcomes import Outcomes, read_outcomes, read_same_outcomes
from dnamamba.data.regions import fetch, forward, read_regions
from dnamamba.data.signals import read_signals
from dnamamba.data.store import open_store
from dnamamba.data.table import Table, empty_cells
from dnamamba.errors import InputError, UsageError
from dnamamba.pipelines.finetune_config import FinetuneConfig
from dnamamba.pipelines.finetune_cut import cut, require_new
from dnamamba.pipelines.finetune_sides import Side, Sides, keep_some, require_all


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
    kept or trained on together; so are regions that overlap, and rows of a group. With a fold all
    sides are cut out of train.

    Raises
    ------
    InputError
        For what is wrong with a file, and for sequences that stand on two sides, or regions that
        overlap some of another, with their lines, unless they may.
    """
    reader = _Reader(config)
    examples = reader.examples(train)
    whole = reader.side(examples, None)
    if config.fold is not None:
        return cut(whole, examples.table, config, allow_overlap=allow_overlap)
    if valid is None:
        kept = keep_some(whole, config.valid_share, config.seed)
        chosen = whole.of(np.flatnonzero(kept))
        fitted = whole.of(np.flatnonzero(~kept))
        if config.group:
            require_all(fitted, f"{train}: beside the groups to choose on, the training side")
    else:
        others = reader.examples(valid)
        require_new(others, whole, train, allow_overlap)
        chosen = reader.side(others, whole.outcomes)
        fitted = whole
    if test is None:
        return Sides(fitted, chosen, None, np.zeros(0, bool))
    others = reader.examples(test)
    new = require_new(others, whole, train, allow_overlap)
    if valid is not None:
        new &= require_new(others, chosen, valid, allow_overlap)
    return Sides(fitted, chosen, reader.side(others, whole.outcomes), new)


def read_whole(path: Path, config: FinetuneConfig) -> tuple[Side, Table]:
    """Read all rows of labelled sequences, and the table that they stand in.

    Raises
    ------
    InputError
        For what is wrong with a file.
    """
    reader = _Reader(config)
    examples = reader.examples(path)
    return reader.side(examples, None), examples.table


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
        groups = self._groups(table, whole=like is None)
        return Side(examples.sequences, outcomes, table.numbers, examples.windows, groups)

    def _groups(self, table: Table, *, whole: bool) -> list[str] | None:
        """Read the column of groups; files of other sides than train may lack it."""
        name = self._config.group
        if name is None or not (whole or name in table.columns):
            return None
        if faults := list(empty_cells(table, [name])):
            raise InputError(f"{table.source}: {'; '.join(faults)}")
        return [cell.strip() for cell in table.column(name)]


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
