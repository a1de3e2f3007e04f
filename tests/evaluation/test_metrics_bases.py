import numpy as np
import pytest

from dnamamba.errors import UsageError
from dnamamba.evaluation.metrics import measure
from dnamamba.evaluation.metrics_bases import BINS, measure_bases

REGIONS = np.repeat(np.arange(12), 40)


def test_labels_are_measured_as_rows_are_and_bounded_as_regions() -> None:
    random = np.random.default_rng(0)
    wanted = (random.random((len(REGIONS), 2)) < [0.3, 0.1]).astype(float)
    # Few enough predictions that each has a bin of its own: resamples are exact, too.
    found = np.round((wanted + random.normal(0, 1.5, wanted.shape)) * 20) / 20
    assert len(np.unique(found)) < BINS / 2
    names = ("a", "b")
    bases = measure_bases("labels", names, wanted, found, REGIONS)
    exact = measure("labels", wanted == 1, found, REGIONS)
    for name in ("auroc", "auprc"):
        assert bases[name].estimate == pytest.approx(exact[name].estimate)
        np.testing.assert_allclose(bases[name][1:], exact[name][1:], atol=0.02)
        each = [bases[f"{name} of {track}"].estimate for track in names]
        assert np.mean(each) == pytest.approx(bases[name].estimate)


def test_values_are_measured_as_rows_are() -> None:
    random = np.random.default_rng(1)
    wanted = random.normal(size=(len(REGIONS), 1))
    found = wanted + random.normal(size=wanted.shape)
    bases = measure_bases("values", ("a",), wanted, found, REGIONS)
    exact = measure("values", wanted, found, REGIONS)
    assert list(bases) == ["pearson", "spearman"]
    for name, interval in bases.items():
        assert interval.estimate == pytest.approx(exact[name].estimate)
        np.testing.assert_allclose(interval[1:], exact[name][1:], atol=0.02)


def test_what_is_unknown_is_left_out() -> None:
    random = np.random.default_rng(2)
    wanted = (random.random((len(REGIONS), 1)) < 0.5).astype(float)
    found = random.random(wanted.shape)
    known = random.random(len(REGIONS)) < 0.5
    some = np.where(known[:, None], wanted, np.nan)
    bases = measure_bases("labels", ("a",), some, found, REGIONS)
    left = measure_bases("labels", ("a",), wanted[known], found[known], REGIONS[known])
    assert bases["auroc"].estimate == left["auroc"].estimate


def test_what_is_not_defined() -> None:
    one = np.zeros(40, np.int64)
    wanted, found = np.arange(40.0)[:, None] % 2, np.random.default_rng(0).random((40, 1))
    auroc = measure_bases("labels", ("a",), wanted, found, one)["auroc"]
    assert np.isfinite(auroc.estimate)
    assert np.isnan(auroc.low)
    alike = measure_bases("labels", ("a",), np.zeros((40, 1)), found, one)
    assert np.isnan(alike["auroc"].estimate)
    with pytest.raises(UsageError, match="nothing to measure"):
        measure_bases("labels", ("a",), wanted, found[1:], one)
