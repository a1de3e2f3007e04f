"""Cross-validation of a classifier: every fold is tested by a model that was not fitted on it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnamamba.config import to_dict, to_toml
from dnamamba.data.sheet import read_sheet
from dnamamba.errors import UsageError
from dnamamba.evaluation.contest import own, percent
from dnamamba.evaluation.contest_file import load_contests, pool, save_contests
from dnamamba.files import write_text
from dnamamba.log import logger, write_run_record
from dnamamba.pipelines import options
from dnamamba.pipelines.classify_config import ClassifyConfig, require_sound
from dnamamba.pipelines.classify_fit import fit
from dnamamba.pipelines.classify_report import CONTESTS, write_report
from dnamamba.pipelines.fitting import RESULTS, fold_folder
from dnamamba.pipelines.resume import read_record


def cross_validate(
    sheet: Path,
    output: Path,
    config: ClassifyConfig,
    *,
    asked: Mapping[str, Any],
    resume: bool = False,
    force: bool = False,
    **more: Any,
) -> int:
    """Fit and test a classifier for each fold, and pool what they called.

    Each fold is a run of its own in `output`; the table, the plots and the page of `output` are of
    all folds together.

    Parameters
    ----------
    sheet, output, config, asked, resume, force
        As for `fit`; `fold` is left open.
    more
        What else `fit` takes.

    Returns
    -------
    The exit code, as of `fit`.

    Raises
    ------
    UsageError
        Where sides are given that are no folds; and as `fit`.
    """
    require_sound(config)
    if "fold" in asked or config.split or any(row.split for row in read_sheet(sheet)):
        raise UsageError(
            "--cross-validate tests every fold in turn: leave out --fold, --split and the sheet's "
            "column split"
        )
    if not force or resume:
        options.prepare_output(output, force=force, resume=resume)
    if resume and read_record(output, "classify") and (output / RESULTS).exists():
        logger.info("%s is finished: %s has its figures", output, output / RESULTS)
        return 0
    if force:
        options.prepare_output(output, force=True)
    settings = {**to_dict(config), "fold": None}
    write_run_record(
        output,
        "classify",
        {"seed": config.seed, "config": settings, "sheet": str(sheet), "inputs": []},
    )
    write_text(output / "config.toml", to_toml(to_dict(config)))
    folders = [fold_folder(output, fold) for fold in range(1, config.folds + 1)]
    for fold, folder in enumerate(folders, 1):
        logger.info("fold %d of %d", fold, config.folds)
        code = fit(
            sheet,
            folder,
            dataclasses.replace(config, fold=fold),
            asked={**asked, "fold": fold},
            resume=resume and folder.exists(),
            **more,
        )
        if not (folder / RESULTS).exists():
            return code
    parts = [load_contests(folder / CONTESTS) for folder in folders]
    contests, places = pool(parts)
    save_contests(output / CONTESTS, contests, places)
    each = ", ".join(percent(own(found).model.correct.mean()) for found, _ in parts)
    facts = {
        "Species": ", ".join(own(contests).model.classes),
        "Context": f"{own(contests).length:,} bases",
        "Folds": f"{config.folds}, each tested by a model that was fitted on the others",
        "Accuracy of each fold": f"{each} %",
        "Seed": str(config.seed),
    }
    notes = [
        "The calls of all folds are pooled. Each fold's own report tells what it was fitted on.",
        "Runs of N are cut out of all windows: how many a genome has tells how it was sequenced.",
        "Intervals resample loci, not windows: homologous windows are no independent witnesses.",
    ]
    write_report(output, contests, places, facts, notes)
    return 0
