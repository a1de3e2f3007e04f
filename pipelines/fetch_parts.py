"""What is fetched, while it is under way: its mirror, its folder, the part that has come."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from dnamamba.data.place import lock
from dnamamba.files import describe_os_error
from dnamamba.log import logger


def mirrored(mirror: str | None, url: str) -> str:
    """Put the base URL of a mirror, if there is one, in place of a URL's host."""
    return url if mirror is None else mirror.rstrip("/") + urlsplit(url).path


def part_path(path: Path) -> Path:
    """Say where a file lies until all of it has come and was verified."""
    return path.with_name(f"{path.name}.part")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one process at a time fetch what `path` names, in a folder that is made.

    Raises
    ------
    DnamambaError
        Where the folder cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise describe_os_error(error, path.parent) from error
    with lock(path):
        yield


@contextmanager
def kept(part: Path) -> Iterator[None]:
    """Say, when interrupted, that the part that has come is kept."""
    try:
        yield
    except KeyboardInterrupt:
        if part.exists():
            logger.info("%s: kept; the same command goes on with it", part)
        raise
