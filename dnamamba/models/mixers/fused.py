"""A block with Mamba-1 as one function on Triton's kernels, with a backward of its own.

The arithmetic is that of `Block` and `Mamba` module by module. What differs is what becomes of the
activations: the stream is kept in the type that matrices are multiplied in, and normalised from
there; gradients that meet in one tensor are summed by the product that makes one of them; halves of
a tensor are never put side by side by a copy. The backward makes again what `Recompute` says, and
always the norm.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnamamba.kernels.conv import launch as conv
from dnamamba.kernels.norm import launch as norm
from dnamamba.kernels.scan import triton_scan
from dnamamba.kernels.scan.inputs import ScanGradients, ScanInputs
from dnamamba.kernels.split import StateExchange, given_back, inputs_before


class Weights(NamedTuple):
    """A block's parameters."""

    norm: Tensor
    in_proj: Tensor
    conv: Tensor
    """(d_inner, d_conv)."""
    conv_bias: Tensor
    x_proj: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    out_proj: Tensor


class Options(NamedTuple):
    """What is no tensor."""

    eps: float
    dtype: torch.dtype
    """Of activations, and of what matrices are multiplied in."""
    recompute: str
    group: str
    """What `dnamamba.kernels.split.name_of` gave."""


class _Inside(NamedTuple):
    """What lies between the projections, (batch, length, channels): x, z and the scan's inputs."""

    x: Tensor
    z: Tensor
    u: Tensor
    delta: Tensor
    selected: Tensor
    """B, C and dt side by side, and zeros up to a multiple of 16, which aligns rows."""


class _Mix:
    """The steps of one call, with weights that are cast once."""

    def __init__(self, weights: Weights, options: Options) -> None:
        self.weights, self.options = weights, options
        self.in_proj = weights.in_proj.to(options.dtype)
        self.dt_proj = weights.dt_proj.to(options.dtype)
        self.out_proj = weights.out_proj.to(options.dtype)
        self.A = -torch.exp(weights.A_log.float())
        rank, state = weights.dt_proj.shape[1], weights.A_log.shape[1]
        dt, BC = torch.split(weights.x_proj.to(options.dtype), [rank, 2 * state])
        padding = -len(weights.x_proj) % 16
        self.x_proj = torch.cat([BC, dt, dt.new_zeros(padding, dt.shape[1])])
        self.split = [state, state, rank, padding]

    def normalise_sum(
        self, x: Tensor, residual: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the norm, the stream that it is of, and the sum in residual's type."""
        if residual is None:
            stream = x.to(self.options.dtype)
            return self.normalise(stream), stream, None
        kept = None if residual.dtype == self.options.dtype else self.options.dtype
        normed, total, rounded = norm.forward_keeping(
            kept, x, self.weights.norm, residual, self.options.eps
        )
        return normed, cast(Tensor, total if rounded is None else rounded), total

    def normalise(self, stream: Tensor) -> Tensor:
        return norm.forward(stream, self.weights.norm, None, self.options.eps)[0]

    def enter(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        x, z = (normed @ self.in_proj.T).chunk(2, dim=-1)
        return x, z

    def before(self, x: Tensor, state: Tensor | None) -> Tensor | None:
        """Return the inputs before x, (batch, d_conv - 1, d_inner)."""
        if not self.options.group:
            return state
        count = self.weights.conv.shape[1] - 1
        return inputs_before(x, count, self.options.group, reverse=False, initial=state)

    def convolve(self, x: Tensor, before: Tensor | None) -> Tensor:
        return conv.forward(x, self.weights.conv, self.weights.conv_bias, before, None, True, False)

    def select(self, u: Tensor) -> Tensor:
        return u @ self.x_proj.T

    def delta(self, selected: Tensor) -> Tensor:
        return self.dt(selected) @ self.dt_proj.T

    def dt(self, selected: Tensor) -> Tensor:
        return torch.split(selected, self.split, dim=-1)[2]

    def as_given(self, dx_proj: Tensor) -> Tensor:
        """Put a gradient of `x_proj` into the order of the parameter: dt, B, C."""
        B, C, dt, _ = torch.split(dx_proj, self.split)
        return torch.cat([dt, B, C])

    def scanned(self, inside: _Inside) -> ScanInputs:
        """Gather the scan's inputs."""
        B, C, *_ = torch.split(inside.selected, self.split, dim=-1)
        return ScanInputs(
            inside.u,
            inside.delta,
            self.A,
            B[:, :, None],
            C[:, :, None],
            self.weights.D.float(),
            inside.z,
            self.weights.dt_bias.float(),
            starts=None,
            delta_softplus=True,
            reverse=False,
        )

    def scan(
        self, inside: _Inside, state: Tensor | None, *, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        exchange = self._exchange(backwards=False)
        return triton_scan.forward(self.scanned(inside), state, keep, exchange)

    def scan_backward(
        self,
        inside: _Inside,
        state: Tensor | None,
        states: Tensor,
        dy: Tensor,
        dlast: Tensor | None,
    ) -> ScanGradients:
        exchange = self._exchange(backwards=True)
        return triton_scan.backward(self.scanned(inside), state, states, dy, dlast, exchange)

    def _exchange(self, *, backwards: bool) -> StateExchange | None:
        name = self.options.group
        return StateExchange(name, self.A, backwards=backwards) if name else None


class FusedBlock(torch.autograd.Function):
    """`FusedBlock.apply`: arguments and results as `forward` says; all but options differentiable.

    A gradient of a gradient is not there.
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
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Mix x + residual, (batch, length, d_model); states as in `MambaState`, tensors `Weights`.

        Returns
        -------
        The output in `options.dtype`; x + residual, None without a residual; and, if asked for, the
        states after x.
        """
        mix = _Mix(Weights(*tensors), options)
        normed, stream, total = mix.normalise_sum(x, residual)
        inner, z = mix.enter(normed)
        del normed
        before = mix.before(inner, conv_state)
        u = mix.convolve(inner, before)
        selected = mix.select(u)
        inside = _Inside(inner, z, u, mix.delta(selected), selected)
        keep = options.recompute != "block"
        y, last, states = mix.scan(inside, scan_state, keep=keep)
        kept = {
            "none": (y, states, selected, inner, z, u, inside.delta),
            "scan": (y, states, selected),
            "block": (),
        }[options.recompute]
        ctx.options = options
        ctx.wide = x.dtype if residual is None else residual.dtype
        ctx.given = residual is not None, conv_state is not None, scan_state is not None
        ctx.save_for_backward(stream, before, scan_state, *tensors, *kept)
        ctx.set_materialize_grads(False)
        conv_after = None
        if return_state:
            width = mix.weights.conv.shape[1]
            conv_after = conv.final_state(inner, width, before, None, False)
        return y @ mix.out_proj.T, total, conv_after, last if return_state else None

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        dout: Tensor | None,
        dtotal: Tensor | None,
        dconv_after: Tensor | None,
        dlast: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        """Make again what was not kept, and differentiate from the end to the start."""
        stream, before, scan_state, *rest = ctx.saved_tensors
        weights, kept = Weights(*rest[: len(Weights._fields)]), rest[len(Weights._fields) :]
        mix = _Mix(weights, ctx.options)
        normed = mix.normalise(stream)
        inside = _remake(mix, normed, before, kept)
        thrifty = ctx.options.recompute == "block"
        if thrifty:
            del normed
        y, states = kept[:2] if kept else mix.scan(inside, scan_state, keep=True)[::2]

        dout = torch.zeros_like(stream) if dout is None else dout
        dout_proj = _outer(dout, y)
        del y
        scan = mix.scan_backward(inside, scan_state, states, dout @ mix.out_proj, dlast)
        del states
        d_dt = scan.delta @ mix.dt_proj
        ddt_proj = _outer(scan.delta, mix.dt(inside.selected))
        padding = d_dt.new_zeros(()).expand(*d_dt.shape[:2], mix.split[-1])
        dselected = torch.cat([scan.B[:, :, 0], scan.C[:, :, 0], d_dt, padding], -1)
        scan.u.flatten(0, 1).addmm_(dselected.flatten(0, 1), mix.x_proj)
        dx_proj = mix.as_given(_outer(dselected, inside.u))
        dinner, dconv, dconv_bias, dbefore = conv.backward(
            inside.x,
            weights.conv,
            weights.conv_bias,
            before,
            None,
            scan.u,
            dconv_after,
            True,
            False,
        )
        if ctx.options.group and dbefore is not None:
            dinner[:, -before.shape[1] :] += given_back(dbefore, ctx.options.group)
        d_inner, dz = dinner.shape[-1], cast(Tensor, scan.z)
        dnormed = dinner @ mix.in_proj[:d_inner]
        dnormed.flatten(0, 1).addmm_(dz.flatten(0, 1), mix.in_proj[d_inner:])
        if thrifty:
            normed = mix.normalise(stream)
        din_proj = torch.cat([_outer(dinner, normed), _outer(dz, normed)])
        dx, dresidual, dnorm = norm.backward(
            stream, weights.norm, dnormed, dtotal, ctx.options.eps, residual=ctx.wide
        )
        wide = dx if dresidual is None else dresidual
        added, conv_given, scan_given = ctx.given
        gradients = (
            dnorm, din_proj, dconv, dconv_bias, dx_proj, ddt_proj,
            scan.delta_bias, scan.A * mix.A, scan.D, dout_proj,
        )  # fmt: skip
        return (
            None,
            None,
            dx if added else wide,
            wide if added else None,
            dbefore if conv_given else None,
            scan.initial_state if scan_given else None,
            *(
                None if gradient is None else gradient.to(weight.dtype)
                for gradient, weight in zip(gradients, weights, strict=True)
            ),
        )


def _remake(mix: _Mix, normed: Tensor, before: Tensor | None, kept: list[Tensor]) -> _Inside:
    if len(kept) > 3:
        *_, selected, x, z, u, delta = kept
        return _Inside(x, z, u, delta, selected)
    x, z = mix.enter(normed)
    u = mix.convolve(x, before)
    selected = kept[2] if kept else mix.select(u)
    return _Inside(x, z, u, mix.delta(selected), selected)


def _outer(gradient: Tensor, x: Tensor) -> Tensor:
    """Sum gradient_t x_t^T over batch and length: the gradient of the weight that took x there."""
    return gradient.flatten(0, 1).T @ x.flatten(0, 1)
