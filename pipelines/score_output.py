"""What a scoring job leaves: the VCF with more in its INFO, or a table with a row an allele."""

import itertools
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.data.bgzf import BgzfWriter
from dnamamba.data.variants import Alleles
from dnamamba.data.vcf import Record, Vcf
from dnamamba.errors import InputError, UsageError
from dnamamba.files import atomic_path
from dnamamba.inference.score import mean_of_strands
from dnamamba.pipelines.table import Cell, print_table

COLUMNS: Final = (
    *("chrom", "pos", "id", "ref", "alt"),
    *("llr", "llr_forward", "llr_reverse", "note"),
)
KEYS: Final = ("DNAMAMBA_LLR", "DNAMAMBA_LLR_FWD", "DNAMAMBA_LLR_REV", "DNAMAMBA_SKIP")
_RATIO: Final = "Log-likelihood ratio of the alternate over the reference allele in nats"
_DEFINITIONS: Final = (
    f'##INFO=<ID={KEYS[0]},Number=A,Type=Float,Description="{_RATIO}, mean of the strands read">',
    f'##INFO=<ID={KEYS[1]},Number=A,Type=Float,Description="{_RATIO}, forward strand">',
    f'##INFO=<ID={KEYS[2]},Number=A,Type=Float,Description="{_RATIO}, reverse strand">',
    f'##INFO=<ID={KEYS[3]},Number=A,Type=String,Description="Why an allele was not scored">',
)
_VCF: Final = (".vcf", ".vcf.gz", ".vcf.bgz")
_TSV: Final = (".tsv", ".tsv.gz")
_AT_ONCE: Final = 1000
"""Lines that are written at a time."""


@dataclass(frozen=True)
class Scored:
    """The alleles of a VCF, and their scores.

    Attributes
    ----------
    alleles
        In the order of the file.
    strands
        (variants, 2) float64 in nats, forward and reverse; NaN where a strand is not read.
    """

    alleles: Alleles
    strands: NDArray[np.float64]

    @property
    def ratios(self) -> NDArray[np.float64]:
        """The mean of the strands that were read, (variants,)."""
        return mean_of_strands(self.strands)

    def cells(self) -> Iterator[tuple[tuple[float, float, float], str]]:
        """Yield for each allele its score, that of both strands, and why there is none."""
        rows = zip(self.ratios.tolist(), *self.strands.T.tolist(), strict=True)
        for reason in self.alleles.reasons:
            yield (math.nan, math.nan, math.nan) if reason else next(rows), reason or ""


def require_output(output: Path | None, *, force: bool) -> None:
    """Find out before any work that a file can be written later; None is stdout.

    Raises
    ------
    UsageError
        For another suffix, a folder, or a file that is there and is not to be replaced.
    """
    if output is None:
        return
    if not output.name.endswith((*_VCF, *_TSV)):
        raise UsageError(f"{output}: name it {', '.join((*_VCF, *_TSV))}")
    if output.is_dir():
        raise UsageError(f"{output}: is a folder; name a file with -o")
    if output.exists() and not force:
        raise UsageError(f"{output}: exists; --force replaces it, -o chooses another")


def is_vcf(output: Path | None) -> bool:
    """Tell whether a file is to be a VCF."""
    return output is not None and output.name.endswith(_VCF)


def require_unscored(vcf: Vcf) -> None:
    """Refuse a VCF that has scores, which would stand beside the new ones under the same keys.

    Raises
    ------
    InputError
        Naming the keys.
    """
    if taken := sorted(vcf.defined() & {*KEYS}):
        removed = ",".join(f"INFO/{key}" for key in taken)
        raise InputError(
            f"{vcf.source}: has {', '.join(taken)} already; bcftools annotate -x {removed} removes "
            "them"
        )


def write_scores(output: Path | None, vcf: Vcf, scored: Scored, about: str) -> None:
    """Write what was found, in the order of the VCF.

    Parameters
    ----------
    output
        Its suffix chooses the format, `.gz` and `.bgz` are BGZF; None is a table on stdout.
    vcf
        What was read, and is read again.
    scored
        Its scores.
    about
        How they were made; stands in the header of a VCF.

    Raises
    ------
    DnamambaError
        Where the disk is full or the folder cannot be written.
    """
    if output is None:
        print_table(COLUMNS, _rows(vcf.records(), scored))
    elif is_vcf(output):
        header = (*_DEFINITIONS, f"##dnamamba_score={about}")
        _write(output, vcf.annotated(header, _entries(vcf.records(), scored)))
    else:
        rows = (COLUMNS, *_rows(vcf.records(), scored))
        _write(output, ("\t".join(map(_text, row)).encode() + b"\n" for row in rows))


def _write(output: Path, lines: Iterable[bytes]) -> None:
    remaining = iter(lines)
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_path(output))
        handle = stack.enter_context(temporary.open("wb"))
        out: BinaryIO | BgzfWriter = handle
        if output.name.endswith("gz"):
            out = stack.enter_context(BgzfWriter(handle))
        while block := b"".join(itertools.islice(remaining, _AT_ONCE)):
            out.write(block)


def _rows(records: Iterable[Record], scored: Scored) -> Iterator[tuple[Cell, ...]]:
    cells = scored.cells()
    for record in records:
        for alt in record.alts:
            ratios, reason = next(cells)
            place = record.contig, record.position, record.name, record.ref, alt
            yield (*place, *("" if math.isnan(ratio) else ratio for ratio in ratios), reason)


def _entries(records: Iterable[Record], scored: Scored) -> Iterator[str]:
    """Yield what is added to the INFO of each record."""
    cells = scored.cells()
    for record in records:
        ratios, reasons = zip(*(next(cells) for _ in record.alts), strict=True)
        values = [",".join(map(_number, ratio)) for ratio in zip(*ratios, strict=True)]
        if any(reasons):
            values.append(",".join(reason or "." for reason in reasons))
        yield ";".join(f"{key}={value}" for key, value in zip(KEYS, values, strict=False))


def _number(value: float) -> str:
    return "." if math.isnan(value) else f"{value:.6g}"


def _text(cell: Cell) -> str:
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
