"""Folds of a table: groups that are tested, chosen on and trained on in turn."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnamamba.data.examples import Examples, are_new
from dnamamba.data.groups import assign_folds
from dnamamba.data.regions import overlap
from dnamamba.data.table import Table
from dnamamba.errors import InputError
from dnamamba.log import logger
from dnamamba.pipelines.finetune_config import FinetuneConfig
from dnamamba.pipelines.finetune_sides import Side, Sides, keys, require_all


def cut(whole: Side, table: Table, config: FinetuneConfig, *, allow_overlap: bool) -> Sides:
    """Cut a table's rows into the sides of a fold: tested, the next chosen on, the others trained.

    Parameters
    ----------
    whole, table
        All rows.
    config
        With the number of the fold.
    allow_overlap
        Whether what is much the same may stand on two sides.

    Raises
    ------
    InputError
        For fewer groups than folds, a training side that lacks a class, and the same sequence or
        overlapping regions on two sides, with their lines, unless they may.
    """
    fold, source = config.fold or 1, table.source
    folds = assign(whole, config, source)
    is_test, is_valid = folds == fold - 1, folds == fold % config.folds
    rest, chosen, tested = (
        np.flatnonzero(each) for each in (~is_test & ~is_valid, is_valid, is_test)
    )
    train, valid, test = (whole.of(rows) for rows in (rest, chosen, tested))
    require_all(train, f"{source}: fold {fold} of {config.folds}: the training side")
    others = whole.of(np.flatnonzero(~is_test))
    for rows, side, seen, name, where in (
        (chosen, valid, train, fold % config.folds + 1, f"what fold {fold} is trained on"),
        (tested, test, others, fold, "other folds"),
    ):
        new = find_new(side, seen)
        _require(new, table, rows, _leak(side, where, f" of fold {name}"), allow_overlap)
    return Sides(train, valid, test, new)


def assign(whole: Side, config: FinetuneConfig, source: str) -> NDArray[np.int64]:
    """Return the fold of each row, (rows,) from 0 on: by groups, else chromosomes, else sequences.

    Raises
    ------
    InputError
        For fewer of them than folds.
    """
    if whole.groups is not None:
        names = whole.groups
    elif whole.windows is not None:
        names = [whole.windows.contigs[number] for number in whole.windows.contig]
    else:
        names = [hashlib.sha256(key).hexdigest() for key in keys(whole.sequences)]
        count = len(set(names))
        if count < config.folds:
            raise InputError(
                f"{source}: {count} sequences that differ cannot fill {config.folds} folds"
            )
    return assign_folds(names, config.folds, source)


def find_new(side: Side | Examples, seen: Side) -> NDArray[np.bool_]:
    """Tell which rows neither stand in others, on either strand, nor overlap them, (rows,)."""
    if side.windows is not None and seen.windows is not None:
        return ~overlap(side.windows, seen.windows)
    return are_new(side.sequences, seen.sequences)


def require_new(examples: Examples, seen: Side, source: Path, allowed: bool) -> NDArray[np.bool_]:
    """Tell which rows of a file do not stand on a side; refuse the others, unless they may.

    Raises
    ------
    InputError
        With their lines.
    """
    new = find_new(examples, seen)
    rows = np.arange(len(examples))
    _require(new, examples.table, rows, _leak(examples, str(source)), allowed)
    return new


def _leak(side: Side | Examples, where: str, of: str = "") -> str:
    if side.windows is not None:
        return f"regions{of} overlap some in {where}"
    return f"sequences{of} stand in {where}, too, on either strand"


def _require(
    new: NDArray[np.bool_], table: Table, rows: NDArray[np.int64], what: str, allowed: bool
) -> None:
    if new.all():
        return
    told = (
        f"{table.source}: {table.where(rows[~new].tolist())}: {(~new).sum():,} of {len(new):,} "
        f"{what}: a measure of them says little"
    )
    if not allowed:
        raise InputError(f"{told}; leave them out, or --allow-overlap")
    logger.warning(told)
