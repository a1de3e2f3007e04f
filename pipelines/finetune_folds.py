"""Cross-validation of a fine-tuning: every row is tested by a model that was not fitted on it."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnamamba.config import to_dict, to_toml
from dnamamba.errors import UsageError
from dnamamba.files import write_text
from dnamamba.log import logger, write_run_record
from dnamamba.pipelines import options
from dnamamba.pipelines.finetune_config import FinetuneConfig, require_able, require_sound
from dnamamba.pipelines.finetune_cut import cut
from dnamamba.pipelines.finetune_data import read_whole
from dnamamba.pipelines.finetune_fit import finetune
from dnamamba.pipelines.finetune_record import CROSSED, go_on, inputs_of, require_alone
from dnamamba.pipelines.finetune_report import (
    BASES,
    MODEL,
    PREDICTIONS,
    Result,
    base_predictions,
    measured,
    plot_outcomes,
    predictions,
    write_results,
)
from dnamamba.pipelines.finetune_rows import write_rows
from dnamamba.pipelines.finetune_sides import Side
from dnamamba.pipelines.finetune_tested import load_tested
from dnamamba.pipelines.fitting import RESULTS, fold_folder
from dnamamba.pipelines.resume import require_same_inputs
from dnamamba.pipelines.table import Cell


@dataclass(frozen=True, eq=False)
class Pooled:
    """What all folds predict.

    Attributes
    ----------
    whole
        All rows.
    folds
        (rows,) int64 the fold that each is tested in, from 1 on.
    new
        (rows,) bool, which of them stand on no other side of that fold.
    found
        What each predictor is called to what it says of each row: (1, names) float64; of each base
        (bases, names).
    """

    whole: Side
    folds: NDArray[np.int64]
    new: NDArray[np.bool_]
    found: Mapping[str, Sequence[NDArray[np.float64]]]


def cross_validate(
    table: Path,
    output: Path,
    config: FinetuneConfig,
    *,
    valid: Path | None = None,
    test: Path | None = None,
    asked: Mapping[str, Any] | None = None,
    allow_overlap: bool = False,
    resume: bool = False,
    force: bool = False,
    device: str = "auto",
) -> int:
    """Fit and test a predictor for each fold, and pool what they predict.

    Each fold is a run of its own in `output`; the tables and plots of `output` are of all folds
    together.

    Parameters
    ----------
    table, output, config, asked, allow_overlap, resume, force, device
        As for `finetune`; `fold` is left open.
    valid, test
        None: sides are cut out of `table`.

    Returns
    -------
    The exit code, as of `finetune`.

    Raises
    ------
    UsageError
        Where a fold or a side is given; and as `finetune`.
    InputError
        As `finetune`, for any fold, before the first is fitted.
    CheckpointError
        As `finetune`, and where what a finished fold left is damaged.
    """
    asked = asked or {}
    if config.fold is not None:
        raise UsageError("--cross-validate tests every fold in turn: leave out --fold")
    require_alone("--cross-validate", valid, test)
    require_sound(config)
    place = options.resolve_device(device)
    if not force or resume:
        options.prepare_output(output, force=force, resume=resume)
    record = None
    if resume:
        record, config = go_on(output, config, asked, crossed=True)
    require_able(config, place)
    inputs = inputs_of(table, None, None, config)
    if record:
        require_same_inputs(output, record["inputs"], inputs)
        if (output / RESULTS).exists():
            logger.info("%s is finished: %s has its figures", output, output / RESULTS)
            return 0
    whole, rows = read_whole(table, config)
    folds = [dataclasses.replace(config, fold=number + 1) for number in range(config.folds)]
    for fold in folds:
        cut(whole, rows, fold, allow_overlap=allow_overlap)
    if force:
        options.prepare_output(output, force=True)
    settings = to_dict(config)
    about = {"seed": config.seed, CROSSED: True, "config": settings, "inputs": inputs}
    write_run_record(output, "finetune", about)
    write_text(output / "config.toml", to_toml(settings))
    folders = [fold_folder(output, number + 1) for number in range(config.folds)]
    for number, (fold, folder) in enumerate(zip(folds, folders, strict=True), 1):
        logger.info("fold %d of %d", number, config.folds)
        code = finetune(
            table,
            folder,
            fold,
            asked={**asked, "fold": number},
            allow_overlap=allow_overlap,
            resume=resume and folder.exists(),
            device=device,
        )
        if not (folder / RESULTS).exists():
            return code
    _write(output, _pool(whole, folders))
    return 0


def _pool(whole: Side, folders: Sequence[Path]) -> Pooled:
    """Bring what folds predict of their test rows into the order of the table."""
    rows_of = {number: row for row, number in enumerate(whole.numbers)}
    folds = np.zeros(len(whole), np.int64)
    new = np.zeros(len(whole), bool)
    found: dict[str, dict[int, NDArray[np.float64]]] = {}
    for fold, folder in enumerate(folders, 1):
        tested = load_tested(folder)
        rows = [rows_of[number] for number in tested.numbers.tolist()]
        folds[rows], new[rows] = fold, tested.new
        cuts = whole.outcomes.of(rows).ends[:-1]
        for name, each in tested.found.items():
            found.setdefault(name, {}).update(zip(rows, np.split(each, cuts), strict=True))
    order = range(len(whole))
    return Pooled(
        whole, folds, new, {name: [each[row] for row in order] for name, each in found.items()}
    )


def _write(output: Path, pooled: Pooled) -> None:
    """Leave predictions, plots and, as they say that all is done, the results."""
    whole = pooled.whole
    found = np.concatenate(pooled.found[MODEL])
    if whole.outcomes.sizes is not None:
        rows = base_predictions(whole, found)
        write_rows(output / BASES, _with_folds(rows, pooled, whole.outcomes.sizes))
    else:
        rows = predictions(whole, found)
        write_rows(output / PREDICTIONS, _with_folds(rows, pooled, np.ones(len(whole), np.int64)))
    plot_outcomes(output, whole, found)
    write_results(output, list(_results(pooled)))


def _with_folds(
    table: Iterator[list[Cell]], pooled: Pooled, counts: NDArray[np.int64]
) -> Iterator[list[Cell]]:
    """Yield a table whose header is first, with the fold and the group of each row behind it.

    Parameters
    ----------
    table, pooled
        The table, and what its rows are of.
    counts
        (rows,) how many rows of the table each row of the sides has.
    """
    groups = pooled.whole.groups
    yield [*next(table), "fold", *([] if groups is None else ["group"])]
    for row in np.repeat(np.arange(len(counts)), counts).tolist():
        group = [] if groups is None else [groups[row]]
        yield [*next(table), int(pooled.folds[row]), *group]


def _results(pooled: Pooled) -> Iterator[Result]:
    everything = np.arange(len(pooled.whole))
    sides = {"test": everything}
    if 0 < pooled.new.sum() < len(everything):
        sides["test, new"] = everything[pooled.new]
    for fold in np.unique(pooled.folds).tolist():
        sides[f"fold {fold} test"] = everything[pooled.folds == fold]
    for name, rows in sides.items():
        side, chosen = pooled.whole.of(rows), rows.tolist()
        for predictor, each in pooled.found.items():
            yield from measured(
                name, predictor, side, np.concatenate([each[row] for row in chosen])
            )
