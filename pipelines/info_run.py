"""What `dnamamba info` says of a run folder and of the model in it; it draws the run's plots."""

import json
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from dnamamba.config import to_dict
from dnamamba.errors import DnamambaError, InputError
from dnamamba.evaluation.plots import plot_run
from dnamamba.log import logger, read_metrics
from dnamamba.models.classifier import is_classifier_folder, read_classifier_config
from dnamamba.models.heads import LanguageModel
from dnamamba.models.presets import preset_name
from dnamamba.models.pretrained import is_model_folder, load
from dnamamba.pipelines.fitting import METRICS, PAGE, RESULTS
from dnamamba.training.checkpoint import list_states, state_step
from dnamamba.training.monitor import AVERAGED
from dnamamba.training.pace import overall

RUN: Final = "run.json"


def describe_run(folder: Path) -> dict[str, Any]:
    """Describe a run: how far it is, how well it does, what it was started with.

    Raises
    ------
    InputError
        Where its record is damaged.
    CheckpointError
        Where its model cannot be loaded.
    """
    path = folder / RUN
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        verb, argv, config = record["verb"], list(record["argv"]), record.get("config", {})
        command, steps = shlex.join(argv), config.get("steps")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error}); start the run again with --force") from error
    states = list_states(folder)
    last = state_step(states[0]) if states else None
    finished = (folder / RESULTS).is_file()
    return {
        "kind": "run",
        "path": str(folder),
        "state": "finished"
        if finished
        else f"not finished; a resume goes on from step {last or 0}",
        **({} if finished else {"resume": _resume_command(verb, argv)}),
        **_progress(folder / METRICS, steps),
        "last_checkpoint": last,
        "plots": [str(plot) for plot in _plots(folder)] or None,
        **_classifier(folder),
        "run": {**record, "argv": command},
        "model": describe_model(load(folder)) if is_model_folder(folder) else "not written yet",
    }


def _classifier(folder: Path) -> dict[str, Any]:
    """Tell what a classifier's folder tells apart; nothing of another."""
    if not is_classifier_folder(folder):
        return {}
    report = folder / PAGE
    return {
        "report": str(report) if report.is_file() else None,
        "classifier": to_dict(read_classifier_config(folder)),
    }


def _resume_command(verb: str, argv: Sequence[str]) -> str | None:
    """Return what to type where the run was started; None if that was not the command line."""
    if list(argv[1:2]) != [verb]:
        return None
    kept = [word for word in argv[1:] if word not in ("--force", "--resume")]
    return shlex.join(["dnamamba", *kept, "--resume"])


def _progress(metrics: Path, steps: int | None) -> dict[str, Any]:
    """Read from a metrics.tsv how far a run has come, how well it does and how fast."""
    columns = read_metrics(metrics) if metrics.is_file() else {}
    last = {name: next(filter(None, reversed(cells)), None) for name, cells in columns.items()}
    held_out = {
        name: float(cell) for name, cell in last.items() if name.startswith("valid_") and cell
    }
    bits = [float(cell) for cell in columns.get("train_bits", ()) if cell]
    pace = overall(columns)
    return {
        "steps_done": int(last.get("step") or 0),
        "steps": steps,
        "bases_read": int(last.get("bases") or 0),
        "train_bits": round(fmean(bits[-AVERAGED:]), 4) if bits else None,
        "held_out": held_out or "not yet",
        "bases_per_second": round(pace.bases_per_second) if pace else None,
        "wait_share": round(pace.wait_share, 5) if pace else None,
    }


def _plots(folder: Path) -> list[Path]:
    """Draw a run's plots, if its folder can be written."""
    if not (folder / METRICS).is_file():
        return []
    try:
        if is_classifier_folder(folder):
            chance = math.log2(len(read_classifier_config(folder).classes))
            return plot_run(folder, "window", chance)
        return plot_run(folder)
    except DnamambaError as error:
        logger.warning("no plots: %s", error)
        return []


def describe_model(model: LanguageModel) -> dict[str, Any]:
    """Describe a model: its size, where its parameters lie, its config."""
    by_module: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        *_, module, last = name.split(".")
        by_module[module if last in ("weight", "bias") else last] += parameter.numel()
    return {
        "preset": preset_name(model.config),
        "parameters": model.parameters_count,
        "parameters_by_module": dict(by_module),
        "config": to_dict(model.config),
    }
