"""The monitor of a process that does not speak for the others."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from dnamamba.evaluation.language import Score
from dnamamba.training.loop import Row
from dnamamba.training.monitor import Monitor


class Silence(Monitor):
    """Reports nothing, and has written nothing down."""

    seconds = 0.0

    def __init__(self) -> None:
        pass

    def rewind(self, step: int) -> None:
        """Do nothing."""

    def waiting(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """Pass batches on."""
        return batches

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Do nothing."""
        yield

    def is_validated(self, step: int) -> bool:
        """Do not know of any validation."""
        return False

    def report(self, rows: list[Row]) -> None:
        """Do nothing."""

    def validated(self, step: int, score: Score) -> None:
        """Do nothing."""

    def log_pace(self, workers: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
