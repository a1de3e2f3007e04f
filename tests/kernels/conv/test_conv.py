"""The convolution against PyTorch's, and what it carries over a cut."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.errors import UsageError
from dnamamba.kernels import causal_conv1d, causal_conv1d_update


def draw(length: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(2, length, 5, generator=generator, dtype=torch.float64),
        torch.randn(5, width, generator=generator, dtype=torch.float64),
        torch.randn(5, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 50])
def test_equals_a_padded_depthwise_convolution(length: int, width: int) -> None:
    x, weight, bias = draw(length, width)
    y = causal_conv1d(x, weight, bias, activation="silu")
    padded = F.pad(x.transpose(1, 2), (width - 1, 0))
    wanted = F.silu(F.conv1d(padded, weight[:, None], bias, groups=5)).transpose(1, 2)
    torch.testing.assert_close(y, wanted)


@settings(max_examples=20, deadline=None)
@given(
    length=st.integers(2, 30),
    cut=st.integers(1, 29),
    width=st.integers(2, 4),
    reverse=st.booleans(),
)
def test_split_anywhere_equals_the_whole(length: int, cut: int, width: int, reverse: bool) -> None:
    cut = min(cut, length - 1)
    x, weight, bias = draw(length, width)
    whole, state = causal_conv1d(x, weight, bias, return_final_state=True, reverse=reverse)
    parts = (x[:, cut:], x[:, :cut]) if reverse else (x[:, :cut], x[:, cut:])
    first, carried = causal_conv1d(parts[0], weight, bias, return_final_state=True, reverse=reverse)
    second, final = causal_conv1d(
        parts[1], weight, bias, initial_state=carried, return_final_state=True, reverse=reverse
    )
    torch.testing.assert_close(torch.cat([second, first] if reverse else [first, second], 1), whole)
    torch.testing.assert_close(final, state)


def test_reverse_equals_flipped_copies() -> None:
    x, weight, bias = draw(17, 4)
    torch.testing.assert_close(
        causal_conv1d(x, weight, bias, reverse=True),
        causal_conv1d(x.flip(1), weight, bias).flip(1),
    )


def test_steps_equal_the_convolution() -> None:
    x, weight, bias = draw(9, 4)
    y = causal_conv1d(x, weight, bias, activation="silu")
    state = x.new_zeros(2, 3, 5)
    for t in range(9):
        out, state = causal_conv1d_update(x[:, t], state, weight, bias, activation="silu")
        torch.testing.assert_close(out, y[:, t])


def test_gradients() -> None:
    x, weight, bias = (tensor.requires_grad_() for tensor in draw(6, 3))
    state = torch.randn(2, 2, 5, dtype=torch.float64, requires_grad=True)

    def run(*tensors: torch.Tensor) -> Any:
        x, weight, bias, state = tensors
        return causal_conv1d(
            x, weight, bias, activation="silu", initial_state=state, return_final_state=True
        )

    assert torch.autograd.gradcheck(run, (x, weight, bias, state))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": torch.ones(4, 3)}, "weight has shape (4, 3)"),
        ({"bias": torch.ones(3)}, "bias has shape (3,)"),
        ({"activation": "relu"}, "activation 'relu'"),
        ({"initial_state": torch.ones(2, 3, 5)}, "initial_state has shape (2, 3, 5)"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], words: str) -> None:
    x, weight, bias = (tensor.float() for tensor in draw(6, 3))
    with pytest.raises(UsageError) as error:
        causal_conv1d(**{"x": x, "weight": weight, "bias": bias, **change})
    assert words in str(error.value)
