"""One sequence split over processes: what passes from each part to the next.

Part r of a sequence, in reading order, lies on one process. A scan hands over states: every process
runs its part from zero, all gather the ends and the decays of all parts, and each combines those
before its own, as the spans of one GPU are combined (kernels/README.md). A convolution hands over
its last inputs. Both are a few kilobytes, whatever the length.
"""

from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from dnamamba.errors import UsageError

_GROUPS: dict[str, dist.ProcessGroup] = {}
"""By name, because an op of torch.library takes strings and no groups."""


class Exchange(Protocol):
    """Turns the end of a part into the state before it."""

    def __call__(self, end: Tensor, total: Tensor) -> Tensor:
        """Return the state that passes into this part, (batch, channels, state).

        Parameters
        ----------
        end
            (batch, channels, state), the state after the part if none passes into it.
        total
            (batch, channels), the sum of its step sizes; infinite where nothing passes through.
        """


def name_of(group: dist.ProcessGroup | None) -> str:
    """Remember a group by its name; "" stands for none, and for a group of one."""
    if group is None or group.size() == 1:
        return ""
    _GROUPS[group.group_name] = group
    return group.group_name


def check_split(
    name: str, *, reverse: bool, initial_state: Tensor | None, seq_idx: Tensor | None
) -> None:
    """Raise a UsageError for what a part of a split sequence cannot have."""
    if seq_idx is not None:
        raise UsageError("seq_idx: packed sequences cannot be split over a group")
    group = _GROUPS[name]
    first = group.size() - 1 if reverse else 0
    if initial_state is not None and group.rank() != first:
        raise UsageError(
            f"initial_state: give it to process {first} of the group, which reads first, and not "
            f"to process {group.rank()}"
        )


class StateExchange:
    """The states of a scan over the processes of a group.

    Parameters
    ----------
    name
        What `name_of` gave.
    A
        (channels, state) of the scan.
    backwards
        Whether the last process comes first: a reverse scan, or the adjoint of one that is not.
    """

    def __init__(self, name: str, A: Tensor, *, backwards: bool) -> None:
        self.group = _GROUPS[name]
        self.A = A
        ranks = range(self.group.size())
        self.order = ranks[::-1] if backwards else ranks

    def __call__(self, end: Tensor, total: Tensor) -> Tensor:
        """Combine the parts before this one, first read first."""
        parts = gather(torch.cat([end, total[..., None].to(end.dtype)], -1), self.group)
        before = torch.zeros_like(end)
        for rank in self.order:
            if rank == self.group.rank():
                break
            before = passing(self.A, parts[rank][..., -1]) * before + parts[rank][..., :-1]
        return before


def passing(A: Tensor, total: Tensor) -> Tensor:
    """Return exp(A total), 0 where the total is infinite: (..., channels, state)."""
    decay = torch.exp(A.to(total.dtype) * total[..., None])
    return decay.masked_fill(total[..., None] == torch.inf, 0.0)


def gather(tensor: Tensor, group: dist.ProcessGroup) -> list[Tensor]:
    """Collect the tensors of all processes, in the order of their ranks."""
    parts = [torch.empty_like(tensor) for _ in range(group.size())]
    dist.all_gather(parts, tensor.contiguous(), group=group)
    return parts


class _Neighbour(torch.autograd.Function):
    """Give each process what the one before it holds; nothing, zeros, to the first."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, name: str, backwards: bool) -> Tensor:
        ctx.name, ctx.backwards = name, backwards
        return _from(tensor, name, 1 if backwards else -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _from(gradients[0], ctx.name, -1 if ctx.backwards else 1), None, None


def _from(tensor: Tensor, name: str, offset: int) -> Tensor:
    group = _GROUPS[name]
    parts = gather(tensor, group)
    rank = group.rank() + offset
    return parts[rank] if 0 <= rank < len(parts) else torch.zeros_like(tensor)


def give_back(dx: Tensor, dbefore: Tensor, name: str, *, reverse: bool) -> None:
    """Add to dx what the next part's gradient of `inputs_before` says of this part's last inputs.

    Parameters
    ----------
    dx
        (batch, length, channels), changed in place.
    dbefore
        (batch, count, channels) of this part, in reading order.
    name, reverse
        As in `inputs_before`.
    """
    after = _from(dbefore, name, -1 if reverse else 1)
    count = after.shape[1]
    if reverse:
        dx[:, :count] += after.flip(1)
    else:
        dx[:, dx.shape[1] - count :] += after


def inputs_before(
    x: Tensor, count: int, name: str, *, reverse: bool, initial: Tensor | None
) -> Tensor:
    """Give the last `count` inputs of the part before this one; differentiable.

    Parameters
    ----------
    x
        (batch, length, channels), this part.
    count
        Inputs that a convolution looks back.
    name
        What `name_of` gave.
    reverse
        Whether x is read from its end.
    initial
        What comes before the whole sequence, for the part that is read first; None is zeros.

    Returns
    -------
    (batch, count, channels), in reading order.

    Raises
    ------
    UsageError
        For a part shorter than `count`.
    """
    if x.shape[1] < count:
        raise UsageError(
            f"x has shape {tuple(x.shape)}; a part of a split sequence needs {count} positions "
            "or more: split over fewer processes"
        )
    tail = x[:, :count].flip(1) if reverse else x[:, x.shape[1] - count :]
    before: Tensor = _Neighbour.apply(tail, name, reverse)  # type: ignore[no-untyped-call]
    return before if initial is None else before + initial.to(before.dtype)
