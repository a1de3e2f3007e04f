"""Several sequences packed into one row: which step belongs to which, and where one begins."""

import torch
from torch import Tensor

from dnamamba.errors import UsageError

INTEGERS = (torch.int32, torch.int64)


def sequence_index(cu_seqlens: Tensor, length: int | None = None) -> Tensor:
    """Turn cumulative lengths into the `seq_idx` of one packed row.

    Parameters
    ----------
    cu_seqlens
        (sequences + 1,) int32 or int64: 0, then the step after the end of each sequence in turn.
    length
        Steps in the row; None is the last of `cu_seqlens`. Steps after it, which only pad the row,
        count as one more sequence.

    Returns
    -------
    (1, length) int32 on the device of `cu_seqlens`: 0 for the first sequence, 1 for the next.

    Raises
    ------
    UsageError
        For a wrong shape or type, lengths that do not start at 0 or that fall, or a `length` that
        is too short.
    """
    if cu_seqlens.dim() != 1 or len(cu_seqlens) < 2 or cu_seqlens.dtype not in INTEGERS:
        raise UsageError(
            f"cu_seqlens has shape {tuple(cu_seqlens.shape)} and type {cu_seqlens.dtype}; "
            "(sequences + 1,) of int32 or int64 is wanted"
        )
    ends = cu_seqlens.tolist()
    if ends[0] != 0 or ends[-1] == 0 or ends != sorted(ends):
        raise UsageError("cu_seqlens does not rise from 0 to the number of steps")
    length = ends[-1] if length is None else length
    if length < ends[-1]:
        raise UsageError(f"length is {length}; cu_seqlens ends at {ends[-1]}")
    steps = torch.arange(length, dtype=cu_seqlens.dtype, device=cu_seqlens.device)
    return torch.searchsorted(cu_seqlens, steps, right=True, out_int32=True)[None] - 1


def sequence_starts(seq_idx: Tensor, reverse: bool) -> Tensor:
    """Mark the steps at which `seq_idx` differs from that of the step read before.

    Parameters
    ----------
    seq_idx
        (batch, length) integers.
    reverse
        Whether the row is read from its end.

    Returns
    -------
    (batch, length) bool, never true at the first step read.
    """
    starts = torch.zeros_like(seq_idx, dtype=torch.bool, memory_format=torch.contiguous_format)
    changes = seq_idx[:, 1:] != seq_idx[:, :-1]
    (starts[:, :-1] if reverse else starts[:, 1:]).copy_(changes)
    return starts


def check_sequence_index(seq_idx: Tensor, batch: int, length: int, device: torch.device) -> None:
    """Require (batch, length) int32 or int64 on `device`.

    Raises
    ------
    UsageError
        Naming the shape, type or device, and the one wanted.
    """
    if tuple(seq_idx.shape) != (batch, length):
        raise UsageError(
            f"seq_idx has shape {tuple(seq_idx.shape)}; (batch, length) wants {(batch, length)}"
        )
    if seq_idx.dtype not in INTEGERS:
        raise UsageError(f"seq_idx has type {seq_idx.dtype}; int32 or int64 is wanted")
    if seq_idx.device != device:
        raise UsageError(f"seq_idx is on {seq_idx.device}; the first argument is on {device}")
