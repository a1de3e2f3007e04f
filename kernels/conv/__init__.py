"""The causal depthwise convolution of a Mamba block, channels last."""

from typing import Literal, overload

from torch import Tensor

from dnamamba.errors import UsageError
from dnamamba.kernels.checks import check_axes, check_tensor
from dnamamba.kernels.conv import reference

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
) -> tuple[Tensor, Tensor]: ...


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Literal["silu"] | None = None,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    reverse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolve each channel with its own taps over the last `width` inputs read.

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

    Returns
    -------
    y (batch, length, channels) in x's dtype; and with `return_final_state`, the final state
    (batch, width - 1, channels) in x's dtype.

    Raises
    ------
    UsageError
        For a tensor of the wrong shape, type or device, or an unknown activation.
    """
    batch, _, channels = check_axes("x", x, "(batch, length, channels)")
    _check(x, weight, bias, activation, channels)
    if initial_state is not None:
        shape = (batch, weight.shape[1] - 1, channels)
        axes = "(batch, width - 1, channels)"
        check_tensor("initial_state", initial_state, shape, axes, x.device)
    y, final_state = reference.causal_conv1d(
        x, weight, bias, activation == "silu", initial_state, reverse
    )
    return (y, final_state) if return_final_state else y


def causal_conv1d_update(
    x: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Literal["silu"] | None = None,
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

    Returns
    -------
    y (batch, channels), and the new state (batch, width - 1, channels).

    Raises
    ------
    UsageError
        For a tensor of the wrong shape, type or device, or an unknown activation.
    """
    batch, channels = check_axes("x", x, "(batch, channels)")
    _check(x, weight, bias, activation, channels)
    shape = (batch, weight.shape[1] - 1, channels)
    check_tensor("state", state, shape, "(batch, width - 1, channels)", x.device)
    y, state = reference.causal_conv1d(
        x[:, None], weight, bias, activation == "silu", state, reverse=False
    )
    return y[:, 0], state


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, channels: int
) -> None:
    if activation not in (None, "silu"):
        raise UsageError(f"activation {activation!r} is neither None nor 'silu'")
    width = check_axes("weight", weight, "(channels, width)")[1]
    check_tensor("weight", weight, (channels, width), "(channels, width)", x.device)
    if bias is not None:
        check_tensor("bias", bias, (channels,), "(channels,)", x.device)
