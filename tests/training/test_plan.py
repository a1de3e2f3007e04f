"""The sizes of a run that nobody gave."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from dnamamba.errors import DnamambaError
from dnamamba.training import plan
from dnamamba.training.objectives import NextBase


def test_the_default_length_leaves_eight_windows_in_the_longest_contig() -> None:
    sizes = plan.sizes_for(torch.device("cpu"))
    assert plan.default_length(sizes, [10**6]) == sizes.length
    assert plan.default_length(sizes, [16_569, 16_554]) == 1024
    assert plan.default_length(sizes, [1000]) == 64


def test_steps_fit_the_time_and_the_passes() -> None:
    assert plan.affordable_steps(1.0, 1024, 10**9) == plan.SECONDS
    assert plan.affordable_steps(1e-6, 1024, 10_240) == plan.PASSES * 10
    assert plan.affordable_steps(1e6, 1024, 10**9) == 1


@pytest.mark.parametrize(("held_out", "times"), [(1, 10), (100_000, 6), (10**9, 1)])
def test_validations_take_a_bounded_share(held_out: int, times: int) -> None:
    steps, step_bases = 1000, 1000
    every = plan.steps_between_validations(steps, step_bases, held_out)
    assert -(-steps // every) == times
    if times > 1:
        assert times * held_out / 3 <= plan.VALIDATION_SHARE * steps * step_bases


class Hungry(nn.Module):
    """Runs out of memory above `windows` windows."""

    def __init__(self, windows: int) -> None:
        super().__init__()
        self.windows = windows
        self.weight = nn.Parameter(torch.zeros(8))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if len(ids) > self.windows:
            raise torch.OutOfMemoryError("too many windows")
        return self.weight.expand(*ids.shape, 8)


def test_the_micro_batch_is_halved_until_it_fits() -> None:
    codes = torch.randint(0, 4, (8, 16), dtype=torch.uint8)
    objective = NextBase(lambda codes: codes.long())
    assert plan.largest_micro_batch(Hungry(3), objective, codes, nullcontext) == 2
    with pytest.raises(DnamambaError, match="16 bases does not fit"):
        plan.largest_micro_batch(Hungry(0), objective, codes, nullcontext)
