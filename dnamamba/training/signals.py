"""Signals that ask a run to end: remembered, and heeded where nothing is half done."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dnamamba.processes import ALONE, Processes


class Interruption(BaseException):
    """A signal broke off what `StopRequest.breaks_off` lets it; no `except Exception` sees it."""


class StopRequest:
    """Whether a signal has asked the run to end, and which one."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._at_once = False

    @contextmanager
    def breaks_off(self, processes: Processes = ALONE) -> Iterator[None]:
        """Let a signal, one that has arrived already too, end what is done in here.

        Parameters
        ----------
        processes
            Who does it together, and is interrupted together, where it calls `check`; what one does
            by itself ends at once.

        Raises
        ------
        Interruption
            Wherever a signal arrives.
        """
        self._at_once = processes.size == 1
        try:
            self.check(processes)
            yield
        finally:
            self._at_once = False

    def agree(self, processes: Processes, *flags: bool) -> list[bool]:
        """Let all processes know of a signal that has reached one.

        Parameters
        ----------
        processes
            Each calls this at the same point.
        flags
            What else they have to agree on.

        Returns
        -------
        Whether there is a signal, and, flag by flag, whether any process has raised it.
        """
        number, *others = processes.largest(self.signal or 0, *flags)
        if number:
            self.signal = int(number)
        return [bool(number), *map(bool, others)]

    def check(self, processes: Processes) -> None:
        """Raise an `Interruption` on every process if a signal has reached one; as `agree`."""
        (stopping,) = self.agree(processes)
        if stopping:
            raise Interruption

    def ask(self, number: int) -> None:
        """Ask for an end, as the signal `number` does."""
        if number == signal.SIGINT and self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        if self._at_once:
            raise Interruption


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn SIGTERM, SIGUSR1 and SIGINT into a `StopRequest`; a second SIGINT interrupts at once.

    Slurm sends SIGTERM before it takes a machine away, and SIGUSR1 where `--signal` says so.
    """
    request = StopRequest()
    owner = os.getpid()

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() == owner:
            request.ask(number)
        elif number == signal.SIGTERM:  # a forked reader: all else is for its owner to heed
            os._exit(0)

    # Windows has no SIGUSR1.
    numbers = (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGUSR1", signal.SIGTERM))
    before = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
