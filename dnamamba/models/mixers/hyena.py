"""Hyena: long convolutions, whose filters a small network makes, between gates.

Poli et al. 2023 (arXiv 2302.10866), with the filters and sizes of HyenaDNA (Nguyen et al. 2023,
arXiv 2306.15794). A projection gives x_0 to x_(order-1) and v, which pass a short causal filter;
then v <- filter(v x_i) for i from order - 1 down to 1, and the output is v x_0, projected back. A
filter is as long as the sequence, and is applied by fast Fourier transform: there is no state to
carry, and no length beyond the one that positions were scaled for.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dnamamba.errors import UsageError
from dnamamba.kernels import causal_conv1d

FAST, SLOW, TARGET = 0.3, 1.5, 1e-2
"""Windows fall to TARGET at these shares of the longest sequence (appendix D.3 of Hyena)."""
SHIFT = 0.05
"""What a window never falls below."""


@dataclass(frozen=True)
class HyenaConfig:
    """What a Hyena mixer is, beside the width of the model.

    Raises
    ------
    UsageError
        For a size that cannot be.
    """

    max_length: int = 2**15
    """The longest sequence, in tokens; positions are scaled to it."""
    order: int = 2
    """Gates and long convolutions, one fewer of the latter."""
    d_conv: int = 3
    """Width of the short filter."""
    positions: int = 5
    """Features of a position, odd: time, and a cosine and a sine of each frequency."""
    d_filter: int = 64
    """Width of the network that makes the filters."""
    filter_layers: int = 2
    """Its layers between the first and the last."""
    frequency: float = 10.0
    """What its sines start with."""

    def __post_init__(self) -> None:
        least = {"max_length": 1, "order": 2, "d_conv": 1, "d_filter": 1, "filter_layers": 0}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise UsageError(f"hyena: {name}: {getattr(self, name)} is below {lowest}")
        if self.positions < 3 or self.positions % 2 == 0:
            raise UsageError(f"hyena: positions: {self.positions} is not odd and at least 3")


def position_features(length: int, config: HyenaConfig) -> Tensor:
    """Return the features of the first positions, (length, positions) float64.

    Time from 0 to 1 over the longest sequence, and the real and imaginary parts of exp(-i f w) for
    frequencies f from 1e-4 up, where w goes once around in the longest sequence.
    """
    bands = (config.positions - 1) // 2
    steps = torch.arange(length, dtype=torch.float64)[:, None]
    time = steps / max(1, config.max_length - 1)
    frequencies = torch.linspace(1e-4, bands - 1, bands, dtype=torch.float64)
    angle = frequencies * (2 * math.pi * steps / config.max_length)
    return torch.cat([time, torch.cos(angle), -torch.sin(angle)], dim=1)


class LongFilters(nn.Module):
    """The network from positions to filters, one filter for each channel and convolution."""

    decay: Tensor

    def __init__(self, channels: int, config: HyenaConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.positions, *[config.d_filter] * (config.filter_layers + 1)]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.frequency = nn.Parameter(torch.full((config.d_filter,), config.frequency))
        self.out = nn.Linear(config.d_filter, channels, bias=False)
        self.bias = nn.Parameter(torch.randn(channels))
        slow, fast = (-math.log(TARGET) / share for share in (SLOW, FAST))
        self.register_buffer("decay", torch.linspace(slow, fast, channels))

    def forward(self, length: int) -> Tensor:
        """Return the filters, (length, channels), in the type of the weights."""
        features = position_features(length, self.config).to(self.bias)
        h = features
        for layer in self.layers:
            h = torch.sin(self.frequency * layer(h))
        filters: Tensor = self.out(h) * (torch.exp(-features[:, :1] * self.decay) + SHIFT)
        return filters


class Hyena(nn.Module):
    """The Hyena mixer.

    Parameters
    ----------
    d_model
        Channels of the residual stream.
    config
        Sizes inside.
    """

    def __init__(self, d_model: int, config: HyenaConfig) -> None:
        super().__init__()
        self.config = config
        width = (config.order + 1) * d_model
        self.in_proj = nn.Linear(d_model, width)
        bound = config.d_conv**-0.5
        self.conv_weight = nn.Parameter(torch.empty(width, config.d_conv).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        self.filters = LongFilters((config.order - 1) * d_model, config)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(
        self,
        x: Tensor,
        state: None = None,
        *,
        return_state: bool = False,
        reverse: bool = False,
        seq_idx: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Mix x (batch, length, d_model); as `Mixer` says, but for states.

        Raises
        ------
        UsageError
            For a sequence that is longer than `max_length`, or where a state is asked for.
        """
        if state is not None or return_state:
            raise no_state()
        parts = causal_conv1d(
            self.in_proj(x), self.conv_weight, self.conv_bias, reverse=reverse, seq_idx=seq_idx
        )
        *gates, v = parts.chunk(self.config.order + 1, dim=-1)
        with torch.autocast(x.device.type, enabled=False):
            y = self._convolve(v, gates[1:], reverse, seq_idx).to(x.dtype)
        return self.out_proj(y * gates[0]), None

    def _convolve(
        self, v: Tensor, gates: list[Tensor], reverse: bool, seq_idx: Tensor | None
    ) -> Tensor:
        """Pass v (batch, length, d_model) through gates and long filters, last gate first."""
        runs = _runs(seq_idx, *v.shape[:2])
        longest = max(end - start for _, start, end in runs)
        if longest > self.config.max_length:
            raise UsageError(
                f"hyena: {longest:,} tokens are more than the {self.config.max_length:,} that the "
                "model's positions reach"
            )
        wide = torch.promote_types(v.dtype, torch.float32)
        filters = self.filters(longest).to(wide).chunk(len(gates), dim=-1)
        biases = self.filters.bias.to(wide).chunk(len(gates))
        v = v.to(wide)
        for gate, taps, bias in zip(reversed(gates), filters, biases, strict=True):
            fed = v * gate.to(wide)
            pieces = [_long(fed[rows, start:end], taps, reverse) for rows, start, end in runs]
            v = _laid_out(pieces, runs, fed) + bias * fed
        return v

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Raise a UsageError: each position needs all that came before."""
        raise no_state()

    def initial_state(
        self, batch: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Any:
        """Raise a UsageError: there is no state."""
        raise no_state()


Run = tuple[slice, int, int]
"""Rows of a batch, and the positions of one sequence in them."""


def _runs(seq_idx: Tensor | None, batch: int, length: int) -> list[Run]:
    """List the sequences of a batch: whole rows, or those that are packed into each."""
    if seq_idx is None:
        return [(slice(None), 0, length)]
    runs = []
    for row, indices in enumerate(seq_idx):
        sizes = torch.unique_consecutive(indices, return_counts=True)[1].tolist()
        start = 0
        for size in sizes:
            runs.append((slice(row, row + 1), start, start + size))
            start += size
    return runs


def _laid_out(pieces: list[Tensor], runs: list[Run], like: Tensor) -> Tensor:
    """Put the sequences back into their rows."""
    if len(pieces) == 1:
        return pieces[0]
    y = torch.empty_like(like)
    for piece, (rows, start, end) in zip(pieces, runs, strict=True):
        y[rows, start:end] = piece
    return y


def _long(v: Tensor, taps: Tensor, reverse: bool) -> Tensor:
    """Convolve v (batch, length, channels) causally with taps (at least length, channels)."""
    length = v.shape[1]
    size = 2 * length
    v = v.flip(1) if reverse else v
    spectrum = torch.fft.rfft(v, n=size, dim=1) * torch.fft.rfft(taps[:length], n=size, dim=0)
    y: Tensor = torch.fft.irfft(spectrum, n=size, dim=1)[:, :length]
    return y.flip(1) if reverse else y


def no_state() -> UsageError:
    """Return the error for a state that is asked of a Hyena model."""
    return UsageError(
        "hyena has no state to carry: it cannot stream, generate or continue a sequence"
    )
