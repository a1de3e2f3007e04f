"""Seconds and memory of a call: on a GPU by its own clock, with nothing of it in the L2 cache."""

import gc
import math
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

import torch

FLUSH_BYTES: Final = 256 * 2**20
"""Written before every run on a GPU: more than any L2 cache holds."""
MOST_FLUSHES: Final = 64
"""Of what a run waits for, so that a call that only launches is not waited for too long."""
FEWEST: Final = 3
MOST: Final = 100


@dataclass(frozen=True)
class Figure:
    """What a measurement found.

    Parameters
    ----------
    seconds
        The median run.
    launch
        Seconds that Python takes to queue a run on a GPU; None on a device that has no queue.
    first
        Seconds of the first call, compilation included.
    peak
        Bytes that the call allocated at most at one time; None on a device that does not count.
    """

    seconds: float
    launch: float | None
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
        """Take the median of many runs; the ones before are for the first call, peak and launch."""
        with self._current():
            first = self.once(call)
            before = self._restart_peak()
            second = self.once(call)
            peak = torch.cuda.max_memory_allocated(self.device) - before if self._cuda else None
            runs = min(max(int(self._seconds / second), FEWEST), MOST)
            runs = 1 if second > self._seconds else runs
            if self._cuda:
                launch = self._launch(call)
                times = self._queued(call, runs, launch)
            else:
                launch = None
                times = [self.once(call) for _ in range(runs)]
        return Figure(statistics.median(times), launch, first, peak)

    def once(self, call: Callable[[], object]) -> float:
        """Run a call, and return the seconds until the device is done with it."""
        self._wait()
        begin = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - begin

    def _launch(self, call: Callable[[], object]) -> float:
        """Return the seconds that Python takes to queue a call, on a GPU with nothing to do."""
        seconds = []
        for _ in range(FEWEST):
            self._wait()
            begin = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds)

    def _queued(self, call: Callable[[], object], runs: int, launch: float) -> list[float]:
        """Time several runs by the GPU's clock.

        Before each the cache is written over, as often as it takes Python to queue the run: so the
        GPU does not wait for Python within it, as it does not in a model's queue.
        """
        begin, end = _mark(), _mark()
        begin.record()
        self._flushed.zero_()
        end.record()
        self._wait()
        flush = begin.elapsed_time(end) / 1e3
        flushes = min(1 + math.ceil(1.5 * launch / flush), MOST_FLUSHES)
        marks = [(_mark(), _mark()) for _ in range(runs)]
        for begin, end in marks:
            for _ in range(flushes):
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
        gc.collect()  # what would be let go of while the call is measured
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
