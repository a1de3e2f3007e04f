"""What a training run says while it goes: a bar or a line, rows of metrics.tsv, and events."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from dnamamba.evaluation.language import Score
from dnamamba.log import Metrics, logger, peak_resident, progress, read_metrics
from dnamamba.training.events import EventFile
from dnamamba.training.loop import Row
from dnamamba.training.pace import Stopwatch, overall

COLUMNS: Final = (
    "step",
    "bases",
    "seconds",
    "lr",
    "train_bits",
    "grad_norm",
    "bases_per_second",
    "wait_share",
    "valid_bits",
    "valid_low",
    "valid_high",
    "valid_perplexity",
    "valid_accuracy",
)
LINE_SECONDS: Final = 10.0
"""How often a line is logged where there is no bar."""
MOST_WAITING: Final = 0.02
"""The share of the time that steps may wait for the feeder before something is to be done."""
AVERAGED: Final = 20
"""Steps over which the loss that is shown is averaged."""


class Monitor:
    """Reports a run to its metrics.tsv and to stderr.

    Parameters
    ----------
    path
        metrics.tsv; rows after `start` are dropped.
    start, steps
        Steps done before, and steps of the whole run.
    bases
        A number of steps to the bases that they read, from the first on.
    device
        Whose memory is told.
    verb, unit
        What is going on, and what bits are counted per.
    tensorboard
        The folder for TensorBoard's event files, if there are to be any.
    """

    def __init__(
        self,
        path: Path,
        *,
        start: int,
        steps: int,
        bases: Callable[[int], int],
        device: torch.device,
        verb: str = "pretrain",
        unit: str = "base",
        tensorboard: Path | None = None,
    ) -> None:
        self._path = path
        self._unit = unit
        self._metrics = Metrics(path, COLUMNS)
        self._steps = steps
        self._bases = bases
        self._device = device
        self._tensorboard = tensorboard
        self._events: EventFile | None = None
        self._stopwatch = Stopwatch()
        self._bar = progress(bases(steps), verb, "b")
        self._bar.initial = bases(start)
        self._started = self._line_at = time.monotonic()
        self._before = 0.0
        self.rewind(start)
        self._before = _last_seconds(path)

    @property
    def seconds(self) -> float:
        """Seconds spent, those before a resume included."""
        return self._before + time.monotonic() - self._started

    def rewind(self, step: int) -> None:
        """Go back to `step`: forget all that came after it, but for the time it took."""
        self._before, self._started = self.seconds, time.monotonic()
        self._metrics.rewind(step)
        self._validated = _last_validated(self._path)
        self._done = self._first = step
        self._bits, self._averaged = 0.0, 0
        self._bar.n = self._bases(step)
        if self._tensorboard:
            self._events = EventFile(self._tensorboard, step)
        self._stopwatch.restart()

    def waiting(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """Pass batches on, and time how long each lets itself be waited for."""
        return self._stopwatch.waiting(batches)

    def aside(self) -> AbstractContextManager[None]:
        """Leave out of the steps' time what is done in here: a validation, a checkpoint."""
        return self._stopwatch.aside()

    def is_validated(self, step: int) -> bool:
        """Say whether the validation at `step` is written down."""
        return step <= self._validated

    def report(self, rows: list[Row]) -> None:
        """Write finished steps to metrics.tsv and move the bar; the device is done with them."""
        pace = self._stopwatch.lap(
            self._bases(rows[-1].step) - self._bases(rows[-1].step - len(rows))
        )
        for row in rows:
            figures = {
                "lr": row.lr,
                "train_bits": row.bits,
                "grad_norm": row.norm,
                "bases_per_second": pace.bases_per_second,
                "wait_share": pace.wait_share,
            }
            self._add(row.step, figures)
            if not math.isnan(row.bits):
                self._averaged += 1
                self._bits += (row.bits - self._bits) / min(self._averaged, AVERAGED)
        self._done = rows[-1].step
        self._bar.set_postfix_str(f"{self._bits:.3f} bits, {self._memory()}", refresh=False)
        self._bar.update(self._bases(self._done) - self._bar.n)
        if self._bar.disable and time.monotonic() - self._line_at > LINE_SECONDS:
            self._line_at = time.monotonic()
            logger.info("%s", self._line())

    def validated(self, step: int, score: Score) -> None:
        """Write a validation to metrics.tsv, if it is not there yet, and log it."""
        _, low, high = score.interval()
        if not self.is_validated(step):
            figures = {
                "valid_bits": score.bits_per_base,
                "valid_low": low,
                "valid_high": high,
                "valid_perplexity": score.perplexity,
                "valid_accuracy": score.accuracy,
            }
            self._add(step, figures)
            self._validated = step
        logger.info(
            "step %s: held out %.4f bits per %s%s, accuracy %.3f",
            f"{step:,}",
            score.bits_per_base,
            self._unit,
            "" if math.isnan(low) else f" (95 % interval {low:.4f}-{high:.4f})",
            score.accuracy,
        )

    def _add(self, step: int, figures: dict[str, float]) -> None:
        """Write a row to metrics.tsv, and its figures to TensorBoard."""
        row = {"step": step, "bases": self._bases(step), "seconds": self.seconds}
        self._metrics.add({**row, **figures})
        if self._events:
            self._events.add(step, figures)

    def log_pace(self, workers: int) -> None:
        """Say how fast the whole run was, and what helps where it waited for the feeder."""
        pace = overall(read_metrics(self._path))
        if pace is None:
            return
        hint = f": --workers {max(2, 2 * workers)} reads ahead in more processes"
        logger.info(
            "trained on %sb/s, %.1f %% of the time spent waiting for the feeder%s",
            count_text(pace.bases_per_second),
            100 * pace.wait_share,
            hint if pace.wait_share > MOST_WAITING else "",
        )

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()

    def _line(self) -> str:
        elapsed = time.monotonic() - self._started
        done = self._done - self._first
        rate = (self._bases(self._done) - self._bases(self._first)) / elapsed
        left = (self._steps - self._done) * elapsed / done
        return (
            f"step {self._done:,}/{self._steps:,}: {self._bits:.3f} bits, "
            f"{count_text(rate)}b/s, {duration_text(left)} left, {self._memory()}"
        )

    def _memory(self) -> str:
        return f"{peak_memory(self._device) / 2**30:.1f} GiB"


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held so far: allocated on a CUDA device, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident()


def count_text(value: float) -> str:
    """Write a count with three digits and k, M or G: 1.05M."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{suffix}"
    return f"{value:.3g}"


def duration_text(seconds: float) -> str:
    """Write a duration in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _last_seconds(path: Path) -> float:
    seconds = read_metrics(path)["seconds"]
    return float(seconds[-1]) if seconds else 0.0


def _last_validated(path: Path) -> int:
    metrics = read_metrics(path)
    rows = zip(metrics["step"], metrics["valid_bits"], strict=True)
    return max((int(step) for step, bits in rows if bits), default=-1)
