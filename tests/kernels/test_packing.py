"""Cumulative lengths as an index, and where a packed row's sequences start."""

import pytest
import torch

from dnamamba.errors import UsageError
from dnamamba.kernels import sequence_index
from dnamamba.kernels.packing import sequence_starts


@pytest.mark.parametrize(
    ("lengths", "length", "wanted"),
    [
        ([0, 3], None, [0, 0, 0]),
        ([0, 1, 4, 6], None, [0, 1, 1, 1, 2, 2]),
        ([0, 2, 2, 3], None, [0, 0, 2]),
        ([0, 2, 3], 5, [0, 0, 1, 2, 2]),
    ],
    ids=["one", "three", "empty", "padded"],
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=["int32", "int64"])
def test_index_counts_the_sequences(
    lengths: list[int], length: int | None, wanted: list[int], dtype: torch.dtype
) -> None:
    index = sequence_index(torch.tensor(lengths, dtype=dtype), length)
    assert index.dtype == torch.int32
    assert index.tolist() == [wanted]


@pytest.mark.parametrize(
    ("cu_seqlens", "length", "words"),
    [
        (torch.tensor([[0, 3]]), None, "cu_seqlens has shape (1, 2)"),
        (torch.tensor([0]), None, "cu_seqlens has shape (1,)"),
        (torch.tensor([0.0, 3.0]), None, "type torch.float32"),
        (torch.tensor([1, 3]), None, "does not rise from 0"),
        (torch.tensor([0, 3, 2]), None, "does not rise from 0"),
        (torch.tensor([0, 0]), None, "does not rise from 0"),
        (torch.tensor([0, 3, 7]), 6, "length is 6; cu_seqlens ends at 7"),
    ],
)
def test_wrong_lengths_are_named(cu_seqlens: torch.Tensor, length: int | None, words: str) -> None:
    with pytest.raises(UsageError) as error:
        sequence_index(cu_seqlens, length)
    assert words in str(error.value)


def test_starts_are_where_the_step_read_before_differs() -> None:
    index = torch.tensor([[0, 0, 1, 1, 1, 0], [7, 7, 7, 7, 7, 7]])
    ahead, back = (sequence_starts(index, reverse).int().tolist() for reverse in (False, True))
    assert ahead == [[0, 0, 1, 0, 0, 1], [0] * 6]
    assert back == [[0, 1, 0, 0, 1, 0], [0] * 6]
    assert not sequence_starts(torch.zeros(1, 1).int(), False).any()
