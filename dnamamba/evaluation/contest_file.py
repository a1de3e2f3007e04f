"""Contests on disk, so that the folds of a cross-validation can be pooled when all are there."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from dnamamba.errors import CheckpointError
from dnamamba.evaluation.calls import Calls
from dnamamba.evaluation.contest import Contest, Place, pool_folds
from dnamamba.files import atomic_path, describe_os_error


def save_contests(path: Path, contests: Sequence[Contest], places: Sequence[Place]) -> None:
    """Write contests and the places of the windows of `own` as .npz, atomically."""
    about = {
        "classes": contests[0].model.classes,
        "contexts": [[contest.length, contest.combined] for contest in contests],
        "controls": list(contests[0].controls),
        "places": [[place.locus, place.region] for place in places],
    }
    arrays: dict[str, Any] = {}
    for number, contest in enumerate(contests):
        arrays[f"{number}.labels"] = contest.model.labels
        arrays[f"{number}.loci"] = contest.model.loci
        calls = [contest.model, *contest.controls.values()]
        arrays[f"{number}.probabilities"] = np.stack([each.probabilities for each in calls])
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, about=np.array(json.dumps(about)), **arrays)


def load_contests(path: Path) -> tuple[list[Contest], list[Place]]:
    """Read what `save_contests` wrote.

    Raises
    ------
    CheckpointError
        If the file is missing or damaged.
    """
    try:
        with path.open("rb") as handle, np.load(handle) as file:
            about = json.loads(str(file["about"]))
            contests = []
            for number, (length, combined) in enumerate(about["contexts"]):
                labels, loci = file[f"{number}.labels"], file[f"{number}.loci"]
                model, *controls = (
                    Calls(tuple(about["classes"]), probabilities, labels, loci)
                    for probabilities in file[f"{number}.probabilities"]
                )
                named = dict(zip(about["controls"], controls, strict=True))
                contests.append(Contest(length, model, named, combined))
        return contests, [Place(*place) for place in about["places"]]
    except OSError as error:
        raise CheckpointError(str(describe_os_error(error, path))) from error
    except (BadZipFile, KeyError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); fit this fold again") from error


def pool(folds: Sequence[tuple[list[Contest], list[Place]]]) -> tuple[list[Contest], list[Place]]:
    """Join the contests of the folds of a cross-validation, context by context.

    A fold too short for a context has no part in it.
    """
    same: dict[tuple[int, int], list[Contest]] = {}
    for contests, _ in folds:
        for contest in contests:
            same.setdefault((contest.length, contest.combined), []).append(contest)
    pooled = []
    for (length, combined), parts in sorted(same.items()):
        controls = {
            name: pool_folds([part.controls[name] for part in parts]) for name in parts[0].controls
        }
        model = pool_folds([part.model for part in parts])
        pooled.append(Contest(length, model, controls, combined))
    return pooled, [place for _, places in folds for place in places]
