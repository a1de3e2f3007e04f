import math

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score, log_loss

from dnamamba.errors import UsageError
from dnamamba.evaluation.calls import Calls, combine, temperature_for, threshold_for


def drawn(windows: int = 300, seed: int = 0, skill: float = 1.0) -> Calls:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, windows)
    logits = random.normal(size=(windows, 3)) + skill * np.eye(3)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Calls(("a", "b", "c"), probabilities, labels, np.arange(windows) // 3)


def given(rows: list[list[float]], labels: list[int], loci: list[int] | None = None) -> Calls:
    names = tuple("abc"[: len(rows[0])])
    numbers = np.array(loci if loci is not None else range(len(labels)))
    return Calls(names, np.array(rows), np.array(labels), numbers)


def test_figures_are_scikit_learns() -> None:
    calls = drawn()
    assert calls.accuracy.estimate == pytest.approx((calls.called == calls.labels).mean())
    assert np.array_equal(calls.confusion, confusion_matrix(calls.labels, calls.called))
    macro = f1_score(calls.labels, calls.called, average="macro")
    assert calls.macro_f1 == pytest.approx(macro)
    assert calls.log_loss == pytest.approx(log_loss(calls.labels, calls.probabilities))


def test_a_class_that_is_never_there_nor_called_counts_for_nothing() -> None:
    calls = given([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]], [0, 1])
    assert calls.macro_f1 == 1.0
    assert given([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]], [0, 2]).macro_f1 == pytest.approx(1 / 3)


def test_intervals_resample_loci_and_not_windows() -> None:
    """Four windows of a locus that are all right or all wrong are one witness."""
    random = np.random.default_rng(1)
    right = random.random(100) < 0.5
    rows = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9]).repeat(4, 0)
    labels = np.zeros(400, np.int64)
    together = Calls(("a", "b"), rows, labels, np.arange(100).repeat(4)).accuracy
    assert together.estimate == right.mean()
    # Of 100 fair coins: 2 x 1.96 x 0.5 / 10. Of 400 it would be half of that.
    assert together.high - together.low == pytest.approx(0.196, rel=0.15)


def test_gain_is_paired() -> None:
    calls, worse = drawn(skill=2.0), drawn(skill=0.0)
    gain = calls.gain_over(worse)
    assert gain.estimate == pytest.approx(calls.accuracy.estimate - worse.accuracy.estimate)
    assert gain.low > 0
    assert calls.gain_over(calls) == (0.0, 0.0, 0.0)
    with pytest.raises(UsageError, match="on the same windows only"):
        calls.gain_over(drawn(seed=1))


def test_reliability() -> None:
    calls = given(
        [[0.95, 0.05], [0.91, 0.09], [0.4, 0.6], [0.45, 0.55], [1.0, 0.0]], [0, 1, 1, 1, 0]
    )
    table = calls.reliability()
    assert table[:, 2].tolist() == [1, 1, 3]
    np.testing.assert_allclose(table[:, 0], [0.55, 0.6, 2.86 / 3])
    np.testing.assert_allclose(table[:, 1], [1, 1, 2 / 3])
    wanted = (0.45 + 0.4 + abs(2.86 - 2)) / 5
    assert calls.calibration_error == pytest.approx(wanted)


def test_threshold() -> None:
    sure = [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.7, 0.3], [0.6, 0.4]]
    calls = given(sure, [0, 1, 0, 0, 0])
    assert threshold_for(calls, 0.8) == 0.6
    assert threshold_for(calls, 0.75) == 0.6
    assert threshold_for(calls, 0.5) == 0.6
    assert threshold_for(given([[0.9, 0.1]], [1]), 0.5) == math.inf
    tied = given([[0.9, 0.1], [0.9, 0.1]], [0, 1])
    assert threshold_for(tied, 0.5) == 0.9
    assert threshold_for(given(sure[:3], [0, 1, 0]), 0.5) == 0.7


def test_a_threshold_needs_as_many_calls_as_can_show_it() -> None:
    right = [[0.9, 0.1]]
    assert threshold_for(given(right * 19, [0] * 19), 0.95) == math.inf
    assert threshold_for(given(right * 20, [0] * 20), 0.95) == 0.9
    assert threshold_for(given(right * 1000, [0] * 1000), 1.0) == math.inf


def test_temperature_is_found() -> None:
    """Logits drawn at one temperature and told at another are brought back to it."""
    calls = drawn(windows=20_000, skill=2.0)
    logits = np.log(calls.probabilities)
    truth = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    random = np.random.default_rng(1)
    labels = (truth.cumsum(1) < random.random((len(truth), 1))).sum(1)
    for temperature in (0.5, 1.0, 3.0):
        told = np.exp(logits * temperature)
        told /= told.sum(1, keepdims=True)
        found = temperature_for(Calls(calls.classes, told, labels, calls.loci))
        assert found == pytest.approx(temperature, rel=0.05)


def test_evidence_is_combined() -> None:
    rows = [[0.6, 0.4], [0.6, 0.4], [0.6, 0.4]]
    np.testing.assert_allclose(combine(rows), [0.6, 0.4])
    np.testing.assert_allclose(combine([[0.8, 0.2], [0.2, 0.8]]), [0.5, 0.5])
    assert combine([[1.0, 0.0], [0.0, 1.0]]).tolist() == [0.5, 0.5]


def test_evidence_is_weighted_by_bases() -> None:
    """A window of three times the bases counts as three windows."""
    weighted = combine([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], [300, 100])
    np.testing.assert_allclose(weighted, combine([[0.7, 0.2, 0.1]] * 3 + [[0.1, 0.3, 0.6]]))
    assert weighted.argmax() == 0
    np.testing.assert_allclose(combine([[0.9, 0.1], [0.5, 0.5]], [5, 0]), [0.9, 0.1])


def test_shapes_are_checked() -> None:
    with pytest.raises(UsageError, match=r"probabilities have shape \(1, 2\); \(1, 3\) is wanted"):
        Calls(("a", "b", "c"), np.ones((1, 2)) / 2, np.zeros(1, np.int64), np.zeros(1, np.int64))
    with pytest.raises(UsageError, match="at least one window"):
        Calls(("a",), np.ones((0, 1)), np.zeros(0, np.int64), np.zeros(0, np.int64))
