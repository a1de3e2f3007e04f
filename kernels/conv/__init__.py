"""The causal depthwise convolution of a Mamba block, channels last."""

from typing import Literal, overload

from torch import Tensor
from torch.distributed import ProcessGroup

from dnamamba.errors import UsageError
from dnamamba.kernels.checks import check_axes, check_tensor
from dnamamba.kernels.conv import reference
from dnamamba.kernels.conv.autograd import MAX_WIDTH, convolve, update
from dnamamba.kernels.dispatch import ALL_FUSED, fused_backend_for
from dnamamba.kernels.packing import check_sequence_index
from dnamamba.kernels.split import check_split, inputs_before, name_of

__all__ = ["causal_conv1d", "causal_conv1d_update"]


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Literal["silu"] | None = None,
    initial_state: Tensor | None = None,
    return_final_state: Literal[False] = False,
    reverse: bool = False,
    seq_idx: Tensor | None = None,
    backend: str = "auto",
    group: ProcessGroup | None = None,
) -> Tensor: ...


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Literal["silu"] | None = None,
    initial_state: Tensor | None = None,
    return_final_state: Literal[True],
    reverse: bool = False,
    seq_idx: Tensor | None = None,
    backend: str = "auto",
    group: ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]: ...


@overload
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Literal["silu"] | None = None,
    initial_state: Tensor | None = None,
    return_final_state: bool,
    reverse: bool = False,
    seq_idx: Tensor | None = None,
    backend: str = "auto",
    group: ProcessGroup | None = None,
) -> Tensor | tuple[Tensor, Tensor]: ...


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Literal["silu"] | None = None,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    reverse: bool = False,
    seq_idx: Tensor | None = None,
    backend: str = "auto",
    group: ProcessGroup | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolve each channel with its own taps over the last `width` inputs read.

    Computed in fp32 (fp64 where a tensor is fp64); differentiable in every tensor, the initial
    state included, and through the final state.

    Parameters
    ----------
    x
        (batch, length, channels).
    weight
        (channels, width); the last tap meets the current input.
    bias
        (channels,).
    activation
        `silu`, applied to the result, or None.
    initial_state
        (batch, width - 1, channels), the inputs read before the first, oldest first; None is zero.
    return_final_state
        Whether to give back the last inputs read, to go on from there.
    reverse
        Read from the last step to the first; the output keeps the input's order.
    seq_idx
        (batch, length) int32 or int64, for rows that pack several sequences: no tap reaches past a
        step where it changes. The initial state belongs to the first sequence read, the final
        state to the last, with zeros where that is shorter than width - 1.
    backend
        `auto`, or one of `dnamamba.kernels.dispatch.ALL_FUSED`. Triton convolves up to 4 taps;
        `auto` runs wider ones in PyTorch.
    group
        Processes that hold one part of the sequence each, in order, as in `selective_scan`.

    Returns
    -------
    y (batch, length, channels) in x's dtype; and with `return_final_state`, the final state
    (batch, width - 1, channels) in x's dtype.

    Raises
    ------
    UsageError
        For a tensor of the wrong shape, type or device, an unknown activation, or a backend that
        cannot run here.
    """
    batch, length, channels = check_axes("x", x, "(batch, length, channels)")
    _check(x, weight, bias, activation, channels)
    if initial_state is not None:
        shape = (batch, weight.shape[1] - 1, channels)
        axes = "(batch, width - 1, channels)"
        check_tensor("initial_state", initial_state, shape, axes, x.device)
    if seq_idx is not None:
        check_sequence_index(seq_idx, batch, length, x.device)
    split = name_of(group)
    if split:
        check_split(split, reverse=reverse, initial_state=initial_state, seq_idx=seq_idx)
        initial_state = inputs_before(
            x, weight.shape[1] - 1, split, reverse=reverse, initial=initial_state
        )
    silu = activation == "silu"
    chosen = _choose(backend, x, weight, bias, initial_state)
    if chosen == "reference":
        y, final_state = reference.causal_conv1d(
            x, weight, bias, silu, initial_state, seq_idx, reverse
        )
    else:
        y, final_state = convolve(
            x, weight, bias, initial_state, seq_idx, silu, reverse, return_final_state, chosen
        )
    return (y, final_state) if return_final_state else y


def causal_conv1d_update(
    x: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Literal["silu"] | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Take one step of `causal_conv1d`, for recurrent inference.

    Parameters
    ----------
    x
        (batch, channels).
    state
        (batch, width - 1, channels), the inputs before it, oldest first; left as it is.
    weight, bias, activation
        As in `causal_conv1d`.
    backend
        `auto`, or one of `dnamamba.kernels.dispatch.ALL_FUSED`.

    Returns
    -------
    y (batch, channels), and the new state (batch, width - 1, channels), both in x's dtype.

    Raises
    ------
    UsageError
        For a tensor of the wrong shape, type or device, an unknown activation, or a backend that
        cannot run here.
    """
    batch, channels = check_axes("x", x, "(batch, channels)")
    _check(x, weight, bias, activation, channels)
    shape = (batch, weight.shape[1] - 1, channels)
    check_tensor("state", state, shape, "(batch, width - 1, channels)", x.device)
    silu = activation == "silu"
    chosen = _choose(backend, x, weight, bias, state)
    if chosen != "reference":
        y, new_state = update(x, state, weight, bias, silu, chosen)
        return y, new_state
    y, new_state = reference.causal_conv1d(
        x[:, None], weight, bias, silu, state, seq_idx=None, reverse=False
    )
    return y[:, 0], new_state


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, channels: int
) -> None:
    if activation not in (None, "silu"):
        raise UsageError(f"activation {activation!r} is neither None nor 'silu'")
    check_tensor("x", x, x.shape, "any shape", x.device)
    width = check_axes("weight", weight, "(channels, width)")[1]
    check_tensor("weight", weight, (channels, width), "(channels, width)", x.device)
    if bias is not None:
        check_tensor("bias", bias, (channels,), "(channels,)", x.device)


def _choose(
    backend: str, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None
) -> str:
    """Choose a backend for these types and this width."""
    chosen = fused_backend_for(backend, x, weight, bias, state, backends=ALL_FUSED)
    width = weight.shape[1]
    if chosen == "triton" and width > MAX_WIDTH:
        if backend == "triton":
            raise UsageError(
                f'weight has width {width}; backend "triton" convolves up to {MAX_WIDTH} taps'
            )
        return "reference"
    return chosen
