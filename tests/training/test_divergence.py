"""An explosion is told from noise, by steps alone."""

import math
from collections.abc import Iterable

import numpy as np
import pytest

from dnamamba.training.divergence import EXPLODED_BITS, PATIENCE, DivergedError, Watch

HIGH = EXPLODED_BITS + 0.1


def watch(losses: Iterable[float], first: int = 1) -> Watch:
    watch = Watch()
    for step, bits in enumerate(losses, first):
        watch.see(step, bits)
    return watch


def test_high_losses_in_a_row_are_an_explosion() -> None:
    with pytest.raises(DivergedError, match=f"from step 4 to step {3 + PATIENCE}") as raised:
        watch([3.0, 2.5, 2.0, *[HIGH] * 50])
    assert raised.value.steps == range(2, 3 + PATIENCE)


def test_an_explosion_from_the_first_step_on_has_no_step_before() -> None:
    with pytest.raises(DivergedError) as raised:
        watch([HIGH] * 50)
    assert raised.value.steps == range(PATIENCE)


@pytest.mark.parametrize("relief", [2.0, math.nan])
def test_spikes_are_not(relief: float) -> None:
    spike = [math.inf] * (PATIENCE - 1)
    assert watch([*spike, relief] * 20).calm
    assert not watch([2.0, *spike]).calm


def test_noise_and_a_slow_start_are_not() -> None:
    rng = np.random.default_rng(0)
    start = np.linspace(6.0, 1.9, 5000)
    noise = rng.standard_t(3, size=start.size) * 0.3
    assert watch((start + noise).tolist()) is not None
