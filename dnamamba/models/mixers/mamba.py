"""Mamba-1, the selective state space model (Gu and Dao 2023, arXiv 2312.00752), and its BiMamba.

x and z are projections of the input. x passes a short causal convolution and SiLU; from the result
come delta, B and C, position by position; the scan runs

    h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t,    y_t = C_t h_t + D u_t

and y is gated by SiLU(z) and projected back. A, D and the state are fp32 whatever the activations
are. Everything is (batch, length, channels), and every projection is called as a module.
"""

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional

from dnamamba.errors import UsageError
from dnamamba.kernels import (
    causal_conv1d,
    causal_conv1d_update,
    selective_scan,
    selective_state_update,
)

DELTA_MIN, DELTA_MAX, DELTA_FLOOR = 1e-3, 1e-1, 1e-4
"""Step sizes at the start of training are log-uniform in [min, max] (section 3.6 of the paper)."""


class MambaState(NamedTuple):
    """What a Mamba mixer remembers of the sequence so far."""

    conv: Tensor
    """(batch, d_conv - 1, d_inner): the last inputs of the convolution."""
    scan: Tensor
    """(batch, d_inner, d_state) fp32: h."""


class CausalConv1d(nn.Module):
    """A depthwise causal convolution and SiLU; parameters are named and shaped as nn.Conv1d's."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(channels, 1, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def forward(
        self,
        x: Tensor,
        state: Tensor | None = None,
        *,
        return_state: bool = False,
        reverse: bool = False,
        seq_idx: Tensor | None = None,
        group: ProcessGroup | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Convolve x (batch, length, channels) after `state` (batch, width - 1, channels)."""
        convolved = causal_conv1d(
            x,
            self.weight.squeeze(1),
            self.bias,
            activation="silu",
            initial_state=state,
            return_final_state=return_state,
            reverse=reverse,
            seq_idx=seq_idx,
            group=group,
        )
        return convolved if isinstance(convolved, tuple) else (convolved, None)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve one position x (batch, channels)."""
        y, last = causal_conv1d_update(
            x, state.to(x.dtype), self.weight.squeeze(1), self.bias, activation="silu"
        )
        return y, last


class DeltaProjection(nn.Linear):
    """Delta's projection, a Linear but for its bias, which the scan adds in fp32 on its way."""

    def forward(self, dt: Tensor) -> Tensor:
        """Project dt (..., dt_rank), and leave the bias to whoever scans."""
        return functional.linear(dt, self.weight)


class SelectiveSSM(nn.Module):
    """One direction of a Mamba block: convolution, selection, scan and gate.

    Parameters
    ----------
    d_inner
        Channels.
    d_state
        States of each channel (N).
    d_conv
        Width of the convolution.
    dt_rank
        Rank of the projection that makes delta.
    """

    no_weight_decay = ("A_log", "D")

    def __init__(self, d_inner: int, d_state: int, d_conv: int, dt_rank: int) -> None:
        super().__init__()
        self.backend = "auto"
        self.group: ProcessGroup | None = None
        self.split = (dt_rank, d_state, d_state)
        self.conv1d = CausalConv1d(d_inner, d_conv)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = DeltaProjection(dt_rank, d_inner, bias=True)
        states = torch.arange(1, d_state + 1, dtype=torch.float32)
        self.A_log = nn.Parameter(torch.log(states).repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self._initialise_delta()

    @torch.no_grad()
    def _initialise_delta(self) -> None:
        """Make softplus(bias) log-uniform, and keep the variance of delta's projection."""
        bound = self.dt_proj.in_features**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        low, high = math.log(DELTA_MIN), math.log(DELTA_MAX)
        delta = torch.exp(torch.empty_like(self.dt_proj.bias).uniform_(low, high))
        delta.clamp_(min=DELTA_FLOOR)
        self.dt_proj.bias.copy_(delta + torch.log(-torch.expm1(-delta)))

    def _select(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make delta (before its bias and softplus), B and C of u (..., d_inner)."""
        dt, B, C = self.x_proj(u).split(self.split, dim=-1)
        return self.dt_proj(dt), B, C

    def _decay(self) -> Tensor:
        return -torch.exp(_full_precision(self.A_log))

    def mix(
        self,
        x: Tensor,
        z: Tensor,
        state: MambaState | None,
        return_state: bool,
        reverse: bool,
        seq_idx: Tensor | None,
    ) -> tuple[Tensor, MambaState | None]:
        """Mix x, gated by z, both (batch, length, d_inner)."""
        u, conv_state = self.conv1d(
            x,
            None if state is None else state.conv,
            return_state=return_state,
            reverse=reverse,
            seq_idx=seq_idx,
            group=self.group,
        )
        delta, B, C = self._select(u)
        y, scan_state = selective_scan(
            u,
            delta,
            self._decay(),
            B,
            C,
            D=_full_precision(self.D),
            z=z,
            delta_bias=_full_precision(self.dt_proj.bias),
            delta_softplus=True,
            initial_state=None if state is None else state.scan,
            return_last_state=True,
            reverse=reverse,
            seq_idx=seq_idx,
            backend=self.backend,
            group=self.group,
        )
        return y, MambaState(conv_state, scan_state) if return_state else None

    def mix_step(self, x: Tensor, z: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """Mix one position x, gated by z, both (batch, d_inner)."""
        u, conv_state = self.conv1d.step(x, state.conv)
        delta, B, C = self._select(u)
        y, scan_state = selective_state_update(
            state.scan,
            u,
            delta,
            self._decay(),
            B,
            C,
            D=_full_precision(self.D),
            z=z,
            delta_bias=_full_precision(self.dt_proj.bias),
            delta_softplus=True,
        )
        return y, MambaState(conv_state, scan_state)


class Mamba(SelectiveSSM):
    """The Mamba-1 mixer, parameter for parameter as published checkpoints name it.

    Parameters
    ----------
    d_model
        Channels of the residual stream.
    d_state, d_conv, expand, dt_rank
        States of each channel, width of the convolution, d_inner / d_model, rank of delta.
    """

    def __init__(self, d_model: int, d_state: int, d_conv: int, expand: int, dt_rank: int) -> None:
        super().__init__(expand * d_model, d_state, d_conv, dt_rank)
        self.in_proj = nn.Linear(d_model, 2 * expand * d_model, bias=False)
        self.out_proj = nn.Linear(expand * d_model, d_model, bias=False)

    def forward(
        self,
        x: Tensor,
        state: MambaState | None = None,
        *,
        return_state: bool = False,
        reverse: bool = False,
        seq_idx: Tensor | None = None,
    ) -> tuple[Tensor, MambaState | None]:
        """Mix x (batch, length, d_model), which continues `state`; as `Mixer` says."""
        u, z = self.in_proj(x).chunk(2, dim=-1)
        y, state = self.mix(u, z, state, return_state, reverse, seq_idx)
        return self.out_proj(y), state

    def step(self, x: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """Mix one position x (batch, d_model)."""
        u, z = self.in_proj(x).chunk(2, dim=-1)
        y, state = self.mix_step(u, z, state)
        return self.out_proj(y), state

    def initial_state(
        self, batch: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> MambaState:
        """Return zeros: the state before the first position."""
        d_inner, d_state = self.A_log.shape
        width = self.conv1d.weight.shape[-1]
        conv = self.A_log.new_zeros(batch, width - 1, d_inner, device=device, dtype=dtype)
        scan = _full_precision(self.A_log).new_zeros(batch, d_inner, d_state, device=device)
        return MambaState(conv, scan)


class BiMamba(nn.Module):
    """Two Mamba mixers, one for each direction, that share in_proj and out_proj (Caduceus).

    The outputs are summed, so the shared projections are computed once: out_proj is linear
    (Schiff et al. 2024, arXiv 2403.03234, section 3.2). It has no state: every position sees all.
    """

    def __init__(self, d_model: int, d_state: int, d_conv: int, expand: int, dt_rank: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(d_model, 2 * expand * d_model, bias=False)
        self.ahead = SelectiveSSM(expand * d_model, d_state, d_conv, dt_rank)
        self.back = SelectiveSSM(expand * d_model, d_state, d_conv, dt_rank)
        self.out_proj = nn.Linear(expand * d_model, d_model, bias=False)

    def forward(
        self,
        x: Tensor,
        state: None = None,
        *,
        return_state: bool = False,
        reverse: bool = False,
        seq_idx: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Mix x (batch, length, d_model) in both directions; `reverse` swaps the two."""
        if state is not None or return_state:
            raise _no_state()
        u, z = self.in_proj(x).chunk(2, dim=-1)
        ahead, _ = self.ahead.mix(u, z, None, False, reverse, seq_idx)
        back, _ = self.back.mix(u, z, None, False, not reverse, seq_idx)
        return self.out_proj(ahead + back), None

    def one_way(
        self, x: Tensor, state: MambaState | None, *, back: bool
    ) -> tuple[Tensor, MambaState]:
        """Mix a part x (batch, length, d_model) of a sequence in one direction.

        The outputs of both directions add up to that of `forward`. The state is what the direction
        has read: what lies before x, or behind it where `back`.
        """
        u, z = self.in_proj(x).chunk(2, dim=-1)
        way = self.back if back else self.ahead
        y, after = way.mix(u, z, state, True, back, None)
        return self.out_proj(y), cast(MambaState, after)

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Raise a UsageError: there is no next position without the last one."""
        raise _no_state()

    def initial_state(
        self, batch: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Any:
        """Raise a UsageError: a bidirectional mixer has no state."""
        raise _no_state()


def _no_state() -> UsageError:
    return UsageError("bidirectional reads both ways: there is no state")


def directions(mixer: nn.Module) -> tuple[SelectiveSSM, ...]:
    """Return the directions that a mixer of this file reads in, ahead first; none of another's."""
    if isinstance(mixer, Mamba):
        return (mixer,)
    return (mixer.ahead, mixer.back) if isinstance(mixer, BiMamba) else ()


def _full_precision(tensor: Tensor) -> Tensor:
    """Raise to fp32, and leave fp64 as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
