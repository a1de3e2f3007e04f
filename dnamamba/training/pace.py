"""How fast steps go, and how much of their time the loop waits for the feeder."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Pace:
    """How fast steps went.

    Attributes
    ----------
    bases_per_second
        Bases of the steps, by the time that they took.
    wait_share
        The share of that time, 0 to 1, in which the loop waited for batches to come.
    """

    bases_per_second: float
    wait_share: float


class Stopwatch:
    """Times steps from one report to the next.

    A report reads the losses, and so waits until the device is done with all steps before it: the
    time between two reports is that of the steps between them, reading included. Validations and
    checkpoints come right after a report, while nothing is left to do, and are left out by `aside`.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what was timed."""
        self._since = time.monotonic()
        self._waited = 0.0

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on, and time how long each lets itself be waited for."""
        while True:
            began = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - began
            if batch is None:
                return
            yield batch

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave out what is done in here."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._since += time.monotonic() - began

    def lap(self, bases: int) -> Pace:
        """Return the pace of the steps since the last lap, which read `bases`."""
        seconds = time.monotonic() - self._since
        pace = Pace(bases / seconds, self._waited / seconds)
        self.restart()
        return pace


def overall(metrics: Mapping[str, Sequence[str]]) -> Pace | None:
    """Return the pace of a whole run by its metrics.tsv; None where no row tells of one.

    Parameters
    ----------
    metrics
        Columns as text: step, bases, bases_per_second, wait_share; the last two are missing or
        empty where a run began with a version that did not time its steps.
    """
    names = ("step", "bases", "bases_per_second", "wait_share")
    if any(name not in metrics for name in names):
        return None
    bases = seconds = waited = 0.0
    for row in zip(*(metrics[name] for name in names), strict=True):
        if all(row):
            step, so_far, rate, share = map(float, row)
            taken = so_far / step / rate
            bases += so_far / step
            seconds += taken
            waited += taken * share
    return Pace(bases / seconds, waited / seconds) if seconds else None
