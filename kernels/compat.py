"""The functions of mamba_ssm and causal_conv1d, by their names and signatures, on these kernels.

Published model code that imports them runs unchanged, on a GPU or a CPU, without a compiler. Their
layout is (batch, channels, length); here such a tensor is read as it lies, through a transposed
view, and results are views of channels-last memory. Beyond the originals, gradients flow through
the last state too, and results are repeatable bit by bit.

Two differences: A must be real, and a wrong argument is a `dnamamba.errors.UsageError`.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dnamamba.errors import UsageError
from dnamamba.kernels import conv, norm, scan
from dnamamba.kernels.checks import check_axes, check_tensor

__all__ = [
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "mamba_inner_fn",
    "selective_scan_fn",
    "selective_state_update",
]


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan as `mamba_ssm.ops.selective_scan_interface.selective_scan_fn` does.

    Parameters
    ----------
    u, delta, z
        (batch, channels, length).
    A
        (channels, state), real.
    B, C
        (batch, state, length), (batch, groups, state, length) or constant (channels, state).
    D, delta_bias
        (channels,).
    delta_softplus
        Whether delta passes through softplus after its bias.
    return_last_state
        Whether to give back the state after the last step.

    Returns
    -------
    y (batch, channels, length) in u's dtype; and with `return_last_state`, the last state
    (batch, channels, state), fp32 or fp64.

    Raises
    ------
    UsageError
        For a tensor of the wrong shape, type or device, named as in
        `dnamamba.kernels.selective_scan`, whose axes are the turned ones.
    """
    y, last_state = scan.selective_scan(
        _turned("u", u),
        _turned("delta", delta),
        A,
        _weight(B),
        _weight(C),
        D=D,
        z=None if z is None else _turned("z", z),
        delta_bias=delta_bias,
        delta_softplus=delta_softplus,
        return_last_state=True,
    )
    y = y.transpose(1, 2)
    return (y, last_state) if return_last_state else y


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Convolve as `causal_conv1d.causal_conv1d_fn` does.

    Parameters
    ----------
    x
        (batch, channels, length).
    weight
        (channels, width).
    bias
        (channels,).
    seq_idx
        (batch, length) int32 or int64; where it is negative, a step is padding and its output 0.
    initial_states
        (batch, channels, width - 1), the inputs before the first, oldest first.
    return_final_states
        Whether to give back the last inputs.
    final_states_out
        (batch, channels, width - 1), where to write them.
    activation
        None, `silu` or its other name, `swish`.

    Returns
    -------
    y (batch, channels, length) in x's dtype; and with `return_final_states`, the final states
    (batch, channels, width - 1): `final_states_out`, where that is given.

    Raises
    ------
    UsageError
        For a tensor of the wrong shape, type or device, or an unknown activation.
    """
    convolved = conv.causal_conv1d(
        _turned("x", x),
        weight,
        bias,
        activation=_activation(activation),
        initial_state=None if initial_states is None else _turned("initial_states", initial_states),
        return_final_state=return_final_states,
        seq_idx=seq_idx,
    )
    y, final_state = convolved if isinstance(convolved, tuple) else (convolved, None)
    if seq_idx is not None:
        y = y.masked_fill(seq_idx[..., None] < 0, 0)
    y = y.transpose(1, 2)
    if final_state is None:
        return y
    final_states = final_state.transpose(1, 2)
    return y, final_states if final_states_out is None else final_states_out.copy_(final_states)


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """Convolve the next steps as `causal_conv1d.causal_conv1d_update` does; `conv_state` changes.

    Parameters
    ----------
    x
        (batch, channels), or several steps (batch, channels, length).
    conv_state
        (batch, channels, kept) with kept at least width - 1: the last inputs, oldest first.
    weight, bias, activation
        As in `causal_conv1d_fn`.
    cache_seqlens
        (batch,) integers, how many inputs each row has seen. Then `conv_state` is a ring: input
        number i lies in slot i % kept, and only the slots of x are written.
    conv_state_indices
        (batch,) integers: `conv_state` holds more rows than x, and row i of x goes with this one. A
        row of x whose index is negative is padding: its output is 0, and no state changes.

    Returns
    -------
    y shaped as x, in its dtype. `conv_state` keeps no graph: no gradient flows through it.

    Raises
    ------
    UsageError
        For a tensor of the wrong shape, type or device, or an unknown activation.
    """
    steps = _turned("x", x[..., None] if x.dim() == 2 else x)
    batch, length, channels = steps.shape
    past = check_axes("weight", weight, "(channels, width)")[1] - 1
    kept = check_axes("conv_state", conv_state, "(batch, channels, kept)")[2]
    if kept < past:
        raise UsageError(f"conv_state keeps {kept} steps; a width of {past + 1} wants {past}")
    rows = len(conv_state) if conv_state_indices is not None else batch
    axes = "(batch, channels, kept)"
    check_tensor("conv_state", conv_state, (rows, channels, kept), axes, x.device)

    state = _rows(conv_state, conv_state_indices).transpose(1, 2)
    new = steps.to(state.dtype)
    if cache_seqlens is None:
        before, after = state[:, kept - past :], torch.cat([state, new], dim=1)[:, -kept:]
    else:
        numbers = cache_seqlens[:, None] + torch.arange(-past, length, device=x.device)
        slots = (numbers % kept).long()[..., None].expand(-1, -1, channels)
        before = state.gather(1, slots[:, :past])
        # Where there are more steps than the ring keeps, the last of them stay in it.
        after = state.scatter(1, slots[:, past:][:, -kept:], new[:, -kept:])
    y = conv.causal_conv1d(
        steps,
        weight,
        bias,
        activation=_activation(activation),
        initial_state=before.to(x.dtype),
    )
    _write_rows(conv_state, conv_state_indices, after.transpose(1, 2))
    y = _without_padding(y.transpose(1, 2), conv_state_indices)
    return y.squeeze(2) if x.dim() == 2 else y


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """Take one step as `mamba_ssm.ops.triton.selective_state_update` does; `state` changes.

    Every shape may have heads, before its channels: they count as more channels.

    Parameters
    ----------
    state
        (batch, [heads,] channels, state).
    x, dt, z
        (batch, [heads,] channels).
    A
        ([heads,] channels, state).
    B, C
        (batch, state) or (batch, groups, state); the groups divide the heads.
    D, dt_bias
        ([heads,] channels).
    dt_softplus
        Whether dt passes through softplus after its bias.
    state_batch_indices
        (batch,) integers: `state` holds more rows than x, and row i of x goes with this one. A row
        of x whose index is negative is padding: its output is 0, and no state changes.

    Returns
    -------
    y shaped as x, in its dtype. `state` keeps no graph: no gradient flows through it.

    Raises
    ------
    UsageError
        For a tensor of the wrong shape, type or device.
    """
    heads = state.dim() - 3
    if heads not in (0, 1):
        wanted = "(batch, channels, state) or (batch, heads, channels, state)"
        raise UsageError(f"state has shape {tuple(state.shape)}; {wanted} is wanted")

    for name, weight in (("B", B), ("C", C)):
        if heads and weight.dim() == 3 and state.shape[1] % weight.shape[1]:
            groups = weight.shape[1]
            raise UsageError(
                f"{name} has {groups} groups, which do not divide {state.shape[1]} heads"
            )

    def merged(tensor: Tensor, axis: int) -> Tensor:
        """Count heads, at `axis`, as channels, which follow them."""
        return tensor.flatten(axis, axis + heads)

    y, new = scan.selective_state_update(
        _rows(merged(state, 1), state_batch_indices),
        merged(x, 1),
        merged(dt, 1),
        merged(A, 0),
        B,
        C,
        D=None if D is None else merged(D, 0),
        z=None if z is None else merged(z, 1),
        delta_bias=None if dt_bias is None else merged(dt_bias, 0),
        delta_softplus=dt_softplus,
    )
    _write_rows(state, state_batch_indices, new.view(len(new), *state.shape[1:]))
    return _without_padding(y.view(x.shape), state_batch_indices)


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:
    """Run a Mamba block after its first projection, as mamba_ssm's function of this name does.

    Parameters
    ----------
    xz
        (batch, 2 * channels, length): the input of the convolution, and the gate.
    conv1d_weight, conv1d_bias
        (channels, 1, width) and (channels,); SiLU follows.
    x_proj_weight
        (rank + state for each of B and C that is None, channels): delta before its projection, then
        B, then C.
    delta_proj_weight
        (channels, rank).
    out_proj_weight, out_proj_bias
        (d_model, channels) and (d_model,).
    A, D, delta_bias, delta_softplus
        As in `selective_scan_fn`.
    B, C
        As in `selective_scan_fn`; None takes it from `x_proj_weight`.
    B_proj_bias, C_proj_bias
        (state,), added to a B or C that is projected.
    checkpoint_lvl
        Only there to be accepted: it sets what the original keeps for its backward.
    b_rms_weight, c_rms_weight, dt_rms_weight
        (state,), (state,) and (rank,): where given, a projected B, C or delta is normalised by its
        root mean square.
    b_c_dt_rms_eps
        Added to those mean squares.

    Returns
    -------
    (batch, length, d_model).

    Raises
    ------
    UsageError
        For a tensor of the wrong shape, type or device.
    """
    x, z = _turned("xz", xz).chunk(2, dim=-1)
    u = conv.causal_conv1d(x, conv1d_weight.squeeze(1), conv1d_bias, activation="silu")
    projected = F.linear(u, x_proj_weight)
    rank, state = delta_proj_weight.shape[1], A.shape[1]

    def normalised(part: Tensor, bias: Tensor | None, weight: Tensor | None) -> Tensor:
        part = part if bias is None else part + bias.to(part.dtype)
        if weight is None:
            return part
        # FalconMamba's code gives a weight longer than delta's rank, of which the first are read.
        return norm.rms_norm(part, weight[: part.shape[-1]], b_c_dt_rms_eps)

    low = normalised(projected[..., :rank], None, dt_rms_weight)
    y = scan.selective_scan(
        u,
        F.linear(low, delta_proj_weight),
        A,
        normalised(projected[..., rank : rank + state], B_proj_bias, b_rms_weight)
        if B is None
        else _weight(B),
        normalised(projected[..., -state:], C_proj_bias, c_rms_weight) if C is None else _weight(C),
        D=D,
        z=z,
        delta_bias=delta_bias,
        delta_softplus=delta_softplus,
    )
    bias = None if out_proj_bias is None else out_proj_bias.to(out_proj_weight.dtype)
    return F.linear(y, out_proj_weight, bias)


def _turned(name: str, tensor: Tensor) -> Tensor:
    """View (batch, channels, length) as (batch, length, channels)."""
    check_axes(name, tensor, "(batch, channels, length)")
    return tensor.transpose(1, 2)


def _weight(weight: Tensor) -> Tensor:
    """View a B or C whose length is last as one whose state is; a constant stays."""
    if weight.dim() == 4:
        return weight.permute(0, 3, 1, 2)
    return weight.transpose(1, 2) if weight.dim() == 3 else weight


def _activation(name: str | None) -> Literal["silu"] | None:
    if name not in (None, "silu", "swish"):
        raise UsageError(f"activation {name!r} is none of None, 'silu' and 'swish'")
    return None if name is None else "silu"


def _rows(states: Tensor, indices: Tensor | None) -> Tensor:
    """Take the state of each row of a batch; what padding gets does not matter."""
    return states if indices is None else states[indices.clamp(min=0)]


def _write_rows(states: Tensor, indices: Tensor | None, new: Tensor) -> None:
    """Put back the state of each row of a batch, but for padding."""
    new = new.detach().to(states.dtype)
    if indices is None:
        states.copy_(new)
        return
    # A row of padding writes what some live row writes, or where none lives what is there already:
    # so nothing has to be counted, which would wait for the GPU.
    live = indices >= 0
    source = torch.where(
        live, torch.arange(len(indices), device=indices.device), live.int().argmax()
    )
    shape = (-1,) + (1,) * (new.dim() - 1)
    new = torch.where(live.view(shape), new, _rows(states, indices))
    states.index_copy_(0, indices.clamp(min=0)[source].long(), new[source])


def _without_padding(y: Tensor, indices: Tensor | None) -> Tensor:
    """Set the rows of padding to 0."""
    return y if indices is None else y.masked_fill((indices < 0).view(-1, *[1] * (y.dim() - 1)), 0)
