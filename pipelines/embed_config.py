"""What an embedding job is asked to do, and what its windows are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dnamamba.data.annotation import BedTable
from dnamamba.data.bed import read_bed
from dnamamba.data.catalog import choose_contigs
from dnamamba.data.gtf import Feature, read_gtf
from dnamamba.data.store import Store
from dnamamba.data.targets import Short, Targets, centre, table_rows, tile, whole_contigs
from dnamamba.errors import UsageError
from dnamamba.inference.embed import How, Strands, parse_layers
from dnamamba.inference.genome import composition
from dnamamba.inference.pooling import Pool
from dnamamba.log import logger
from dnamamba.models.backbone import ModelConfig

Dtype = Literal["float32", "float16"]


@dataclass(frozen=True)
class EmbedConfig:
    """Settings of `dnamamba embed`.

    Raises
    ------
    UsageError
        For two that exclude each other.
    """

    model: str = ""
    """A model folder."""
    bed: str | None = None
    """Regions to embed."""
    gtf: str | None = None
    """An annotation, of which one feature is embedded."""
    feature: Feature | None = None
    """What of the annotation; None is genes, where there is one."""
    contigs: tuple[str, ...] = ()
    """Those to embed, by name or glob; regions on others are passed over."""
    window: int | None = None
    """Bases of a window; None embeds regions, or contigs, whole."""
    stride: int | None = None
    """Bases from one window to the next along a region or contig."""
    short: Short = "refuse"
    context: int = 0
    """Bases on either side that are read and not pooled."""
    layer: str = "-1"
    pool: Pool = "mean"
    rc: Strands = "none"
    stream: bool = False
    """Read each contig as one context."""
    dtype: Dtype = "float32"
    batch: int | None = None
    """Windows that are read at once; None is as many as suit the device."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    backend: str = "auto"

    def __post_init__(self) -> None:
        for name, kind in (("pool", Pool), ("rc", Strands), ("short", Short), ("dtype", Dtype)):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise UsageError(f"{name}: {getattr(self, name)!r} is not one of {known}")
        if self.bed and self.gtf:
            raise UsageError("--bed and --gtf: give one of them")
        if self.feature and not self.gtf:
            raise UsageError("--feature: is of an annotation, so give --gtf too")
        if self.stride and not self.window:
            raise UsageError("--stride: between windows, so give --window too")
        if self.stream and self.context:
            raise UsageError(
                "--context: --stream reads all that comes before; leave one of them out"
            )
        if self.feature == "tss" and self.gtf and not self.window:
            raise UsageError("--feature tss is one base: give --window, to be laid around it")

    def how(self, config: ModelConfig) -> How:
        """Return what an embedding of this model is made of; raises a UsageError for its layers."""
        layers, mean = parse_layers(self.layer, config)
        return How(layers, mean=mean and len(layers) > 1, pool=self.pool, rc=self.rc)


@dataclass(frozen=True)
class Windows:
    """The windows of a job, and what is known of each.

    Attributes
    ----------
    targets
        Where they lie.
    table
        The regions that they come from; None where they are contigs.
    """

    targets: Targets
    table: BedTable | None

    def obs(self, store: Store, config: EmbedConfig) -> dict[str, NDArray[Any]]:
        """Return the table of the rows, column by column."""
        targets = self.targets
        contigs = np.array(targets.contigs, dtype=object)[targets.contig]
        columns: dict[str, NDArray[Any]] = {
            "chrom": contigs,
            "start": targets.starts,
            "end": targets.ends,
            "strand": self._strands(),
            "name": self._names(contigs),
        }
        gc, missing = np.empty(len(targets)), np.empty(len(targets))
        for number, contig in enumerate(targets.contigs):
            rows = np.flatnonzero(targets.contig == number)
            if len(rows):
                starts, ends = targets.starts[rows], targets.ends[rows]
                gc[rows], missing[rows] = composition(store, contig, starts, ends)
        columns |= {"gc": gc, "n_fraction": missing}
        if self.table is None:
            return columns
        if config.window:
            regions = [str(record.region) for record in self.table]
            columns["region"] = np.array(regions, dtype=object)[targets.origin]
        for label, values in self.table.typed_columns().items():
            name = label if label not in columns else f"{label}_in_file"
            columns[name] = values[targets.origin]
        return columns

    def _strands(self) -> NDArray[np.object_]:
        """Return them as the regions' file has them: where it says none, + is read."""
        if self.table is None:
            return np.full(len(self.targets), "+", dtype=object)
        return np.array(self.table.strands, dtype=object)[self.targets.origin]

    def _names(self, contigs: NDArray[np.object_]) -> NDArray[np.object_]:
        if self.table is None:
            return contigs
        if not self.table.names:
            return np.full(len(self.targets), "", dtype=object)
        return np.array(self.table.names, dtype=object)[self.targets.origin]


def read_windows(config: EmbedConfig, store: Store) -> Windows:
    """Read the regions of a job, or take contigs, and cut windows.

    Raises
    ------
    InputError
        For a file of regions that does not fit the genome; all that is wrong with it.
    UsageError
        Where nothing is left to embed, or there is no room for windows.
    """
    genome, lengths = store.source.name, store.lengths
    names, note = choose_contigs(lengths, config.contigs or None, genome)
    only = names if config.contigs else None
    if config.bed:
        table: BedTable | None = read_bed(Path(config.bed), lengths, genome, only)
    elif config.gtf:
        table = read_gtf(Path(config.gtf), config.feature or "gene", lengths, genome, only)
    else:
        table = None
    if table is not None:
        regions = table_rows(table, lengths)
        empty = regions.starts == regions.ends
        if empty.any() and not config.window:
            raise UsageError(
                f"{config.bed}: {int(empty.sum()):,} regions have no base, the first in line "
                f"{table.lines[empty.argmax()]:,}: give --window, to be laid around each"
            )
    else:
        if note:
            logger.info(note)
        regions = whole_contigs(lengths, names)
    targets = _cut(regions, config, lengths, is_table=table is not None)
    if not len(targets):
        raise UsageError(
            f"{config.bed or config.gtf or genome}: there is nothing to embed"
            + (": it holds no region" if table is not None and not len(table) else "")
            + ("; choose others with --contigs, or leave it out" if config.contigs else "")
        )
    return Windows(targets, table)


def _cut(
    regions: Targets, config: EmbedConfig, lengths: Mapping[str, int], *, is_table: bool
) -> Targets:
    if config.window is None:
        return regions
    if is_table and config.stride is None:
        return centre(regions, config.window, lengths, config.short)
    cut = tile(regions, config.window, config.stride or config.window, config.short)
    if config.stride is None and config.short != "pad":
        left = _bases(regions) - _bases(cut)
        if left:
            logger.info(
                "%s bases at the ends of contigs fill no window; --short pad takes them in",
                f"{left:,}",
            )
    return cut


def _bases(targets: Targets) -> int:
    return int((targets.ends - targets.starts).sum())
