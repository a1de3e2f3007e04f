"""Where what is made from a FASTA lies: beside it, or in the user's cache where it cannot.

Both names are fixed by the FASTA, so that every process looks in the same two places.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dnamamba.errors import DnamambaError
from dnamamba.log import logger


def places(source: Path, suffix: str) -> tuple[Path, Path]:
    """Name the place beside `source` (resolved) and the one in the cache, ending in `suffix`."""
    beside = source.with_name(source.name + suffix)
    digest = hashlib.sha256(os.fsencode(source)).hexdigest()[:16]
    return beside, _cache_folder() / f"{digest}-{beside.name}"


def writable_place(source: Path, suffix: str) -> Path:
    """Choose the place beside `source` if its folder can be written, else the one in the cache.

    Raises
    ------
    DnamambaError
        Where neither can be written.
    """
    beside, cached = places(source, suffix)
    if _is_writable(source.parent):
        return beside
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DnamambaError(
            f"neither {source.parent} nor {cached.parent} can be written; "
            f"point XDG_CACHE_HOME to a folder that can"
        ) from error
    return cached


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dnamamba"


def _is_writable(folder: Path) -> bool:
    """Try it; a folder that is write-protected is left alone even where root could write."""
    if not folder.stat().st_mode & 0o222:
        return False
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        return error.errno == errno.ENOSPC


@contextmanager
def lock(place: Path) -> Iterator[None]:
    """Let one process at a time make `place`; the lock file beside it goes in the end.

    What a process that was killed left half-made is removed. Whoever waited on a lock file that was
    removed meanwhile opens the name anew. Where the file system knows no locks, two processes may
    work side by side: what they make must be atomic anyway.
    """
    path = place.with_name(f".{place.name}.lock")
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            is_held = _try_to_lock(handle)
            if _is_at(handle, path):
                try:
                    if is_held:
                        _remove_leftovers(place)
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
        finally:
            os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _try_to_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        logger.debug("no lock: %s", error)
        return False
    return True


def _remove_leftovers(place: Path) -> None:
    """Remove the temporary folders of `files.atomic_folder` for `place`."""
    for entry in place.parent.iterdir():
        if entry.name.startswith(f".{place.name}.") and entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
