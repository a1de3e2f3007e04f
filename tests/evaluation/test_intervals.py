import math

import numpy as np
import pytest

from dnamamba.errors import UsageError
from dnamamba.evaluation.intervals import block_bootstrap


def test_the_estimate_is_the_ratio_of_sums() -> None:
    interval = block_bootstrap([10.0, 30.0, 0.0], [5, 15, 0])
    assert interval.estimate == 2.0
    assert interval.low == interval.high == 2.0


def test_independent_windows_are_covered_as_promised() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        counts = rng.integers(50, 150, 200)
        interval = block_bootstrap(
            rng.normal(1.9, 0.3, 200) * counts, counts, block=1, resamples=400
        )
        hits += interval.low < 1.9 < interval.high
    assert 180 <= hits <= 199


def test_neighbours_that_resemble_each_other_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    totals = np.repeat(rng.normal(2, 0.1, 50), 10)
    apart = block_bootstrap(totals, np.ones(500), block=1)
    together = block_bootstrap(totals, np.ones(500), block=10)
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_equal_seeds_give_equal_intervals() -> None:
    totals = np.random.default_rng(2).normal(2, 0.1, 30)
    one, again, other = (block_bootstrap(totals, np.ones(30), seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_one_window_has_no_interval() -> None:
    interval = block_bootstrap([3.8], [2])
    assert interval.estimate == pytest.approx(1.9)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


@pytest.mark.parametrize(
    ("counts", "settings"),
    [([0, 0], {}), ([], {}), ([1, 1], {"block": 3}), ([1, 1], {"level": 1.0})],
)
def test_what_has_no_answer_is_refused(counts: list[int], settings: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        block_bootstrap([1.0] * len(counts), counts, **settings)
