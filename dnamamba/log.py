"""What a run says: messages and bars on stderr, metrics.tsv and run.json in the run folder."""

import json
import logging
import platform
import resource
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dnamamba import __version__
from dnamamba.files import describe_os_error, write_text

logger = logging.getLogger("dnamamba")


class _TqdmHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def configure(verbosity: int = 0) -> None:
    """Send messages to stderr: warnings with -1 (`-q`), progress with 0, details with 1 (`-v`)."""
    handler = _TqdmHandler()
    handler.setFormatter(_Formatter())
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel({-1: logging.WARNING, 0: logging.INFO}.get(verbosity, logging.DEBUG))


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return message if record.levelno < logging.WARNING else f"warning: {message}"


def progress(total: int | None, description: str, unit: str) -> "tqdm[Any]":
    """Make a bar on stderr; silent where stderr is not a terminal or messages are off."""
    hidden = not sys.stderr.isatty() or logger.getEffectiveLevel() > logging.INFO
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        disable=hidden,
        dynamic_ncols=True,
        file=sys.stderr,
    )


def peak_resident() -> int:
    """Return the most memory that this process has held so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Metrics:
    """Append rows to a metrics.tsv; a resume drops the rows after its step.

    Parameters
    ----------
    path
        The file; created with a header where it does not exist. One with other columns is brought
        to these: cells of a column that it lacks are empty.
    columns
        Lower-case names; the first is the step.
    """

    def __init__(self, path: Path, columns: Iterable[str]) -> None:
        self.path = path
        self.columns = tuple(columns)
        self._write(self._rows())

    def _rows(self) -> list[tuple[str, ...]]:
        if not self.path.exists():
            return []
        cells = read_metrics(self.path)
        empty = [""] * len(next(iter(cells.values())))
        return list(zip(*(cells.get(column, empty) for column in self.columns), strict=True))

    def _write(self, rows: Iterable[Sequence[str]]) -> None:
        lines = ["\t".join(row) for row in (self.columns, *rows)]
        write_text(self.path, "\n".join(lines) + "\n")

    def rewind(self, step: int) -> None:
        """Forget rows whose step is above `step`, and a last row that was cut short."""
        self._write(row for row in self._rows() if int(row[0]) <= step)

    def add(self, row: Mapping[str, float | int | str]) -> None:
        """Append one row; a column that is missing stays empty."""
        cells = [_cell(row.get(column, "")) for column in self.columns]
        try:
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write("\t".join(cells) + "\n")
        except OSError as error:
            raise describe_os_error(error, self.path) from error


def _cell(value: float | int | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def read_metrics(path: Path) -> dict[str, list[str]]:
    """Read a metrics.tsv into its columns, as text; a row that was cut short is left out."""
    *lines, _ = path.read_text(encoding="utf-8").split("\n")  # a whole row ends its line
    header, *rows = (line.split("\t") for line in lines or [""])
    whole = [row for row in rows if len(row) == len(header)]
    return {name: [row[i] for row in whole] for i, name in enumerate(header)}


def write_run_record(folder: Path, verb: str, record: Mapping[str, Any]) -> None:
    """Write run.json: the verb, argv, versions and time, and what the verb adds.

    Parameters
    ----------
    folder
        The run folder.
    verb
        The command, one word.
    record
        Plain values: seed, config, device, and inputs with size and checksum.
    """
    about = {
        "verb": verb,
        "argv": sys.argv,
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_text(folder / "run.json", json.dumps({**about, **record}, indent=2) + "\n")
