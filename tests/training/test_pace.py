import time

import pytest

from dnamamba.training.pace import Stopwatch, overall


def test_what_is_done_aside_is_left_out_even_where_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [5.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stopwatch = Stopwatch()

    def fail() -> None:
        with stopwatch.aside():
            now[0] += 3.0
            raise ValueError("broken off")

    with pytest.raises(ValueError, match="broken off"):
        fail()
    now[0] += 2.0
    assert stopwatch.lap(10).bases_per_second == 5.0


def test_batches_pass_as_they_are() -> None:
    assert list(Stopwatch().waiting(iter("abc"))) == ["a", "b", "c"]


def test_a_run_as_a_whole_weighs_each_step_by_its_time() -> None:
    metrics = {
        "step": ["1", "2", "2", "3"],
        "bases": ["100", "200", "200", "300"],
        "bases_per_second": ["", "100", "", "25"],
        "wait_share": ["", "0.5", "", "0"],
    }
    pace = overall(metrics)
    assert pace is not None
    assert pace.bases_per_second == pytest.approx(200 / 5)
    assert pace.wait_share == pytest.approx(0.5 / 5)


def test_a_run_that_was_not_timed_has_no_pace() -> None:
    assert overall({"step": ["1"], "bases": ["100"]}) is None
    untimed = {"step": ["1"], "bases": ["9"], "bases_per_second": [""], "wait_share": [""]}
    assert overall(untimed) is None
