import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sklearn

from dnamamba.errors import UsageError
from dnamamba.evaluation.metrics import measure

RANDOM = np.random.default_rng(0)


def probabilities(wanted: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    logits = RANDOM.normal(size=(len(wanted), classes)).round(1)
    logits[np.arange(len(wanted)), wanted] += 1
    found: NDArray[np.float64] = np.exp(logits)
    return found / found.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3])
def test_classes(classes: int) -> None:
    wanted = np.arange(90) % classes
    wanted[:20] = 0
    found = probabilities(wanted, classes)
    measured = measure("classes", wanted, found, resamples=50)
    called = found.argmax(1)
    scores = found[:, 1] if classes == 2 else found
    columns = wanted if classes == 2 else wanted[:, None] == np.arange(classes)
    assert {name: each.estimate for name, each in measured.items()} == pytest.approx(
        {
            "accuracy": sklearn.accuracy_score(wanted, called),
            "mcc": sklearn.matthews_corrcoef(wanted, called),
            "macro_f1": sklearn.f1_score(wanted, called, average="macro"),
            "auroc": sklearn.roc_auc_score(wanted, scores, multi_class="ovr"),
            "auprc": sklearn.average_precision_score(columns, scores),
        }
    )
    for each in measured.values():
        assert each.low < each.estimate < each.high


def test_labels() -> None:
    wanted = RANDOM.random((80, 3)) < [0.2, 0.5, 0.7]
    found = (RANDOM.random((80, 3)) + wanted).round(2) / 2
    measured = measure("labels", wanted, found, resamples=10)
    assert {name: each.estimate for name, each in measured.items()} == pytest.approx(
        {
            "accuracy": (wanted == (found > 0.5)).mean(),
            "macro_f1": sklearn.f1_score(wanted, found > 0.5, average="macro"),
            "auroc": sklearn.roc_auc_score(wanted, found),
            "auprc": sklearn.average_precision_score(wanted, found),
        }
    )


def test_values() -> None:
    wanted = RANDOM.normal(size=(60, 2)).astype(np.float32)
    found = (wanted + RANDOM.normal(size=(60, 2))).round(1)
    measured = measure("values", wanted, found, resamples=10)
    columns = list(zip(wanted.T, found.T, strict=True))
    assert {name: each.estimate for name, each in measured.items()} == pytest.approx(
        {
            "pearson": np.mean([stats.pearsonr(*pair).statistic for pair in columns]),
            "spearman": np.mean([stats.spearmanr(*pair).statistic for pair in columns]),
            "rmse": np.mean([sklearn.root_mean_squared_error(*pair) for pair in columns]),
        },
        rel=1e-6,
    )


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    hits = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        wanted = np.zeros((60, 1))
        found = random.normal(size=(60, 1))
        _, low, high = measure("values", wanted, found, resamples=200, seed=seed)["rmse"]
        hits += low <= 1 <= high
    assert 86 <= hits <= 99


def test_groups_are_drawn_together() -> None:
    """Of copies nothing more is known than of one, if a group has them."""
    wanted = np.arange(40) % 2
    found = probabilities(wanted, 2)
    groups = np.tile(np.arange(40), 9)
    alone = measure("classes", wanted, found, resamples=500)["accuracy"]
    copies = np.tile(wanted, 9), np.tile(found, (9, 1))
    together = measure("classes", *copies, groups, resamples=500)["accuracy"]
    assert together == pytest.approx(alone)
    apart = measure("classes", *copies, resamples=500)["accuracy"]
    assert apart.high - apart.low < 0.5 * (together.high - together.low)


def test_what_is_not_defined() -> None:
    one = measure("classes", np.zeros(4, np.int64), np.eye(2)[[0, 0, 1, 0]], resamples=5)
    assert math.isnan(one["auroc"].estimate)
    assert math.isnan(one["auprc"].low)
    assert (one["accuracy"].estimate, one["mcc"].estimate) == (0.75, 0)
    same = measure("values", np.zeros((3, 1)), np.ones((3, 1)), resamples=5)
    assert math.isnan(same["pearson"].estimate)
    assert same["rmse"] == (1, 1, 1)
    group = measure("values", np.zeros((3, 1)), np.ones((3, 1)), np.zeros(3, np.int64))
    assert math.isnan(group["rmse"].low)
    with pytest.raises(UsageError, match="0 rows with 0 predictions"):
        measure("values", np.zeros((0, 1)), np.zeros((0, 1)))
    with pytest.raises(UsageError, match="2 rows with 3 predictions"):
        measure("values", np.zeros((2, 1)), np.zeros((3, 1)))
