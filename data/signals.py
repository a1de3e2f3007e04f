"""Labels of each base of a genome: BED, bedGraph and bigWig files.

BED says of each base whether it lies inside one of its regions. bedGraph and bigWig give numbers,
and NaN where they hold none.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dnamamba.alphabet import BASE, Codes, N
from dnamamba.data.annotation import BedTable
from dnamamba.data.bed import read_bed
from dnamamba.data.outcomes import Outcomes
from dnamamba.data.region import nearest_contig, suggest_contig
from dnamamba.data.store import Store
from dnamamba.data.targets import Targets
from dnamamba.errors import InputError, UsageError
from dnamamba.files import require_file

BaseKind = Literal["labels", "values"]
_MAGIC: Final = (b"\x26\xfc\x8f\x88", b"\x88\x8f\xfc\x26")
_GRAPH: Final = re.compile(r"\.(bedgraph|bdg|bg)(\.gz)?", re.IGNORECASE)


class Signal(Protocol):
    """One track of a genome."""

    @property
    def kind(self) -> BaseKind:
        """`labels`, which are 0 and 1; or `values`."""

    def read(self, contig: str, start: int, end: int) -> NDArray[np.float32]:
        """Return the (bases,) labels of a window, + strand; NaN where nothing is known."""


@dataclass(frozen=True, eq=False)
class Intervals:
    """A signal that is the same over each of some intervals.

    Attributes
    ----------
    kind
        Of `labels`, every base outside is 0; of `values` it is NaN.
    contigs
        Contig to its intervals, (count,) starts and ends in order, no two of which share a base,
        and their values.
    """

    kind: BaseKind
    contigs: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]

    def read(self, contig: str, start: int, end: int) -> NDArray[np.float32]:
        """See `Signal`."""
        found = np.full(end - start, 0 if self.kind == "labels" else np.nan, np.float32)
        if contig in self.contigs:
            starts, ends, values = self.contigs[contig]
            first, last = np.searchsorted(ends, start, "right"), np.searchsorted(starts, end)
            for row in range(first, last):
                found[max(0, starts[row] - start) : ends[row] - start] = values[row]
        return found


class BigWig:
    """A signal in a bigWig file.

    Parameters
    ----------
    path
        The file.
    lengths
        Contig to length, of the genome.
    genome
        Its file name, for errors.

    Raises
    ------
    InputError
        For a file that cannot be read, or of another genome.
    UsageError
        Where pybigtools is missing.
    """

    kind: BaseKind = "values"

    def __init__(self, path: Path, lengths: Mapping[str, int], genome: str) -> None:
        try:
            import pybigtools
        except ImportError as error:
            raise UsageError(
                f"{path}: bigWig wants pybigtools: pip install dnamamba[finetune]"
            ) from error
        self._path = path
        self._faults = (ValueError, OSError, pybigtools.BBIReadError)
        try:
            self._file: Any = pybigtools.open(str(path))
            self._contigs: Mapping[str, int] = self._file.chroms()
        except self._faults as error:
            raise InputError(f"{path}: no bigWig, or damaged: {error}") from error
        _require_shared(path, list(self._contigs), lengths, genome)
        for contig, length in self._contigs.items():
            if lengths.get(contig, length) != length:
                raise InputError(
                    f"{path}: {contig} has {length:,} bases, and in {genome} {lengths[contig]:,}: "
                    "it is of another assembly"
                )

    def read(self, contig: str, start: int, end: int) -> NDArray[np.float32]:
        """See `Signal`."""
        if contig not in self._contigs:
            return np.full(end - start, np.nan, np.float32)
        try:
            return np.asarray(self._file.values(contig, start, end, fillna=None), np.float32)
        except self._faults as error:
            raise InputError(f"{self._path}: damaged at {contig}:{start + 1}: {error}") from error


def open_signal(path: Path, store: Store) -> Signal:
    """Open a track.

    Parameters
    ----------
    path
        bigWig, by its content; bedGraph, by its name (.bedGraph, .bdg or .bg, and .gz); or else
        BED, plain or gzipped. What lies on contigs that the genome lacks is passed over.
    store
        The genome's.

    Raises
    ------
    InputError
        As `read_bed`; for a bedGraph whose fourth column is no number, or whose intervals overlap;
        for a track that shares no contig with the genome, or is of another assembly.
    UsageError
        For bigWig without pybigtools.
    """
    lengths, genome = store.lengths, store.source.name
    with require_file(path).open("rb") as handle:
        if handle.read(4) in _MAGIC:
            return BigWig(path, lengths, genome)
    table = read_bed(path, lengths, genome, lengths)
    if not len(table):
        seen = dict.fromkeys(read_bed(path).contigs)
        if not seen:
            raise InputError(f"{path}: holds no region")
        _require_shared(path, list(seen), lengths, genome)
    if _GRAPH.search(path.name):
        return Intervals("values", _graph(path, table))
    return Intervals("labels", {name: _merged(*each) for name, each in _by_contig(table)})


def name_of(path: Path) -> str:
    """Return what a track is called: its file's name without suffixes."""
    stem = path.name.removesuffix(".gz")
    return stem.rpartition(".")[0] or stem


def read_signals(
    paths: Sequence[Path], store: Store, windows: Targets, sequences: Sequence[Codes]
) -> Outcomes:
    """Read what tracks say of each base of some windows.

    Parameters
    ----------
    paths
        Of the tracks, one or more, all of one kind.
    store
        The genome's.
    windows
        (rows,), all on the + strand.
    sequences
        Their bases; nothing is asked about N.

    Raises
    ------
    InputError
        As `open_signal`.
    UsageError
        For tracks of two kinds, or two of one name.
    """
    names = tuple(map(name_of, paths))
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise UsageError(f"--track: two are called {twice[0]}; rename one")
    tracks = [open_signal(path, store) for path in paths]
    kinds = {track.kind: path for track, path in zip(tracks, paths, strict=True)}
    if len(kinds) > 1:
        said = ", ".join(f"{path} has {kind}" for kind, path in kinds.items())
        raise UsageError(f"--track: {said}; fit a model for either")
    sizes = windows.ends - windows.starts
    values = np.empty((int(sizes.sum()), len(tracks)), np.float32)
    at = 0
    for row, codes in enumerate(sequences):
        region = windows.region(row)
        here = values[at : at + len(codes)]
        for column, track in enumerate(tracks):
            here[:, column] = track.read(region.contig, region.start, region.end)
        here[codes & np.uint8(BASE) == N] = np.nan
        at += len(codes)
    return Outcomes(tracks[0].kind, names, values, sizes)


def _by_contig(
    table: BedTable,
) -> list[tuple[str, tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]]:
    """Return the starts, the ends and the rows of each contig's regions, in order."""
    names = np.array(table.contigs, dtype=object)
    found = []
    for name in dict.fromkeys(table.contigs):
        rows = np.flatnonzero(names == name)
        rows = rows[np.argsort(table.starts[rows], kind="stable")]
        found.append((name, (table.starts[rows], table.ends[rows], rows)))
    return found


def _merged(
    starts: NDArray[np.int64], ends: NDArray[np.int64], _rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    reach = np.maximum.accumulate(ends)
    first = np.append(True, starts[1:] > reach[:-1])
    last = np.append(first[1:], True)
    return starts[first], reach[last], np.ones(int(first.sum()), np.float32)


def _graph(
    path: Path, table: BedTable
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    cells = next(iter(table.columns.values()), [])
    wrong = [] if cells else [0]
    values = np.empty(len(cells), np.float32)
    for row, cell in enumerate(cells):
        try:
            values[row] = float(cell)
        except ValueError:
            wrong.append(row)
    if wrong:
        raise InputError(
            f"{path}: line {table.lines[wrong[0]]:,}: the fourth column of bedGraph is a number"
        )
    found = {}
    for name, (starts, ends, rows) in _by_contig(table):
        over = np.flatnonzero(starts[1:] < ends[:-1])
        if len(over):
            lines = sorted(int(table.lines[rows[over[0] + more]]) for more in (0, 1))
            raise InputError(
                f"{path}: lines {lines[0]:,} and {lines[1]:,} overlap: a base has one number"
            )
        found[name] = starts, ends, values[rows]
    return found


def _require_shared(
    path: Path, contigs: Sequence[str], lengths: Mapping[str, int], genome: str
) -> None:
    if not any(name in lengths for name in contigs):
        near = [name for name in contigs if nearest_contig(name, lengths)]
        first = (near or list(contigs))[0]
        raise InputError(
            f"{path}: none of its contigs is in {genome}: `{first}`; "
            f"{suggest_contig(first, lengths)}"
        )
