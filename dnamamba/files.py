"""Files on disk: atomic writes, checksums, and system faults told in the user's terms."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dnamamba.errors import DnamambaError, InputError

PICKLE_SUFFIXES: Final = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
"""How files are named that may hold a pickle."""
_PICKLE_PREFIXES: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How torch.save's archives and bare pickles begin."""


def begins_as_pickle(start: bytes) -> bool:
    """Tell a pickle by the first 9 bytes of a file.

    Those of a safetensors file are the length of its header, which may look like a pickle's, and
    the header's brace.
    """
    return start.startswith(_PICKLE_PREFIXES) and start[8:9] != b"{"


def describe_os_error(error: OSError, path: Path | str | None = None) -> DnamambaError:
    """Say an `OSError` in one line that names the file and the cure."""
    where = path or error.filename or "the output"
    if error.errno == errno.ENOSPC:
        return DnamambaError(f"disk full while writing {where}: free some space, or choose -o")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return DnamambaError(f"no permission for {where}: choose another place with -o")
    if error.errno == errno.ENOENT:
        return InputError(f"{where}: no such file")
    return DnamambaError(f"{where}: {error.strerror or error}")


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success fsync and rename, on failure remove it.

    A reader sees the old file or the whole new one, never a part, whenever the process dies.

    Raises
    ------
    DnamambaError
        Where the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        raise describe_os_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def take_space(path: Path, size: int) -> None:
    """Make a file of `size` zero bytes, and take the space for them now where the system can.

    Raises
    ------
    OSError
        Where the disk has less; nothing is left behind.
    """
    try:
        with path.open("wb") as handle:
            if size and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle.fileno(), 0, size)
            handle.truncate(size)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success fsync its files and rename it into place.

    An existing folder at `path` is replaced. On failure nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise describe_os_error(error, path) from error
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb+") as handle:
                    os.fsync(handle.fileno())
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.replace(old / path.name)
            temporary.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        raise describe_os_error(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes as they lie on disk."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def require_file(path: Path) -> Path:
    """Return `path` if it is a readable file; otherwise raise an InputError that names it."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, and a file is wanted")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: cannot be read; try chmod +r {path}")
    return path
