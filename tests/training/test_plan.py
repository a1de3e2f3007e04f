import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dnamamba.errors import DnamambaError
from dnamamba.training import plan
from dnamamba.training.objectives import NextBase

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def tokens(codes: Tensor) -> Tensor:
    return (codes & 7).long()


class Hungry(nn.Module):
    """Holds so many bases at once and no more."""

    def __init__(self, bases: int) -> None:
        super().__init__()
        self.bases = bases
        self.logits = nn.Embedding(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        if ids.numel() > self.bases:
            raise torch.OutOfMemoryError("no more")
        logits: Tensor = self.logits(ids)
        return logits


@pytest.mark.parametrize(("bases", "windows"), [(10_000, 12), (700, 6), (300, 3), (200, 1)])
def test_a_micro_batch_is_halved_until_it_fits(bases: int, windows: int) -> None:
    model = Hungry(bases)
    codes = torch.zeros(12, 100, dtype=torch.uint8)
    found = plan.largest_micro_batch(model, NextBase(tokens), codes, contextlib.nullcontext)
    assert found == windows
    assert model.logits.weight.grad is None


def test_a_window_that_does_not_fit_is_an_error_with_a_cure() -> None:
    codes = torch.zeros(4, 100, dtype=torch.uint8)
    with pytest.raises(DnamambaError, match=r"window of 100 bases .* --length"):
        plan.largest_micro_batch(Hungry(50), NextBase(tokens), codes, contextlib.nullcontext)


def test_lengths_shrink_for_short_genomes_only() -> None:
    small, large = plan.sizes_for(CPU), plan.sizes_for(CUDA)
    assert plan.default_length(small, [63_000_000]) == 1024
    assert plan.default_length(large, [100, 63_000_000]) == 8192
    assert plan.default_length(large, [16_569]) == 2048
    assert plan.default_length(small, [900]) == 64
    assert plan.default_length(small, []) == 16


def test_steps_fill_the_time_or_the_passes() -> None:
    assert plan.affordable_steps(0.1, 1000, 10**9) == 4800
    assert plan.affordable_steps(0.123, 1000, 10**9) == 3900
    assert plan.affordable_steps(0.001, 1000, 200_000) == plan.PASSES * 200
    assert plan.affordable_steps(10_000.0, 1000, 10**9) == 1


@given(seconds=st.floats(1e-4, 1e5), bases=st.integers(1, 10**10))
def test_steps_never_take_longer_than_there_is_time(seconds: float, bases: int) -> None:
    steps = plan.affordable_steps(seconds, 1024, bases)
    assert steps == 1 or steps * seconds <= plan.SECONDS
