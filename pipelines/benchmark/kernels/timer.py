"""Seconds and memory of a call: on a GPU by its own clock, with nothing of it in the L2 cache."""

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

import torch

FLUSH_BYTES: Final = 256 * 2**20
"""Written before every run on a GPU: more than any L2 cache holds."""
FEWEST: Final = 3
MOST: Final = 100


@dataclass(frozen=True)
class Figure:
    """What a measurement found.

    Parameters
    ----------
    seconds
        The median run.
    first
        Seconds of the first call, compilation included.
    peak
        Bytes that the call allocated at most at one time; None on a device that does not count.
    """

    seconds: float
    first: float
    peak: int | None


class Timer:
    """Measures calls on a device.

    Parameters
    ----------
    device
        Where the calls run.
    seconds
        The budget of a measurement, past its two warm-up calls: as many runs as it holds, 3 to
        100 of them; a single one where a run alone takes more.
    """

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device = device
        self._seconds = seconds
        self._cuda = device.type == "cuda"
        size = FLUSH_BYTES if self._cuda else 0
        self._flushed = torch.empty(size, dtype=torch.uint8, device=device)

    def measure(self, call: Callable[[], object]) -> Figure:
        """Take the median of many runs; the first two are the first call and the peak's."""
        with self._current():
            first = self.once(call)
            before = self._restart_peak()
            second = self.once(call)
            peak = torch.cuda.max_memory_allocated(self.device) - before if self._cuda else None
            runs = min(max(int(self._seconds / second), FEWEST), MOST)
            times = self._runs(call, 1 if second > self._seconds else runs)
        return Figure(statistics.median(times), first, peak)

    def once(self, call: Callable[[], object]) -> float:
        """Run a call, and return the seconds until the device is done with it."""
        self._wait()
        begin = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - begin

    def _runs(self, call: Callable[[], object], runs: int) -> list[float]:
        """Time several runs.

        On a GPU they are queued one behind the other, so that it need not wait for Python; where a
        run takes less than its launches do, the launches are what is measured.
        """
        if not self._cuda:
            return [self.once(call) for _ in range(runs)]
        marks = [(_mark(), _mark()) for _ in range(runs)]
        for begin, end in marks:
            self._flushed.zero_()
            begin.record()
            call()
            end.record()
        self._wait()
        return [begin.elapsed_time(end) / 1e3 for begin, end in marks]

    def _restart_peak(self) -> int:
        """Forget the peak so far, and return the bytes allocated now."""
        if not self._cuda:
            return 0
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def _current(self) -> AbstractContextManager[object]:
        """Make a GPU the current one: events are recorded there."""
        return torch.cuda.device(self.device) if self._cuda else nullcontext()


def _mark() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
