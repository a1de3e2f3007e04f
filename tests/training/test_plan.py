"""The sizes of a run that nobody gave."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from dnamamba.errors import DnamambaError
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.block import Recompute
from dnamamba.models.heads import LanguageModel
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


class Hungry(LanguageModel):
    """Runs out of memory above `most` windows, twice as many if all but scans are made again."""

    def __init__(self, most: float) -> None:
        super().__init__(ModelConfig(d_model=8, n_layer=1, d_state=2))
        self.most = most

    def nats(self, ids: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if len(ids) > self.most * (1 if self.recompute == "none" else 2):
            raise torch.OutOfMemoryError("too many windows")
        return super().nats(ids, *arguments, **options)


CODES = torch.randint(0, 4, (8, 16), dtype=torch.uint8)
WAYS: tuple[Recompute, ...] = ("none", "scan")


@pytest.mark.parametrize(
    ("most", "found"), [(8, (8, "none")), (3, (2, "none")), (0.5, (1, "scan"))]
)
def test_passes_get_smaller_before_more_is_made_again(
    most: float, found: tuple[int, Recompute]
) -> None:
    model = Hungry(most)
    fitted = plan.fit_memory(model, NextBase(model.tokens), CODES, nullcontext, recompute=WAYS)
    assert fitted == found
    assert model.recompute == found[1]


def test_a_pass_of_a_given_size_can_only_make_more_again() -> None:
    model = Hungry(4)
    objective = NextBase(model.tokens)
    found = plan.fit_memory(model, objective, CODES, nullcontext, recompute=WAYS, whole=True)
    assert found == (8, "scan")


def test_what_does_not_fit_is_told_with_the_ways_out() -> None:
    model = Hungry(0)
    objective = NextBase(model.tokens)
    with pytest.raises(
        DnamambaError, match=r"1 x 16 bases .* smaller --length or --preset, or --recompute block"
    ):
        plan.fit_memory(model, objective, CODES, nullcontext, recompute=WAYS)
    with pytest.raises(DnamambaError, match=r"8 x 16 bases .* --micro-batch, --length"):
        plan.fit_memory(model, objective, CODES, nullcontext, recompute=WAYS, whole=True)
