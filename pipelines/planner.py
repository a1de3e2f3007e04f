"""What of a training step fits into a GPU: `dnamamba info --plan`, and a word before each run."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final, get_args

import torch

from dnamamba.errors import UsageError
from dnamamba.kernels.dispatch import choose_scan_backend
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.block import Recompute
from dnamamba.models.heads import LanguageModel
from dnamamba.pipelines.table import Cell
from dnamamba.training.footprint import Pass, alternatives, fits, flags, peak_bytes, seconds

COLUMNS: Final = (
    "micro_batch",
    "length",
    "recompute",
    "tbptt",
    "sequence_parallel",
    "peak_gib",
    "fits",
    "seconds_on_h200",
    "bases_per_second",
)
GIB: Final = 2**30


def plan(config: ModelConfig, asked: Pass, memory: float) -> Iterator[tuple[Cell, ...]]:
    """Give a row of `COLUMNS` for each way to run a pass, and for what would fit where none does.

    Parameters
    ----------
    config
        The model.
    asked
        The pass; every `recompute` is tried.
    memory
        Bytes of a GPU.
    """
    ways: tuple[Recompute, ...] = get_args(Recompute)
    each = [replace(asked, recompute=way) for way in ways]
    if not any(fits(config, one, memory) for one in each):
        each += alternatives(config, each[-1], memory)
    for one in each:
        took = seconds(config, one)
        yield (
            one.windows,
            one.length,
            one.recompute,
            one.tbptt or "-",
            one.parts,
            round(peak_bytes(config, one) / GIB, 2),
            "yes" if fits(config, one, memory) else "no",
            took,
            round(one.windows * one.length / took),
        )


def verdict(config: ModelConfig, asked: Pass, memory: float) -> str:
    """Say in a sentence what fits."""
    what = f"{asked.windows} x {asked.length:,} bases"
    thrifty = replace(asked, recompute="block")
    # "none" is a twentieth faster than "scan", and takes twice the memory.
    for one in (replace(asked, recompute="scan"), thrifty):
        if fits(config, one, memory):
            return f"{what} fit into {memory / GIB:.3g} GiB with --recompute {one.recompute}"
    return refusal(config, thrifty, memory)


def refusal(config: ModelConfig, asked: Pass, memory: float) -> str:
    """Say what a pass that does not fit would take, and what to choose instead."""
    ways = " or ".join(
        f"{flags(asked, one)} ({peak_bytes(config, one) / GIB:.3g} GiB)"
        for one in alternatives(config, asked, memory)
    )
    return (
        f"{asked.windows} x {asked.length:,} bases take {peak_bytes(config, asked) / GIB:.3g} GiB, "
        f"and do not fit into {memory / GIB:.3g} GiB: choose "
        f"{ways or 'a smaller --length or --preset'}"
    )


def require_fit(model: LanguageModel, asked: Pass, device: torch.device, memory: float) -> None:
    """Refuse a pass that cannot fit, before anything is tried.

    Nothing is said of scans in plain PyTorch, whose memory is not known beforehand.

    Raises
    ------
    UsageError
        With what would fit instead.
    """
    scans = choose_scan_backend(model.backend, device).backend
    if scans == "triton" and not fits(model.config, asked, memory):
        raise UsageError(refusal(model.config, asked, memory))


def memory_here(gib: float | None) -> float:
    """Return the bytes of a GPU of `gib` GiB, or of this machine's first.

    Raises
    ------
    UsageError
        Where neither is there.
    """
    if gib is not None:
        return gib * GIB
    if not torch.cuda.is_available():
        raise UsageError("--plan: this machine has no GPU; give --device-memory GIB of another")
    return float(torch.cuda.get_device_properties(0).total_memory)
