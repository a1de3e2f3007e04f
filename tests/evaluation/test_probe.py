from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info

from dnamamba.evaluation.probe import STRENGTHS, fit_probe


@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_logistic_regression_at_the_best_penalty(classes: int) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(90) % classes
    features = random.normal(size=(90, 6)) * [1, 1, 1, 100, 0.01, 0] + 5
    features[:, 0] += labels
    train, tuning, test = np.split(features, 3)
    wanted, tuned, _ = np.split(labels, 3)
    probe = fit_probe(train, wanted, tuning, tuned)
    scaler = StandardScaler().fit(train)
    losses = {}
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
        model.fit(scaler.transform(train), wanted)
        found = model.predict_log_proba(scaler.transform(tuning))
        losses[strength] = -found[np.arange(30), tuned].mean()
        if strength == probe.strength:
            np.testing.assert_allclose(
                probe.probabilities(test), model.predict_proba(scaler.transform(test)), atol=2e-3
            )
    assert probe.strength == min(losses, key=lambda strength: losses[strength])
    assert probe.tuned_loss == pytest.approx(min(losses.values()), rel=1e-3)
    assert max(losses.values()) > 1.05 * min(losses.values()), "the choice matters"


def test_it_takes_no_more_threads_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    fit, seen = LogisticRegression.fit, set()

    def noting(model: LogisticRegression, *given: Any) -> LogisticRegression:
        seen.update(lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas")
        return fit(model, *given)

    monkeypatch.setattr(LogisticRegression, "fit", noting)
    features, labels = np.random.default_rng(0).normal(size=(8, 2)), np.array([0, 1] * 4)
    fit_probe(features, labels, features, labels, threads=1)
    assert seen == {1}
