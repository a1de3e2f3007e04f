import numpy as np

from dnamamba.inference.score import Scoring
from dnamamba.pipelines.score_job import describe_error


def test_an_error_in_words() -> None:
    scoring = Scoring(64, horizon=9)
    exact = np.array([1.0, 2.0, 3.0, 4.0])
    assert describe_error(exact + np.array([0, 0.5, 0.25, 0]), exact, scoring) == (
        "horizon 9 against 4 variants read to the window's end: median difference 0.12 nats, "
        "largest 0.5, Pearson 0.9827, Spearman 1.0000"
    )
    assert describe_error(exact[:2], exact[:2], scoring).endswith("largest 0")
    assert describe_error(np.zeros(4), exact, scoring).endswith("largest 4")
