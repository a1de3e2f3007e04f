"""Mamba-2, whose states decay by one number a head (Dao and Gu 2024, arXiv 2405.21060).

One projection makes z, x, B, C and delta; x, B and C pass the causal convolution and SiLU together.
What the scan gives is gated by SiLU(z), normed, and projected back. Parameters are named, and in
the order, of published checkpoints. A, D and the state are fp32 whatever the activations are.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnamamba.errors import UsageError
from dnamamba.kernels import ssd_scan
from dnamamba.models.mixers.mamba import (
    DELTA_FLOOR,
    DELTA_MAX,
    DELTA_MIN,
    CausalConv1d,
)


@dataclass(frozen=True)
class Mamba2Config:
    """What a Mamba-2 mixer is, beside the width of the model.

    Raises
    ------
    UsageError
        For a size below 1.
    """

    d_state: int = 128
    """States of each channel."""
    d_conv: int = 4
    """Width of the causal convolution, in bases."""
    expand: int = 2
    """Channels inside, as a multiple of the model's."""
    head_dim: int = 64
    """Channels of a head."""
    groups: int = 1
    """Groups of heads that share B and C, and that are normed apart."""

    def __post_init__(self) -> None:
        for name in ("d_state", "d_conv", "expand", "head_dim", "groups"):
            if getattr(self, name) < 1:
                raise UsageError(f"mamba2: {name}: {getattr(self, name)} is below 1")


class Mamba2State(NamedTuple):
    """What a Mamba-2 mixer remembers of the sequence so far."""

    conv: Tensor
    """(batch, d_conv - 1, d_inner + 2 groups d_state): the last inputs of the convolution."""
    scan: Tensor
    """(batch, heads, head_dim, d_state) fp32."""


class GatedNorm(nn.Module):
    """RMSNorm of y SiLU(z) over the channels of each group."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.groups = groups
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """Gate and norm y by z, both (..., channels); returns y's type."""
        wide = torch.promote_types(y.dtype, torch.float32)
        gated = y.to(wide) * functional.silu(z.to(wide))
        parts = gated.reshape(*y.shape[:-1], self.groups, -1)
        normed = functional.rms_norm(parts, parts.shape[-1:], eps=self.eps).reshape(y.shape)
        return (normed * self.weight.to(wide)).to(y.dtype)


class Mamba2(nn.Module):
    """The Mamba-2 mixer.

    Parameters
    ----------
    d_model
        Channels of the residual stream.
    config
        Sizes inside.
    norm_eps
        Epsilon of the gated norm.

    Raises
    ------
    UsageError
        Where heads do not divide the channels, or groups the heads.
    """

    no_weight_decay = ("A_log", "D", "dt_bias")

    def __init__(self, d_model: int, config: Mamba2Config, norm_eps: float) -> None:
        super().__init__()
        d_inner = config.expand * d_model
        if d_inner % config.head_dim:
            raise UsageError(
                f"mamba2: head_dim: {config.head_dim} does not divide the {d_inner} channels inside"
            )
        heads = d_inner // config.head_dim
        if heads % config.groups:
            raise UsageError(f"mamba2: groups: {config.groups} does not divide {heads} heads")
        self.config = config
        shared = 2 * config.groups * config.d_state
        self.split = (d_inner, d_inner + shared, heads)
        self.inside = (d_inner, shared // 2, shared // 2)
        self.in_proj = nn.Linear(d_model, sum(self.split), bias=False)
        self.conv1d = CausalConv1d(d_inner + shared, config.d_conv)
        self.A_log = nn.Parameter(torch.log(torch.empty(heads).uniform_(1, 16)))
        self.D = nn.Parameter(torch.ones(heads))
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.norm = GatedNorm(d_inner, config.groups, norm_eps)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        self._initialise_delta()

    @torch.no_grad()
    def _initialise_delta(self) -> None:
        """Make softplus(bias) log-uniform, as in Mamba-1."""
        low, high = math.log(DELTA_MIN), math.log(DELTA_MAX)
        delta = torch.exp(torch.empty_like(self.dt_bias).uniform_(low, high))
        delta.clamp_(min=DELTA_FLOOR)
        self.dt_bias.copy_(delta + torch.log(-torch.expm1(-delta)))

    def forward(
        self,
        x: Tensor,
        state: Mamba2State | None = None,
        *,
        return_state: bool = False,
        reverse: bool = False,
        seq_idx: Tensor | None = None,
    ) -> tuple[Tensor, Mamba2State | None]:
        """Mix x (batch, length, d_model), which continues `state`; as `Mixer` says."""
        z, fed, delta = self.in_proj(x).split(self.split, dim=-1)
        fed, conv = self.conv1d(
            fed,
            None if state is None else state.conv,
            return_state=return_state,
            reverse=reverse,
            seq_idx=seq_idx,
        )
        y, scan = self._scan(
            fed, delta, None if state is None else state.scan, reverse, seq_idx, "auto"
        )
        y = self.out_proj(self.norm(y, z))
        return y, Mamba2State(conv, scan) if return_state else None

    def step(self, x: Tensor, state: Mamba2State) -> tuple[Tensor, Mamba2State]:
        """Mix one position x (batch, d_model)."""
        z, fed, delta = self.in_proj(x).split(self.split, dim=-1)
        fed, conv = self.conv1d.step(fed, state.conv)
        y, scan = self._scan(
            fed[:, None], delta[:, None], state.scan, False, None, backend="reference"
        )
        return self.out_proj(self.norm(y[:, 0], z)), Mamba2State(conv, scan)

    def _scan(
        self,
        fed: Tensor,
        delta: Tensor,
        state: Tensor | None,
        reverse: bool,
        seq_idx: Tensor | None,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        """Scan what the convolution gave; returns (batch, length, d_inner) and the last state."""
        u, B, C = torch.split(fed, list(self.inside), dim=-1)
        batch, length, _ = fed.shape
        groups = (batch, length, self.config.groups, self.config.d_state)
        y, last = ssd_scan(
            u.reshape(batch, length, -1, self.config.head_dim),
            delta,
            -torch.exp(_full_precision(self.A_log)),
            B.reshape(groups),
            C.reshape(groups),
            D=_full_precision(self.D),
            delta_bias=_full_precision(self.dt_bias),
            delta_softplus=True,
            initial_state=state,
            return_last_state=True,
            reverse=reverse,
            seq_idx=seq_idx,
            backend=backend,
        )
        return y.flatten(2), last

    def initial_state(
        self, batch: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Mamba2State:
        """Return zeros: the state before the first position."""
        weight, size = self.conv1d.weight, self.config
        conv = weight.new_zeros(
            batch, weight.shape[-1] - 1, len(weight), device=device, dtype=dtype
        )
        scan = _full_precision(self.A_log).new_zeros(
            batch, len(self.A_log), size.head_dim, size.d_state, device=device
        )
        return Mamba2State(conv, scan)


def _full_precision(tensor: Tensor) -> Tensor:
    """Raise to fp32, and leave fp64 as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
