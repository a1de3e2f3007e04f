import math
from pathlib import Path

import numpy as np

from dnamamba.evaluation.language import Score
from dnamamba.evaluation.report import best_order, summarise, verdict, write_results

BASES = np.full(40, 100)
NOISE = np.random.default_rng(0).normal(0.0, 20.0, 40)


def score(bits: float, noise: float = 1.0) -> Score:
    return Score(bits * BASES + noise * NOISE, BASES, accuracy=0.4)


BASELINES = [score(bits) for bits in (2.1, 2.0, 2.05)]


def test_results_are_tsv_with_a_lower_case_header(tmp_path: Path) -> None:
    path = tmp_path / "baselines.tsv"
    write_results(path, [summarise("order-0 Markov", BASELINES[0], 1000, 2.5)])
    header, row = path.read_text().splitlines()
    assert header == "model\tbits_per_base\tlow\thigh\tperplexity\taccuracy\tbases\tseconds"
    name, bits, low, high, perplexity, *rest = row.split("\t")
    assert name == "order-0 Markov"
    assert float(low) < float(bits) < float(high)
    assert math.isclose(float(perplexity), 2 ** float(bits), rel_tol=1e-4)
    assert rest == ["0.4", "1000", "2.5"]


def test_the_best_order_has_the_fewest_bits() -> None:
    assert best_order(BASELINES) == 1


def test_a_gain_is_bounded_by_differences_of_windows() -> None:
    gain, low, high = score(1.9, noise=1.01).gain_over(BASELINES[1])
    assert low < gain < high
    assert high - low < 0.01
    _, low, high = score(1.9).interval()
    assert high - low > 0.05


def test_the_verdict_is_plain_either_way() -> None:
    won = verdict("250k", score(1.9, noise=1.01), BASELINES)
    assert won.startswith("250k beats order-1 Markov by 0.")
    assert "tie" not in won
    assert "tie" in verdict("250k", score(1.999, noise=2.0), BASELINES)
    lost = verdict("250k", score(2.03), BASELINES)
    assert "250k has not beaten order-1 Markov" in lost
    assert "counts of 2-mers" in lost


def test_a_single_window_has_no_interval() -> None:
    one = Score(np.array([190.0]), np.array([100]))
    other = Score(np.array([200.0]), np.array([100]))
    assert "interval" not in verdict("250k", one, [other])
