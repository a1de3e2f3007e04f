"""What a training step takes of a GPU: memory, counted tensor by tensor, and time.

Memory is what the fused block of `dnamamba.models.mixers.fused` holds where it is fullest: in the
backward of the last block, while the scan's gradients are made. Every tensor there is as long as
the sequence, so that its bytes at one position say all.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, get_args

import torch

from dnamamba.models.backbone import ModelConfig
from dnamamba.models.block import Recompute
from dnamamba.models.heads import LanguageModel

CHUNK: Final = 64
"""Steps between the states that the scan's forward keeps."""
WIDE: Final = 4
"""Bytes of fp32: the residual stream, states, weights and their moments."""
OUTSIDE: Final = 72
"""Bytes a position of ids, targets, weights and losses, and of small parts of gradients."""
FIXED: Final = 80 * 2**20
"""Bytes of libraries' workspaces and of logits, however short the sequence."""
CONTEXT: Final = 900 * 2**20
"""Bytes that CUDA, compiled kernels and libraries' workspaces take beside tensors."""
USABLE: Final = 0.96
"""Share of the rest that the allocator can use, for what it cuts up it cannot put together."""
SECONDS: Final[dict[Recompute, float]] = {"none": 67e-12, "scan": 70e-12, "block": 82e-12}
"""Seconds of one H200 for a position of a channel of a direction of a block with 16 states."""
LAUNCH: Final = 4.5e-3
"""Seconds that Python takes to queue a block's kernels, however short the sequence."""


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass on one GPU.

    Attributes
    ----------
    windows, length
        Windows, and bases of each.
    recompute
        What the backward makes again.
    tbptt
        Bases of a segment; None is whole windows.
    parts
        GPUs that a window is split over.
    element
        Bytes of an activation: 2 in bf16, 4 in fp32.
    """

    windows: int
    length: int
    recompute: Recompute = "scan"
    tbptt: int | None = None
    parts: int = 1
    element: int = 2

    @property
    def positions(self) -> int:
        """Positions that this GPU holds at a time."""
        return self.windows * -(-min(self.tbptt or self.length, self.length) // self.parts)


def peak_bytes(config: ModelConfig, asked: Pass) -> int:
    """Return the most bytes of tensors that a step of AdamW holds.

    Parameters
    ----------
    config
        The model.
    asked
        The pass.
    """
    narrow = config.d_model * asked.element
    inner = config.d_inner * asked.element
    states = config.d_inner * config.d_state * WIDE // CHUNK
    selected = -(-(config.rank + 2 * config.d_state) // 16) * 16 * asked.element
    ways = 2 if config.bidirectional else 1

    scan = ways * (states + selected)
    selection = ways * 2 * inner  # u, delta
    entered = 2 * inner  # x, z
    kept = {
        "none": narrow + inner + scan + selection + entered,
        "scan": narrow + inner + scan,
        "block": narrow,
    }[asked.recompute]
    remade = {
        "none": narrow,
        "scan": narrow + selection + entered,
        "block": scan + selection + entered,
    }[asked.recompute]
    # dy; du, ddelta, dz; the adjoint's states; the gradients of the output and of the stream.
    gradients = inner + 3 * inner + states + narrow + config.d_model * WIDE
    strands = 2 if config.symmetry == "shared" else 1
    each = config.n_layer * kept + remade + gradients + OUTSIDE
    # Weight, gradient and two moments, and the buckets that processes sum gradients in.
    weights = (4 if asked.parts == 1 else 5) * WIDE * parameters_of(config)
    return asked.positions * strands * each + weights + FIXED


def parameters_of(config: ModelConfig) -> int:
    """Count a model's parameters without making them."""
    with torch.device("meta"):
        return LanguageModel(config).parameters_count


def seconds(config: ModelConfig, asked: Pass) -> float:
    """Estimate a pass on an H200, or on as many as a window is split over."""
    segments = -(-asked.length // min(asked.tbptt or asked.length, asked.length))
    strands = 2 if config.symmetry == "shared" else 1
    ways = 2 if config.bidirectional else 1
    channels = config.n_layer * config.d_inner * ways * strands
    work = SECONDS[asked.recompute] * channels * asked.positions * max(1.0, config.d_state / 16)
    return segments * max(work, LAUNCH * config.n_layer * ways)


def fits(config: ModelConfig, asked: Pass, memory: float) -> bool:
    """Tell whether a pass fits into a GPU of `memory` bytes."""
    return peak_bytes(config, asked) <= USABLE * (memory - CONTEXT)


def free_memory(device: torch.device) -> float:
    """Return the bytes of a GPU that this process holds or could hold, its context included."""
    free, _ = torch.cuda.mem_get_info(device)
    return float(free + torch.cuda.memory_reserved(device) + CONTEXT)


def alternatives(config: ModelConfig, asked: Pass, memory: float) -> Iterator[Pass]:
    """Give passes that fit where `asked` does not, and change as little as they can.

    Fewer windows; a more thrifty way; the longest segments that fit; the fewest GPUs to a window.
    """
    ways: tuple[Recompute, ...] = get_args(Recompute)
    fewer = replace(asked, windows=1)
    while fewer.windows * 2 < asked.windows and fits(
        config, replace(fewer, windows=fewer.windows * 2), memory
    ):
        fewer = replace(fewer, windows=fewer.windows * 2)
    if fewer.windows < asked.windows and fits(config, fewer, memory):
        yield fewer
    for way in ways[ways.index(asked.recompute) + 1 :]:
        if fits(config, replace(asked, recompute=way), memory):
            yield replace(asked, recompute=way)
    thrifty = replace(asked, windows=1, recompute="block")
    if fits(config, thrifty, memory):
        return
    segment = asked.length // 2
    while segment >= 1024 and not fits(config, replace(thrifty, tbptt=segment), memory):
        segment //= 2
    if segment >= 1024 and config.carries_state:
        yield replace(thrifty, tbptt=segment)
    parts = 2
    while parts <= 1024 and not fits(config, replace(thrifty, parts=parts), memory):
        parts *= 2
    if parts <= 1024 and config.symmetry == "none":
        yield replace(thrifty, parts=parts)


def flags(asked: Pass, chosen: Pass) -> str:
    """Write what a pass changes as options of `pretrain`."""
    said = []
    if chosen.windows != asked.windows:
        said.append(f"--micro-batch {chosen.windows}")
    if chosen.recompute != asked.recompute:
        said.append(f"--recompute {chosen.recompute}")
    if chosen.tbptt != asked.tbptt:
        said.append(f"--tbptt {chosen.tbptt}")
    if chosen.parts != asked.parts:
        said.append(f"--sequence-parallel {chosen.parts}")
    return " ".join(said)
