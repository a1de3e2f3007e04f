"""An embedding job, cut into units that processes share out, and that a resume passes over.

What is computed goes to one array on disk, each row to its place, so that neither the number of
processes nor an interruption shows in the result. A unit is a block of windows, or one strand of a
stretch that is read as one context; such a stretch remembers how far it has come.
"""

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from tqdm import tqdm

from dnamamba.data.targets import Targets
from dnamamba.errors import CheckpointError, DnamambaError
from dnamamba.files import atomic_path, describe_os_error, take_space, write_text
from dnamamba.inference.embed import Embedder
from dnamamba.inference.genome import GenomeReader, Stretch
from dnamamba.inference.reading import Reading
from dnamamba.inference.stream import Stream, spilled
from dnamamba.log import logger
from dnamamba.training.signals import Interruption, StopRequest

BATCHES: Final = 32
"""Batches in a block of windows, roughly."""
SAVE_SECONDS: Final = 20.0
"""Time between two marks of how far a job has come."""
_FEWEST_BASES: Final = 2**10
_VALUES, _JOB = "values", "job.json"


@dataclass(frozen=True)
class Unit:
    """A part of the work that one process does.

    Attributes
    ----------
    number
        Its place among all units.
    rows
        The windows that it embeds.
    bases
        How many are read.
    strand
        Of a context: 0 for the strand that its windows are on, 1 for the other; None for a block.
    contig
        Of a context: the contig; None for the stretch around a single window.
    """

    number: int
    rows: NDArray[np.int64]
    bases: int
    strand: int | None = None
    contig: int | None = None


def cut_into_units(
    targets: Targets,
    lengths: Sequence[int],
    *,
    context: int,
    stream: bool,
    strands: int,
    block: int,
    splits_long: bool,
) -> list[Unit]:
    """Cut a job into units, the same ones whoever does it.

    Parameters
    ----------
    targets
        The windows.
    lengths
        Bases of the genome's contigs, as `targets` numbers them.
    context
        Bases on either side of a window that are read too.
    stream
        Whether contigs are read as one context.
    strands
        Strands that are read, 1 or 2.
    block
        Bases of a block.
    splits_long
        Whether a window that is longer than a block is read as a context, in parts.
    """
    found: list[tuple[NDArray[np.int64], int, int | None, int | None]] = []
    if stream:
        for contig in np.unique(targets.contig).tolist():
            here = np.flatnonzero(targets.contig == contig)
            for strand in range(strands):
                for reverse in (False, True):
                    rows = here[targets.reverse[here] == reverse]
                    if len(rows):
                        found.append((rows, lengths[contig], strand, contig))
    else:
        sizes = targets.ends - targets.starts + 2 * context
        is_long = (sizes > block) & splits_long
        for row in np.flatnonzero(is_long):
            found += [(np.array([row]), int(sizes[row]), strand, None) for strand in range(strands)]
        rows = np.flatnonzero(~is_long)
        before = np.cumsum(sizes[rows]) - sizes[rows]
        for part in np.split(rows, np.flatnonzero(np.diff(before // block)) + 1):
            if len(part):
                found.append((part, strands * int(sizes[part].sum()), None, None))
    return [Unit(number, *each) for number, each in enumerate(found)]


def share_out(units: Sequence[Unit], processes: int, rank: int) -> list[Unit]:
    """Return the units of one process: the largest are given away first, to who has the least."""
    loads = [0] * processes
    mine = []
    for unit in sorted(units, key=lambda unit: (-unit.bases, unit.number)):
        least = loads.index(min(loads))
        loads[least] += unit.bases
        if least == rank:
            mine.append(unit)
    return sorted(mine, key=lambda unit: unit.number)


class Scratch:
    """The array of what has been computed, on disk, and the marks of what is done.

    Parameters
    ----------
    folder
        Where it lies.
    shape
        (items, strands, channels); items are windows, or bases where nothing is pooled.
    dtype
        float32 or float16.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        self.folder = folder
        self.shape = shape
        self.dtype = dtype

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def create(self, identity: Mapping[str, Any]) -> None:
        """Take the space, and note what the job is.

        Raises
        ------
        DnamambaError
            Where the disk is full, or nothing can be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            take_space(self.folder / _VALUES, self.size)
        except OSError as error:
            with suppress(OSError):
                self.folder.rmdir()
            raise describe_os_error(error, self.folder / _VALUES) from error
        write_text(self.folder / _JOB, json.dumps(identity, indent=2, sort_keys=True) + "\n")

    def identity(self) -> Any:
        """Return what the job is that lies here.

        Raises
        ------
        CheckpointError
            Where none does.
        """
        try:
            return json.loads((self.folder / _JOB).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.folder}: holds no job to go on with; start again with --force"
            ) from error

    @cached_property
    def array(self) -> NDArray[Any]:
        """The array, mapped, (items, strands, channels)."""
        if not self.size:
            return np.empty(self.shape, self.dtype)
        path = self.folder / _VALUES
        return np.memmap(path, self.dtype, "r+", shape=self.shape)

    def flush(self) -> None:
        """Bring all that was written to the disk, before it is marked as done."""
        handle = os.open(self.folder / _VALUES, os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def is_done(self, unit: Unit) -> bool:
        """Tell whether a unit is marked as done."""
        return self._mark(unit).exists()

    def mark(self, unit: Unit) -> None:
        """Mark a unit as done."""
        self._mark(unit).touch()
        self._state(unit).unlink(missing_ok=True)

    def _mark(self, unit: Unit) -> Path:
        return self.folder / f"unit-{unit.number:06}.done"

    def _state(self, unit: Unit) -> Path:
        return self.folder / f"unit-{unit.number:06}.safetensors"

    def save_state(self, unit: Unit, stream: Stream) -> None:
        """Note how far a stream has come."""
        with atomic_path(self._state(unit)) as temporary:
            temporary.write_bytes(to_safetensors(stream.tensors()))

    def restore_state(self, unit: Unit, stream: Stream) -> None:
        """Let a stream go on where it was, if it was begun.

        Raises
        ------
        CheckpointError
            Where what was noted is damaged.
        """
        path = self._state(unit)
        if path.exists():
            try:
                stream.restore(load_file(path))
            except (SafetensorError, KeyError) as error:
                raise CheckpointError(f"{path}: damaged; start again with --force") from error


@dataclass(frozen=True)
class Job:
    """What one process does of an embedding job.

    Attributes
    ----------
    embedder
        The model.
    reader
        The genome.
    targets
        The windows.
    scratch
        Where results go.
    stop
        Whether a signal has asked for an end.
    """

    embedder: Embedder
    reader: GenomeReader
    targets: Targets
    scratch: Scratch
    stop: StopRequest

    @property
    def per_base(self) -> bool:
        """Whether nothing is pooled."""
        return self.embedder.how.pool == "none"

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """The first base of each window among those of all, (windows + 1,)."""
        return np.append(0, np.cumsum(self.targets.ends - self.targets.starts))

    def run(self, units: Sequence[Unit], bar: "tqdm[Any]") -> bool:
        """Do units one by one; tell whether all are done, and not a signal came."""
        waiting: list[Unit] = []
        saved = time.monotonic()
        for unit in units:
            if not self.scratch.is_done(unit):
                work = self._block if unit.strand is None else self._context
                try:
                    work(unit, bar)
                except Interruption:
                    self._mark(waiting)
                    return False
                waiting.append(unit)
                if time.monotonic() - saved > SAVE_SECONDS:
                    self._mark(waiting)
                    saved = time.monotonic()
        self._mark(waiting)
        return True

    def _mark(self, units: list[Unit]) -> None:
        if units:
            self.scratch.flush()
        for unit in units:
            self.scratch.mark(unit)
        units.clear()

    def _check(self) -> None:
        if self.stop.signal is not None:
            raise Interruption

    def _block(self, unit: Unit, bar: "tqdm[Any]") -> None:
        rows: list[int] = []
        reading: deque[tuple[int, Stretch, NDArray[np.int64]]] = deque()

        def readings() -> Iterator[Reading]:
            for row in unit.rows.tolist():
                stretch = self.reader.around(self.targets.region(row))
                spans = self._spans(stretch, np.array([row]))
                known = spans[0, 1] - spans[0, 0]
                if known < self.targets.ends[row] - self.targets.starts[row]:
                    self._fill(np.array([row]), spans, slice(None))
                if known:
                    reading.append((row, stretch, spans[0]))
                    yield stretch.reading(spans)

        def work() -> None:
            rows.clear()
            reading.clear()
            pooled = []
            for values in self.embedder.strands(readings()):
                row, stretch, span = reading.popleft()
                if self.per_base:
                    items = self._items(row, stretch.positions(np.arange(*span)))
                    self.scratch.array[items] = values
                else:
                    rows.append(row)
                    pooled.append(values)
                self._check()
            if pooled:
                self.scratch.array[rows] = np.concatenate(pooled)

        self._in_memory(work)
        bar.update(unit.bases)

    def _context(self, unit: Unit, bar: "tqdm[Any]") -> None:
        reverse = bool(self.targets.reverse[unit.rows[0]]) ^ (unit.strand == 1)
        if unit.contig is None:
            region = self.targets.region(int(unit.rows[0]))
            stretch = self.reader.around(region).on(reverse=reverse)
        else:
            stretch = self.reader.contig(self.targets.contigs[unit.contig], reverse=reverse)
        spans = self._spans(stretch, unit.rows)
        known = spans[:, 0] < spans[:, 1]
        rows = unit.rows[known]
        reading = stretch.reading(spans[known])
        if self.embedder.is_causal:
            stream = Stream(self.embedder, reading)
            self.scratch.restore_state(unit, stream)
            if not stream.place:
                self._fill(unit.rows, spans, unit.strand)
            self._stream(unit, rows, stretch, stream, reading.spans, bar)
            return
        self._fill(unit.rows, spans, unit.strand)
        if len(rows):
            with self.stop.breaks_off():
                for found, values in spilled(self.embedder, reading, self.scratch.folder):
                    self.scratch.array[rows[found], unit.strand] = values
        bar.update(unit.bases)

    def _stream(
        self,
        unit: Unit,
        rows: NDArray[np.int64],
        stretch: Stretch,
        stream: Stream,
        spans: NDArray[np.int64],
        bar: "tqdm[Any]",
    ) -> None:
        saved = time.monotonic()

        def work() -> None:
            nonlocal saved
            before = stream.place
            for found, values in stream:
                if self.per_base:
                    self._put_places(unit, rows, stretch, spans, found, values)
                else:
                    self.scratch.array[rows[found], unit.strand] = values
                bar.update(stream.place - before)
                before = stream.place
                if self.stop.signal is not None or time.monotonic() - saved > SAVE_SECONDS:
                    self.scratch.flush()
                    self.scratch.save_state(unit, stream)
                    saved = time.monotonic()
                    self._check()

        self._in_memory(work)

    def _spans(self, stretch: Stretch, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return stretch.spans(self.targets.starts[rows], self.targets.ends[rows])

    def _fill(
        self, rows: NDArray[np.int64], spans: NDArray[np.int64], strand: int | slice | None
    ) -> None:
        """Write NaN where a window has no known base; where each base counts, before its own."""
        known = spans[:, 1] - spans[:, 0]
        if not self.per_base:
            self.scratch.array[rows[known == 0], strand] = np.nan
            return
        sizes = self.targets.ends[rows] - self.targets.starts[rows]
        for row in rows[known < sizes].tolist():
            self.scratch.array[self.offsets[row] : self.offsets[row + 1], strand] = np.nan

    def _put_places(
        self,
        unit: Unit,
        rows: NDArray[np.int64],
        stretch: Stretch,
        spans: NDArray[np.int64],
        places: NDArray[np.int64],
        values: NDArray[np.float32],
    ) -> None:
        """Write bases of a context to each window that holds them."""
        first, last = int(places[0]), int(places[-1]) + 1
        for which in np.flatnonzero((spans[:, 0] < last) & (spans[:, 1] > first)):
            start, end = max(spans[which, 0], first), min(spans[which, 1], last)
            positions = stretch.positions(np.arange(start, end))
            items = self._items(int(rows[which]), positions)
            self.scratch.array[items, unit.strand] = values[start - first : end - first]

    def _items(self, row: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of bases among those of all windows, in the order of the contig."""
        items: NDArray[np.int64] = self.offsets[row] + positions - self.targets.starts[row]
        return items

    def _in_memory(self, work: Callable[[], None]) -> None:
        """Do something again with smaller batches until it fits into memory."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                embedder = self.embedder
                if embedder.batch or embedder.batch_bases <= _FEWEST_BASES:
                    raise DnamambaError(
                        f"{embedder.device} is out of memory: give a smaller --batch or --window, "
                        "or --device cpu; --resume goes on"
                    ) from error
                embedder.batch_bases //= 2
                logger.info("out of memory: on with %s bases at once", f"{embedder.batch_bases:,}")
