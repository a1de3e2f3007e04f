"""Sets of labelled sequences from the hub: both sides as they are served, verified, and a record.

The hub tells the size and SHA-256 of each file of a commit (`api/datasets/OWNER/NAME/tree/COMMIT`);
the file is asked for at that commit and held against them. Where no commit is pinned, that of
`main` is asked for first.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from dnamamba import __version__
from dnamamba.data.download import download, download_text, forget
from dnamamba.data.tasks import SIDES, SUFFIXES, Task
from dnamamba.errors import DnamambaError, InputError, UsageError
from dnamamba.files import atomic_path, sha256, write_text
from dnamamba.log import logger
from dnamamba.pipelines.fetch_parts import alone, kept, mirrored, part_path

HUB: Final = "https://huggingface.co"


@dataclass(frozen=True)
class _Served:
    """A file of the hub at a commit."""

    url: str
    size: int
    sha256: str


def fetch_task(
    task: Task, folder: Path, *, mirror: str | None = None, force: bool = False
) -> Iterator[Path]:
    """Bring both sides of a set into a folder, with a NAME.json that says what they are.

    Parameters
    ----------
    task
        The set.
    folder
        Where NAME.train.parquet and NAME.test.parquet go.
    mirror
        Base URL in place of the hub's own.
    force
        Ask the hub anew, and replace what is there already.

    Yields
    ------
    The file of each side, verified.

    Raises
    ------
    UsageError
        For a file that is in the way and is not what the hub has.
    InputError
        Where what came is not what the hub tells; it is removed.
    DnamambaError
        Where the hub does not answer or give the files, or the disk is full; what came is kept.
    """
    record = folder / f"{task.short}.json"
    with alone(record):
        if force or not _is_done(task, record):
            revision = task.revision or _newest(task, mirror, record)
            files = _listed(task, revision, mirror, record)
            for side in SIDES:
                _fetch_side(files[side], task.path(folder, side), force)
            _write_record(task, revision, files, record)
    for side in SIDES:
        yield task.path(folder, side)


def _is_done(task: Task, path: Path) -> bool:
    """Tell whether both sides are there as they were fetched, at the commit that is pinned."""
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        same = record["repository"] == task.repository and all(
            sha256(task.path(path.parent, side)) == record["files"][side]["sha256"]
            for side in SIDES
        )
        same &= task.revision in (None, record["revision"])
    except (OSError, ValueError, LookupError, TypeError, DnamambaError):
        return False
    if same:
        logger.info("%s: is there, as it was fetched and verified", task.name)
    return same


def _newest(task: Task, mirror: str | None, record: Path) -> str:
    url = f"{HUB}/api/datasets/{task.repository}/revision/main"
    answer = _ask(task, mirrored(mirror, url), record)
    try:
        return str(answer["sha"])
    except (LookupError, TypeError) as error:
        raise InputError(f"{url}: the hub's answer names no commit") from error


def _listed(task: Task, revision: str, mirror: str | None, record: Path) -> dict[str, _Served]:
    """Ask what the hub has of each side at a commit."""
    url = f"{HUB}/api/datasets/{task.repository}/tree/{revision}/{task.folder}"
    listing = _ask(task, mirrored(mirror, url), record)
    files = {}
    for side in SIDES:
        try:
            (entry,) = (
                entry
                for entry in listing
                if Path(entry["path"]).match(f"{side}*{SUFFIXES[0]}") and "lfs" in entry
            )
            size, digest = int(entry["lfs"]["size"]), str(entry["lfs"]["oid"])
        except (LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"{url}: does not tell one file {side}*{SUFFIXES[0]} with its SHA-256"
            ) from error
        at = f"{HUB}/datasets/{task.repository}/resolve/{revision}/{quote(entry['path'])}"
        files[side] = _Served(mirrored(mirror, at), size, digest)
    return files


def _ask(task: Task, url: str, record: Path) -> Any:
    """Ask the hub's API, and say what else can be done where it cannot be reached."""
    try:
        return json.loads(download_text(url, record.with_name(f"{record.name}.answer")))
    except ValueError as error:
        raise InputError(f"{url}: the answer is not the hub's; try another with --url") from error
    except DnamambaError as error:
        train, test = (task.path(record.parent, side, ".csv.gz").name for side in SIDES)
        raise DnamambaError(
            f"{error}; where the hub cannot be reached, put {train} and {test} (columns sequence "
            f"and label) into {record.parent}: dnamamba finetune {task.name} --data "
            f"{record.parent} reads them"
        ) from error


def _fetch_side(file: _Served, path: Path, force: bool) -> None:
    if path.exists() and not force:
        if sha256(path) == file.sha256:
            return
        raise UsageError(
            f"{path}: exists, and is not what the hub has; --force replaces it, -o chooses another"
        )
    part = part_path(path)
    with kept(part):
        download(file.url, part, size=file.size)
        found = sha256(part)
        if found != file.sha256:
            forget(part)
            raise InputError(
                f"{file.url}: what came is not what the hub lists: its SHA-256 is {found}, and "
                f"{file.sha256} is wanted; removed it; run the command again"
            )
        with atomic_path(path) as temporary:
            part.replace(temporary)
        forget(part)
    logger.info("%s: %s bytes; SHA-256 as the hub lists it", path, f"{file.size:,}")


def _write_record(task: Task, revision: str, files: Mapping[str, _Served], path: Path) -> None:
    record = {
        "name": task.name,
        "repository": task.repository,
        "revision": revision,
        "revision_from": "catalogue" if task.revision else "main",
        "files": {
            side: {"file": task.path(path.parent, side).name, **asdict(file)}
            for side, file in files.items()
        },
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
    }
    write_text(path, json.dumps(record, indent=2) + "\n")
