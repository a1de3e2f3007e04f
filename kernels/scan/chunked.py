"""The recurrence in plain PyTorch, all chunks of a segment advancing together.

Three phases: each chunk's end state from zero; a scan over those chunk summaries, a chunk's decay
being exp(A * sum of delta); and a replay from the right initial state, which writes the output.
The backward runs the adjoint through the same phases in the other direction. Inside, a segment is
(steps, batch, chunks, ...) and a state (batch, chunks, state, channels): channels are contiguous.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dnamamba.kernels.scan.segments import Plan, Recurrence, RecurrenceGradients

WIDTH = {"cpu": 2**17, "cuda": 2**24}
"""States that advance together: on a CPU a step's working set stays in the caches."""
STEPS = 32


def plan(batch: int, length: int, channels: int, state: int, device: str) -> Plan:
    """Take as many chunks into a segment as keep the states of one step within `WIDTH`."""
    steps = min(STEPS, length)
    fit = WIDTH.get(device, WIDTH["cuda"]) // (batch * channels * state)
    return Plan(steps, max(1, min(fit, -(-length // steps))))


def _cut(segment: Recurrence, steps: int) -> Recurrence:
    """Rearrange into (steps, batch, chunks, ...), the last chunk padded.

    A padding step has delta and x of 0, so it neither decays nor feeds the state.
    """
    return Recurrence(
        _chunks(segment.delta, steps),
        _chunks(segment.x, steps),
        segment.A,
        segment.B if segment.B.dim() == 2 else _chunks(segment.B, steps),
        segment.C if segment.C.dim() == 2 else _chunks(segment.C, steps),
        None if segment.starts is None else _chunks(segment.starts[..., None], steps)[..., None],
    )


def _chunks(part: Tensor, steps: int) -> Tensor:
    missing = -part.shape[1] % steps
    if missing:
        part = F.pad(part, (0, 0, 0, missing))
    batch, length, width = part.shape
    return part.view(batch, length // steps, steps, width).permute(2, 0, 1, 3).contiguous()


def _flat(part: Tensor, length: int) -> Tensor:
    """Undo `_chunks`: (batch, length, width)."""
    return part.permute(1, 2, 0, 3).flatten(1, 2)[:, :length]


def advance(segment: Recurrence, state: Tensor, saved: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Run the three phases; see `dnamamba.kernels.scan.segments.Core`."""
    cut = _cut(segment, steps)
    if saved.shape[1] > 1:
        ends = torch.zeros_like(saved, memory_format=torch.contiguous_format)
        for t in range(len(cut.x)):
            ends = _next(cut, t, ends)
        saved.copy_(_combine(state, ends, _whole_decay(cut))[:, :-1])
    else:
        saved.copy_(state[:, None])
    states, y = saved, torch.empty_like(cut.x)
    for t in range(len(cut.x)):
        states = _next(cut, t, states)
        y[t] = _over_state(cut.C, t, states)
    return _flat(y, segment.x.shape[1]), states[:, -1].contiguous()


def _decay(cut: Recurrence, t: int) -> Tensor:
    """Return step t's decay of each chunk's state, 0 where a sequence starts."""
    decay = torch.mul(cut.delta[t, :, :, None], cut.A).exp_()
    return decay if cut.starts is None else decay.masked_fill_(cut.starts[t], 0)


def _whole_decay(cut: Recurrence) -> Tensor:
    """Return each chunk's decay, (batch, chunks, state, channels), 0 if it holds a start."""
    decay = torch.exp(cut.delta.sum(0)[:, :, None] * cut.A)
    return decay if cut.starts is None else decay.masked_fill_(cut.starts.any(0), 0)


def _next(cut: Recurrence, t: int, states: Tensor) -> Tensor:
    """Take each chunk's state (batch, chunks, state, channels) through its step t."""
    return _decay(cut, t).mul_(states).addcmul_(_at(cut.B, t), cut.x[t, :, :, None])


def _at(weight: Tensor, t: int) -> Tensor:
    """Let step t of B or C broadcast against (batch, chunks, state, channels)."""
    return weight if weight.dim() == 2 else weight[t, ..., None]


def _over_state(weight: Tensor, t: int, states: Tensor) -> Tensor:
    """Sum step t of B or C times (batch, chunks, state, channels) over the state."""
    if weight.dim() == 2:
        return (weight * states).sum(2)
    return (weight[t, :, :, None] @ states).squeeze(2)


def _add_weight_gradient(gradient: Tensor, t: int, states: Tensor, other: Tensor) -> None:
    """Sum (batch, chunks, state, channels) times (batch, chunks, channels) for a weight's step t.

    Over the channels, or over batch and chunks where the weight is constant.
    """
    if gradient.dim() == 2:
        gradient.add_((states * other[:, :, None]).sum((0, 1)))
    else:
        gradient[t] = (states @ other[..., None]).squeeze(3)


def _combine(initial: Tensor, ends: Tensor, decays: Tensor) -> Tensor:
    """Scan the chunk summaries: the state before each chunk, and after the last.

    Doubling distances (Hillis and Steele, "Data parallel algorithms", 1986). Only products of
    decays occur, never a quotient, so it is stable.

    Parameters
    ----------
    initial
        (batch, state, channels), before the first chunk.
    ends, decays
        (batch, chunks, state, channels): each chunk's end state from zero, and its whole decay.

    Returns
    -------
    (batch, chunks + 1, state, channels).
    """
    states = torch.cat([initial[:, None], ends], dim=1)
    decays = torch.cat([torch.ones_like(initial)[:, None], decays], dim=1)
    distance = 1
    while distance <= ends.shape[1]:
        near, far = slice(distance, None), slice(None, -distance)
        later = torch.addcmul(states[:, near], decays[:, near], states[:, far])
        states = torch.cat([states[:, :distance], later], dim=1)
        decays = torch.cat([decays[:, :distance], decays[:, near] * decays[:, far]], dim=1)
        distance *= 2
    return states


def differentiate(
    segment: Recurrence, saved: Tensor, dout: Tensor, carry: Tensor, steps: int
) -> RecurrenceGradients:
    """Recompute the states, then run the adjoint; see `dnamamba.kernels.scan.segments.Core`.

    With g_t the gradient of h_t and a_t = exp(delta_t A): g_t = C_t dout_t + a_(t+1) g_(t+1), and
    a step's gradients follow from g_t and its decayed state a_t h_(t-1).
    """
    cut, dout, length = _cut(segment, steps), _chunks(dout, steps), dout.shape[1]
    y, ddelta, dx = (torch.empty_like(cut.x) for _ in range(3))
    dB, dC = torch.zeros_like(cut.B), torch.zeros_like(cut.C)

    states, decays, decayed = saved, [], []
    for t in range(len(dout)):
        decays.append(_decay(cut, t))
        decayed.append(decays[t] * states)
        states = torch.addcmul(decayed[t], _at(cut.B, t), cut.x[t, :, :, None])
        y[t] = _over_state(cut.C, t, states)
        _add_weight_gradient(dC, t, states, dout[t])

    adjoint = _end_adjoints(cut, dout, decays, carry)
    dA = torch.zeros_like(adjoint)
    for t in reversed(range(len(dout))):
        adjoint.addcmul_(_at(cut.C, t), dout[t, :, :, None])
        dx[t] = _over_state(cut.B, t, adjoint)
        _add_weight_gradient(dB, t, adjoint, cut.x[t])
        slope = decayed[t].mul_(adjoint)
        dA.addcmul_(slope, cut.delta[t, :, :, None])
        torch.sum(slope.mul_(cut.A), dim=2, out=ddelta[t])
        adjoint.mul_(decays[t])
    return RecurrenceGradients(
        y=_flat(y, length),
        delta=_flat(ddelta, length),
        x=_flat(dx, length),
        A=dA.sum((0, 1)),
        B=dB if dB.dim() == 2 else _flat(dB, length),
        C=dC if dC.dim() == 2 else _flat(dC, length),
        state=adjoint[:, 0].contiguous(),
    )


def _end_adjoints(cut: Recurrence, dout: Tensor, decays: list[Tensor], carry: Tensor) -> Tensor:
    """Run the first two phases backwards: a g of the step after each chunk.

    `carry` (batch, state, channels) is that of the step after the segment; the result is
    (batch, chunks, state, channels).
    """
    if cut.x.shape[2] == 1:
        return carry[:, None].clone()
    ends = torch.zeros_like(decays[0])
    for t in reversed(range(len(dout))):
        ends.addcmul_(_at(cut.C, t), dout[t, :, :, None]).mul_(decays[t])
    return _combine(carry, ends.flip(1), _whole_decay(cut).flip(1))[:, :-1].flip(1)
