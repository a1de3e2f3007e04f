import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnamamba.training.schedule import learning_rate


def test_warms_up_to_the_peak_and_comes_down_to_the_floor() -> None:
    rates = [learning_rate(step, 100, 8e-3, floor=0.1) for step in range(101)]
    assert rates[0] == pytest.approx(8e-4)
    assert rates[9] == rates[10] == pytest.approx(8e-3)
    assert rates[55] == pytest.approx(8e-3 * 0.55)
    assert rates[100] == pytest.approx(8e-4)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


@given(steps=st.integers(1, 5000), floor=st.floats(0, 1), warmup=st.floats(0, 1))
def test_every_step_learns_and_none_above_the_peak(steps: int, floor: float, warmup: float) -> None:
    for step in {0, steps // 3, steps - 1}:
        rate = learning_rate(step, steps, 1e-2, warmup=warmup, floor=floor)
        assert 0 < rate <= 1e-2
