import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dnamamba.errors import UsageError
from dnamamba.evaluation.ranking import Ranking


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_is_sklearns(ties: bool) -> None:
    random = np.random.default_rng(0)
    positive = random.random(200) < 0.3
    scores = random.normal(size=200) + positive
    if ties:
        scores = scores.round()
    found = Ranking(positive, np.arange(200)).auroc(scores)
    assert found.estimate == pytest.approx(roc_auc_score(positive, scores))
    assert found.low < found.estimate < found.high
    assert Ranking(positive, np.arange(200)).auroc(-scores).estimate == pytest.approx(
        1 - found.estimate
    )


def test_a_resample_draws_whole_loci() -> None:
    """Of copies of each item nothing more is known than of one."""
    random = np.random.default_rng(0)
    positive = np.arange(60) % 2 == 0
    scores = random.normal(size=60) + positive
    alone = Ranking(positive, np.arange(60)).auroc(scores)
    copied = [np.tile(values, 9) for values in (positive, np.arange(60), scores)]
    together = Ranking(copied[0], copied[1]).auroc(copied[2])
    assert together == pytest.approx(alone)
    apart = Ranking(copied[0], np.arange(540)).auroc(copied[2])
    assert apart.high - apart.low < 0.5 * (together.high - together.low)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Two normal distributions that lie apart by one deviation: Phi(1 / sqrt 2)."""
    truth = 0.5 * (1 + math.erf(0.5))
    positive = np.arange(80) % 2 == 0
    hits = 0
    for seed in range(100):
        scores = np.random.default_rng(seed).normal(size=80) + positive
        _, low, high = Ranking(positive, np.arange(80), seed).auroc(scores)
        hits += low < truth < high
    assert 88 <= hits <= 99


def test_gains_are_of_the_same_resamples() -> None:
    random = np.random.default_rng(0)
    positive = np.arange(90) % 3 == 0
    scores = random.normal(size=90) + positive
    ranking = Ranking(positive, np.arange(90) // 2)
    assert ranking.gain(scores, 2 * scores) == (0, 0, 0)
    gain = ranking.gain(scores, np.zeros(90))
    area = ranking.auroc(scores)
    assert gain == pytest.approx([value - 0.5 for value in area])


def test_what_cannot_be_ranked() -> None:
    for positive in ([True, True], [False, False], []):
        with pytest.raises(UsageError, match="items of both are wanted"):
            Ranking(np.array(positive, bool), np.arange(len(positive)))
    with pytest.raises(UsageError, match="2 items lie in 3 loci"):
        Ranking(np.array([True, False]), np.arange(3))
    one = Ranking(np.array([True, False]), np.zeros(2, np.int64)).auroc(np.array([1.0, 0.0]))
    assert one.estimate == 1
    assert math.isnan(one.low)
