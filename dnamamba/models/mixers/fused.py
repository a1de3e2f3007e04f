"""A block with Mamba-1 or BiMamba as one function on Triton's kernels, with a backward of its own.

The arithmetic is that of `Block` and its mixer module by module. What differs is what becomes of
the activations: the stream is kept in the type that matrices are multiplied in, and normalised from
there; gradients that meet in one tensor are summed by the product that makes one of them; halves of
a tensor are never put side by side by a copy. The backward makes again what `Recompute` says, and
always the norm.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnamamba.kernels.conv import launch as conv
from dnamamba.kernels.norm import launch as norm
from dnamamba.kernels.scan import triton_scan
from dnamamba.kernels.scan.inputs import ScanGradients, ScanInputs
from dnamamba.kernels.split import StateExchange, give_back, inputs_before


class Shared(NamedTuple):
    """The parameters that a block has once."""

    norm: Tensor
    in_proj: Tensor
    out_proj: Tensor


class Direction(NamedTuple):
    """The parameters of one way to read, as `SelectiveSSM` names them."""

    conv: Tensor
    """(d_inner, d_conv)."""
    conv_bias: Tensor
    x_proj: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor


class Options(NamedTuple):
    """What is no tensor."""

    eps: float
    dtype: torch.dtype
    """Of activations, and of what matrices are multiplied in."""
    recompute: str
    group: str
    """What `dnamamba.kernels.split.name_of` gave."""


class _Selected(NamedTuple):
    """What a direction makes of x, (batch, length, channels): its convolution and selection."""

    u: Tensor
    delta: Tensor
    parts: Tensor
    """B, C and dt side by side, and zeros up to a multiple of 16, which aligns rows."""


class _Way:
    """The steps of one direction, with weights that are cast once."""

    def __init__(self, weights: Direction, options: Options, reverse: bool) -> None:
        self.weights, self.group, self.reverse = weights, options.group, reverse
        self.dt_proj = weights.dt_proj.to(options.dtype)
        self.A = -torch.exp(weights.A_log.float())
        rank, state = weights.dt_proj.shape[1], weights.A_log.shape[1]
        dt, BC = torch.split(weights.x_proj.to(options.dtype), [rank, 2 * state])
        padding = -len(weights.x_proj) % 16
        self.x_proj = torch.cat([BC, dt, dt.new_zeros(padding, dt.shape[1])])
        self.split = [state, state, rank, padding]

    def before(self, x: Tensor, state: Tensor | None) -> Tensor | None:
        """Return the inputs read before x, (batch, d_conv - 1, d_inner)."""
        if not self.group:
            return state
        count = self.weights.conv.shape[1] - 1
        return inputs_before(x, count, self.group, reverse=self.reverse, initial=state)

    def select(self, x: Tensor, before: Tensor | None, parts: Tensor | None = None) -> _Selected:
        """Convolve and project, but for parts that were kept."""
        conv_weights = self.weights.conv, self.weights.conv_bias
        u = conv.forward(x, *conv_weights, before, None, True, self.reverse)
        if parts is None:
            parts = u @ self.x_proj.T
        return _Selected(u, self.dt(parts) @ self.dt_proj.T, parts)

    def dt(self, parts: Tensor) -> Tensor:
        return torch.split(parts, self.split, dim=-1)[2]

    def scan(
        self, selected: _Selected, z: Tensor, state: Tensor | None, *, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        exchange = self._exchange(backwards=self.reverse)
        return triton_scan.forward(self._inputs(selected, z), state, keep, exchange)

    def scan_backward(
        self,
        selected: _Selected,
        z: Tensor,
        state: Tensor | None,
        states: Tensor,
        dy: Tensor,
        dlast: Tensor | None,
    ) -> ScanGradients:
        exchange = self._exchange(backwards=not self.reverse)
        return triton_scan.backward(self._inputs(selected, z), state, states, dy, dlast, exchange)

    def _inputs(self, selected: _Selected, z: Tensor) -> ScanInputs:
        B, C, *_ = torch.split(selected.parts, self.split, dim=-1)
        return ScanInputs(
            selected.u,
            selected.delta,
            self.A,
            B[:, :, None],
            C[:, :, None],
            self.weights.D.float(),
            z,
            self.weights.dt_bias.float(),
            starts=None,
            delta_softplus=True,
            reverse=self.reverse,
        )

    def _exchange(self, *, backwards: bool) -> StateExchange | None:
        return StateExchange(self.group, self.A, backwards=backwards) if self.group else None

    def differentiate(
        self,
        x: Tensor,
        before: Tensor | None,
        selected: _Selected,
        scan: ScanGradients,
        dafter: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Direction]:
        """Go on from the scan's gradients to those of x, of what was before it, and of weights."""
        weights = self.weights
        d_dt = scan.delta @ self.dt_proj
        ddt_proj = _outer(scan.delta, self.dt(selected.parts))
        padding = d_dt.new_zeros(()).expand(*d_dt.shape[:2], self.split[-1])
        dparts = torch.cat([scan.B[:, :, 0], scan.C[:, :, 0], d_dt, padding], -1)
        scan.u.flatten(0, 1).addmm_(dparts.flatten(0, 1), self.x_proj)
        dB, dC, ddt, _ = torch.split(_outer(dparts, selected.u), self.split)
        dx, dconv, dconv_bias, dbefore = conv.backward(
            x, weights.conv, weights.conv_bias, before, None, scan.u, dafter, True, self.reverse
        )
        if self.group and dbefore is not None:
            give_back(dx, dbefore, self.group, reverse=self.reverse)
        gradients = (
            dconv, dconv_bias, torch.cat([ddt, dB, dC]), ddt_proj,
            scan.delta_bias, scan.A * self.A, scan.D,
        )  # fmt: skip
        typed = (
            cast(Tensor, gradient).to(weight.dtype)
            for gradient, weight in zip(gradients, weights, strict=True)
        )
        return dx, dbefore, Direction(*typed)


class FusedBlock(torch.autograd.Function):
    """`FusedBlock.apply`, with the arguments and results of `forward`.

    Differentiable once, in every tensor.
    """

    @staticmethod
    def forward(
        ctx: Any,
        options: Options,
        return_state: bool,
        x: Tensor,
        residual: Tensor | None,
        conv_state: Tensor | None,
        scan_state: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Mix x + residual, (batch, length, d_model).

        Parameters
        ----------
        options, return_state, x, residual
            As in `Block.forward`.
        conv_state, scan_state
            As in `MambaState`; None where there is a second direction.
        *weights
            `Shared`, then one `Direction` or two, the second of which reads backwards.

        Returns
        -------
        The output in `options.dtype`; x + residual, None without a residual; and, if asked for, the
        states after x.
        """
        shared, ways = Shared(*weights[:3]), list(_ways(weights, options))
        normed, stream, total = _normalise_sum(x, residual, shared.norm, options)
        inner, z = _enter(normed, shared, options)
        del normed
        y, last = None, None
        kept: list[Tensor] = []
        befores = [way.before(inner, conv_state) for way in ways]
        for way, before in zip(ways, befores, strict=True):
            selected = way.select(inner, before)
            keep = options.recompute != "block"
            read, last, states = way.scan(selected, z, scan_state, keep=keep)
            y = read if y is None else y.add_(read)
            if options.recompute == "none":
                kept += [states, selected.parts, selected.u, selected.delta]
            elif options.recompute == "scan":
                kept += [states, selected.parts]
        y = cast(Tensor, y)
        if options.recompute != "block":
            kept.append(y)
        if options.recompute == "none":
            kept += [inner, z]
        ctx.options = options
        ctx.wide = x.dtype if residual is None else residual.dtype
        ctx.given = residual is not None, conv_state is not None, scan_state is not None
        ctx.count = len(weights)
        ctx.save_for_backward(stream, scan_state, *befores, *weights, *kept)
        ctx.set_materialize_grads(False)
        after = None
        if return_state:
            width = ways[0].weights.conv.shape[1]
            after = conv.final_state(inner, width, befores[0], None, False)
        out = y @ shared.out_proj.to(options.dtype).T
        return out, total, after, last if return_state else None

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        dout: Tensor | None,
        dtotal: Tensor | None,
        dafter: Tensor | None,
        dlast: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        """Make again what was not kept, and differentiate from the end to the start."""
        options: Options = ctx.options
        directions = (ctx.count - 3) // len(Direction._fields)
        stream, scan_state, *rest = ctx.saved_tensors
        befores, rest = rest[:directions], rest[directions:]
        weights, kept = rest[: ctx.count], rest[ctx.count :]
        shared, ways = Shared(*weights[:3]), list(_ways(weights, options))
        out_proj = shared.out_proj.to(options.dtype)
        normed = norm.forward(stream, shared.norm, None, options.eps)[0]
        inner, z, y, made = _recall(normed, befores, scan_state, kept, shared, ways, options)
        if options.recompute == "block":
            del normed  # made once more below, so that it takes no memory in between
        dout = torch.zeros_like(stream) if dout is None else dout
        dout_proj = _outer(dout, y)
        del y
        dy = dout @ out_proj
        dinner: Tensor | None = None
        dz: Tensor | None = None
        dweights: list[Tensor] = []
        for way, before in zip(ways, befores, strict=True):
            selected, states = made.pop(0)
            scan = way.scan_backward(selected, z, scan_state, states, dy, dlast)
            del states
            if not made:
                del dy
            read, dbefore, gradients = way.differentiate(inner, before, selected, scan, dafter)
            dweights += gradients
            dstate = scan.initial_state
            dinner = read if dinner is None else dinner.add_(read)
            dz = cast(Tensor, scan.z) if dz is None else dz.add_(cast(Tensor, scan.z))
            del scan, selected
        dinner, dz = cast(Tensor, dinner), cast(Tensor, dz)
        if options.recompute == "block":
            normed = norm.forward(stream, shared.norm, None, options.eps)[0]
        d_inner, in_proj = dinner.shape[-1], shared.in_proj.to(options.dtype)
        din_proj = torch.cat([_outer(dinner, normed), _outer(dz, normed)])
        dnormed = dinner @ in_proj[:d_inner]
        dnormed.flatten(0, 1).addmm_(dz.flatten(0, 1), in_proj[d_inner:])
        del dinner, dz
        dx, dresidual, dnorm = norm.backward(
            stream, shared.norm, dnormed, dtotal, options.eps, residual=ctx.wide
        )
        wide = dx if dresidual is None else dresidual
        added, conv_given, scan_given = ctx.given
        return (
            None,
            None,
            dx if added else wide,
            wide if added else None,
            dbefore if conv_given else None,
            dstate if scan_given else None,
            dnorm,
            din_proj.to(shared.in_proj.dtype),
            dout_proj.to(shared.out_proj.dtype),
            *dweights,
        )


def _ways(weights: tuple[Tensor, ...], options: Options) -> Iterator[_Way]:
    """Part what comes after `Shared` into directions."""
    size = len(Direction._fields)
    for first in range(len(Shared._fields), len(weights), size):
        direction = Direction(*weights[first : first + size])
        yield _Way(direction, options, reverse=first > len(Shared._fields))


def _normalise_sum(
    x: Tensor, residual: Tensor | None, weight: Tensor, options: Options
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the norm, the stream that it is of, and the sum in residual's type."""
    if residual is None:
        stream = x.to(options.dtype)
        return norm.forward(stream, weight, None, options.eps)[0], stream, None
    kept = None if residual.dtype == options.dtype else options.dtype
    normed, total, rounded = norm.forward_keeping(kept, x, weight, residual, options.eps)
    return normed, cast(Tensor, total if rounded is None else rounded), total


def _enter(normed: Tensor, shared: Shared, options: Options) -> tuple[Tensor, Tensor]:
    """Project to x and z."""
    x, z = (normed @ shared.in_proj.to(options.dtype).T).chunk(2, dim=-1)
    return x, z


def _recall(
    normed: Tensor,
    befores: list[Tensor | None],
    scan_state: Tensor | None,
    kept: list[Tensor],
    shared: Shared,
    ways: list[_Way],
    options: Options,
) -> tuple[Tensor, Tensor, Tensor, list[tuple[_Selected, Tensor]]]:
    """Return x, z, the sum of what was scanned, and each scan's inputs and states."""
    if options.recompute == "none":
        *each, y, inner, z = kept
        made = [
            (_Selected(u, delta, parts), states)
            for states, parts, u, delta in zip(*(each[i::4] for i in range(4)), strict=True)
        ]
        return inner, z, y, made
    inner, z = _enter(normed, shared, options)
    if options.recompute == "scan":
        *each, y = kept
        made = [
            (way.select(inner, before, parts), states)
            for way, before, states, parts in zip(ways, befores, each[::2], each[1::2], strict=True)
        ]
        return inner, z, y, made
    made, total = [], None
    for way, before in zip(ways, befores, strict=True):
        selected = way.select(inner, before)
        y, _, states = way.scan(selected, z, scan_state, keep=True)
        made.append((selected, states))
        total = y if total is None else total.add_(y)
    return inner, z, cast(Tensor, total), made


def _outer(gradient: Tensor, x: Tensor) -> Tensor:
    """Sum gradient_t x_t^T over batch and length: the gradient of the weight that took x there."""
    return gradient.flatten(0, 1).T @ x.flatten(0, 1)
