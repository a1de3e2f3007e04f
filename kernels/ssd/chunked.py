"""The state-space-dual scan in chunks, as products of matrices: plain PyTorch, on any device.

Section 6 of Dao and Gu, "Transformers are SSMs" (arXiv 2405.21060). Inside a chunk, what position j
gives to a later i is C_i B_j^T times the decay between them, a masked product as in attention; what
lies before the chunk comes in through the state. Chunks are taken together in segments that bound
the working memory, and a segment's states are passed on one by one. autograd differentiates it.
"""

import torch
from torch import Tensor
from torch.nn import functional

from dnamamba.kernels.ssd.inputs import SsdInputs

CHUNK = 64
"""Positions in a chunk: products of (chunk, chunk) against (width, state)."""
SEGMENT = 2**24
"""Numbers in the largest tensor of a segment, (batch, chunks, heads, chunk, chunk)."""


def ssd_scan(inputs: SsdInputs, initial_state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scan; results as in `dnamamba.kernels.ssd.reference.ssd_scan`."""
    dtype, (batch, length, heads, width) = inputs.dtype, inputs.x.shape
    steps = inputs.steps()
    decay = steps * inputs.A.to(dtype)
    starts = inputs.starts
    if starts is None:
        starts = torch.zeros(batch, length, dtype=torch.bool, device=decay.device)
    parts = [inputs.x.to(dtype) * steps[..., None], decay, inputs.B, inputs.C, starts]
    if inputs.reverse:
        parts = [part.flip(1) for part in parts]
    state = decay.new_zeros(batch, heads, width, inputs.B.shape[-1])
    if initial_state is not None:
        state = initial_state.to(dtype)
    span = max(1, SEGMENT // (batch * heads * CHUNK**2)) * CHUNK
    outputs = []
    for x, decays, B, C, begins in zip(*(torch.split(p, span, 1) for p in parts), strict=True):
        y, state = _segment(x, decays, B, C, begins, state)
        outputs.append(y)
    y = torch.cat(outputs, 1)
    return inputs.skip(y.flip(1) if inputs.reverse else y), state


def _segment(
    x: Tensor, decay: Tensor, B: Tensor, C: Tensor, starts: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Scan a segment, which continues `state`; x is what is fed, step sizes included."""
    length, groups = decay.shape[1], B.shape[2]
    # (batch, chunks, groups, heads in a group, chunk, ...): products are of the last two.
    fed = _grouped(_chunks(x), groups)
    total = _grouped(_chunks(decay)[..., None], groups)[..., 0].cumsum(-1)
    B, C = (_chunks(weight.to(x.dtype)).transpose(2, 3)[:, :, :, None] for weight in (B, C))
    begins = _chunks(starts)
    sequence = begins.cumsum(2)
    first, last = ((sequence == which)[:, :, None, None] for which in (0, sequence[:, :, -1:]))

    y = (C @ B.transpose(-1, -2) * _between(total, sequence)) @ fed

    to_end = torch.exp(total[..., -1:] - total).masked_fill(~last, 0)
    gains = (fed * to_end[..., None]).transpose(-1, -2) @ B
    kept = torch.exp(total[..., -1]).masked_fill(begins.any(2)[:, :, None, None], 0)
    passed = state.reshape(len(x), groups, -1, *state.shape[2:])
    before = []
    for gain, keep in zip(gains.unbind(1), kept.unbind(1), strict=True):
        before.append(passed)
        passed = keep[..., None, None] * passed + gain
    from_start = torch.exp(total).masked_fill(~first, 0)
    y = y + from_start[..., None] * (C @ torch.stack(before, 1).transpose(-1, -2))
    y = y.flatten(2, 3).transpose(2, 3).flatten(1, 2)
    return y[:, :length], passed.flatten(1, 2)


def _grouped(tensor: Tensor, groups: int) -> Tensor:
    """Turn (batch, chunks, chunk, heads, width) by groups of heads, then positions."""
    heads = tensor.transpose(2, 3)
    return heads.reshape(*heads.shape[:2], groups, -1, *heads.shape[3:])


def _chunks(tensor: Tensor) -> Tensor:
    """Cut (batch, length, ...) into (batch, chunks, CHUNK, ...).

    Zeros fill the last chunk, and change no state: they neither feed nor decay it.
    """
    missing = -tensor.shape[1] % CHUNK
    if missing:
        tensor = functional.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, missing))
    return tensor.reshape(len(tensor), -1, CHUNK, *tensor.shape[2:])


def _between(total: Tensor, sequence: Tensor) -> Tensor:
    """Return the decay from j to i, (..., i, j); zero where j does not reach i.

    Differences are masked before the exponential, which could overflow above the diagonal.
    """
    difference = total[..., :, None] - total[..., None, :]
    later = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=total.device).tril()
    same = sequence[:, :, :, None] == sequence[:, :, None, :]
    return torch.exp(difference.masked_fill(~(later & same)[:, :, None, None], -torch.inf))
