"""How a length warm-up cuts a run."""

import pytest

from dnamamba.errors import UsageError
from dnamamba.training.stages import Stage, lengths_up_to, plan_stages


def test_windows_double_and_steps_keep_their_bases() -> None:
    assert plan_stages(10, 1024, 2, 256) == [
        Stage(range(3), 256, 8),
        Stage(range(3, 6), 512, 4),
        Stage(range(6, 10), 1024, 2),
    ]


def test_without_a_warm_up_there_is_one_stage() -> None:
    assert plan_stages(10, 1000, 3, None) == [Stage(range(10), 1000, 3)]
    assert plan_stages(10, 1000, 3, 1000) == [Stage(range(10), 1000, 3)]


@pytest.mark.parametrize(("length", "first"), [(1024, 100), (1000, 256), (64, 128), (96, 32)])
def test_lengths_have_to_double(length: int, first: int) -> None:
    with pytest.raises(UsageError, match=f"length_warmup {first}: .* length {length}"):
        lengths_up_to(length, first)


def test_every_stage_needs_a_step() -> None:
    with pytest.raises(UsageError, match="its 3 lengths take as many steps"):
        plan_stages(2, 64, 1, 16)
