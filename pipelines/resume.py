"""Going on with a run: what is asked for now has to be what its run.json says."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dnamamba.data.store import Store
from dnamamba.errors import CheckpointError, InputError, UsageError
from dnamamba.files import sha256


def describe_inputs(stores: Sequence[Store], others: Iterable[Path] = ()) -> list[dict[str, Any]]:
    """List a run's inputs for run.json: path, size in bytes, and SHA-256."""
    genomes = [
        {"path": str(store.source), "size": store.size, "sha256": store.checksum}
        for store in stores
    ]
    files = [
        {"path": str(path.resolve()), "size": path.stat().st_size, "sha256": sha256(path)}
        for path in others
    ]
    return genomes + files


def read_record(folder: Path, verb: str) -> dict[str, Any] | None:
    """Read the run.json of a run that is to go on; None where there is none yet.

    Raises
    ------
    CheckpointError
        If it is damaged.
    UsageError
        If it is of another verb.
    """
    path = folder / "run.json"
    if not path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind, _, _ = record["verb"], record["config"], record["inputs"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged; start again with --force") from error
    if kind != verb:
        raise UsageError(f"{folder}: is a run of {kind}, not of {verb}; choose another -o")
    return record


def require_same_inputs(
    folder: Path, before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> None:
    """Raise an InputError unless the inputs have the checksums that the run was started with."""
    if len(before) != len(now):
        raise InputError(
            f"{folder}: was started with {len(before)} input files, not {len(now)}: "
            f"give {', '.join(old['path'] for old in before)}"
        )
    for old, new in zip(before, now, strict=True):
        if old["sha256"] != new["sha256"]:
            raise InputError(
                f"{new['path']}: is not the {old['path']} that {folder} was started with "
                "(its SHA-256 differs): bring that back, or start again with --force"
            )


def require_same_settings(
    folder: Path, before: Mapping[str, Any], asked: Mapping[str, Any], free: Collection[str]
) -> None:
    """Raise a UsageError that names every setting asked for that is not the run's.

    Parameters
    ----------
    folder
        The run folder, for the error.
    before
        The run's settings, resolved; one table may lie inside.
    asked
        The settings that were given now.
    free
        Names that may change on the way.
    """
    known = flatten(before)
    differing = [
        f"{name} {known.get(name)} (now {value})"
        for name, value in flatten(asked).items()
        if name not in free and known.get(name) != value
    ]
    if differing:
        raise UsageError(
            f"{folder}: was started with {', '.join(differing)}: "
            "leave that out to --resume, or start again with --force"
        )


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Bring tables of settings up to one level; tuples become lists, as JSON has them."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value)
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat
