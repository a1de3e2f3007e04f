"""The pre-norm residual block that every mixer lives in, and what it keeps for its backward.

A block's activations take some fifteen times the memory of its input. With recompute "scan" it
keeps its input and what the scan gives, and makes all else again in the backward; with "block" its
input alone. The input is kept in the type that matrices are multiplied in: bf16 under autocast. The
residual stream stays fp32.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from dnamamba.kernels import rms_norm
from dnamamba.kernels.conv.autograd import MAX_WIDTH
from dnamamba.kernels.dispatch import scan_backend_for
from dnamamba.kernels.norm.autograd import MAX_CHANNELS
from dnamamba.kernels.scan.inputs import MAX_STATES
from dnamamba.kernels.split import name_of
from dnamamba.models.mixers import Mixer
from dnamamba.models.mixers.mamba import BiMamba, Mamba, MambaState, directions
from dnamamba.models.projection import is_matrix, matrix_of

Recompute = Literal["none", "scan", "block"]
"""What is made again in the backward: nothing, all but scans, or whole blocks."""


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the channels, computed in fp32 (arXiv 1910.07467)."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Norm x (..., d_model), or x + residual in one pass.

        Returns
        -------
        The norm of x in the weight's dtype, so that the next module fits; or that of the sum in x's
        dtype, which a module made, and the sum in residual's.
        """
        if residual is None:
            return rms_norm(x, self.weight, self.eps).to(self.weight.dtype)
        return rms_norm(x, self.weight, self.eps, residual=residual)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the channels (arXiv 1607.06450)."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Norm x (..., d_model), or x + residual; as `RMSNorm` does."""
        total = x if residual is None else x + residual
        wide = torch.promote_types(total.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        normed = functional.layer_norm(total.to(wide), weight.shape, weight, bias, self.eps)
        return normed.to(self.weight.dtype) if residual is None else (normed.to(x.dtype), total)


class Block(nn.Module):
    """mixer(norm(residual)), whose sum with residual the next block makes in its norm's pass.

    The residual stream stays fp32 under autocast too.

    Parameters
    ----------
    mixer
        A module with the signature of `Mixer`.
    norm
        What norms the stream before it.
    """

    def __init__(self, mixer: nn.Module, norm: RMSNorm | LayerNorm) -> None:
        super().__init__()
        self.recompute: Recompute = "none"
        self.norm = norm
        self.mixer = mixer

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        state: Any = None,
        *,
        return_state: bool = False,
        seq_idx: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Any]:
        """Mix x + residual, both (batch, length, d_model).

        Parameters
        ----------
        x
            The output of the block before; of the first block, the stream itself.
        residual
            What x is still to be added to; None for the first block.
        state
            What the mixer continues.
        return_state
            Whether to give back the mixer's state.
        seq_idx
            As `Mixer` has it.

        Returns
        -------
        The mixer's output, the residual that it is still to be added to, and the state or None.
        """
        dtype = _multiplied_in(self.norm.weight)
        stateful = state is not None or return_state
        plain = seq_idx is None and isinstance(self.norm, RMSNorm)
        if plain and _fuses(self.mixer, x, dtype, stateful):
            return self._fused(dtype, x, residual, state, return_state)
        if self.recompute == "none" or not torch.is_grad_enabled():
            normed, residual = self._norm(x, residual)
            y, state = self.mixer(normed, state, return_state=return_state, seq_idx=seq_idx)
            return y, residual, state
        residual = x if residual is None else x + residual
        y, state = checkpoint(
            self._norm_and_mix,
            residual.to(dtype),
            state,
            return_state,
            seq_idx,
            use_reentrant=False,
            preserve_rng_state=False,
            **_context(self.recompute),
        )
        return y, residual, state

    def _fused(
        self,
        dtype: torch.dtype,
        x: Tensor,
        residual: Tensor | None,
        state: MambaState | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor, MambaState | None]:
        from dnamamba.models.mixers.fused import Direction, FusedBlock, Options, Shared

        mixer = cast(Mamba | BiMamba, self.mixer)
        ways = directions(mixer)
        shared = Shared(self.norm.weight, matrix_of(mixer.in_proj), matrix_of(mixer.out_proj))
        weights = [
            Direction(
                way.conv1d.weight.squeeze(1),
                way.conv1d.bias,
                matrix_of(way.x_proj),
                matrix_of(way.dt_proj),
                way.dt_proj.bias,
                way.A_log,
                way.D,
            )
            for way in ways
        ]
        options = Options(self.norm.eps, dtype, self.recompute, name_of(ways[0].group))
        conv, scan = state or (None, None)
        y, total, conv, scan = FusedBlock.apply(  # type: ignore[no-untyped-call]
            options, return_state, x, residual, conv, scan, *shared, *itertools.chain(*weights)
        )
        after = MambaState(conv, scan) if return_state else None
        return y, x if total is None else total, after

    def _norm_and_mix(
        self, stream: Tensor, state: Any, return_state: bool, seq_idx: Tensor | None
    ) -> tuple[Tensor, Any]:
        normed = self.norm(stream).to(stream.dtype)
        y, state = self.mixer(normed, state, return_state=return_state, seq_idx=seq_idx)
        return y, state

    def step(self, x: Tensor, residual: Tensor | None, state: Any) -> tuple[Tensor, Tensor, Any]:
        """Do the same for one position, (batch, d_model)."""
        normed, residual = self._norm(x, residual)
        y, state = cast(Mixer, self.mixer).step(normed, state)
        return y, residual, state

    def _norm(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Norm x + residual, and return the sum too."""
        return (self.norm(x), x) if residual is None else self.norm(x, residual)


def _multiplied_in(weight: Tensor) -> torch.dtype:
    """Return the type in which a product with a weight is computed here."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def _fuses(mixer: nn.Module, x: Tensor, dtype: torch.dtype, stateful: bool) -> bool:
    """Tell whether `mixers.fused` can take a block's input x, to compute in `dtype`.

    It multiplies with the projections' matrices, so they have to be no more than these.
    """
    ways = directions(mixer)
    return (
        len(ways) in ((1,) if stateful else (1, 2))
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and x.numel() > 0
        and x.shape[-1] <= MAX_CHANNELS
        and scan_backend_for(ways[0].backend, x.device, dtype) == "triton"
        and ways[0].A_log.shape[1] <= MAX_STATES
        and ways[0].conv1d.weight.shape[-1] <= MAX_WIDTH
        and all(map(is_matrix, _projections(mixer)))
    )


def _projections(mixer: nn.Module) -> Iterator[nn.Module]:
    yield mixer.get_submodule("in_proj")
    yield mixer.get_submodule("out_proj")
    for way in directions(mixer):
        yield from (way.x_proj, way.dt_proj)


def _context(recompute: Recompute) -> dict[str, Any]:
    """Give what `checkpoint` is told about the ops whose results are kept."""
    if recompute == "block":
        return {}
    kept = [torch.ops.dnamamba.selective_scan.default]
    return {"context_fn": functools.partial(create_selective_checkpoint_contexts, kept)}
