import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dnamamba.alphabet import encode
from dnamamba.evaluation.language import (
    Score,
    batches,
    score_baseline,
    score_model,
)
from dnamamba.evaluation.markov import Markov
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.training.objectives import MaskedBase, NextBase

CPU = torch.device("cpu")


def tokens(codes: Tensor) -> Tensor:
    return (codes & 7).long()


def windows_of(*texts: str) -> list[Tensor]:
    return [torch.from_numpy(encode(text)) for text in texts]


class Always(nn.Module):
    """Predicts A with probability p, C, G and T with what is left, everywhere."""

    def __init__(self, p: float) -> None:
        super().__init__()
        rest = (1 - p) / 3
        self.logits = torch.tensor([p, rest, rest, rest, 1e-30, 1e-30, 1e-30, 1e-30]).log()

    def forward(self, ids: Tensor) -> Tensor:
        assert not self.training
        return self.logits.expand(*ids.shape, 8)


def test_scores_each_window_on_its_targets_alone() -> None:
    model = Always(0.5)
    windows = windows_of("CAAAA", "CaNAG", "TTTTT")
    score = score_model(model, windows, NextBase(tokens), batch=2, device=CPU)
    other = -math.log2(0.5 / 3)
    np.testing.assert_allclose(score.bits, [4.0, 2.0 + other, 4 * other], rtol=1e-5)
    assert score.bases.tolist() == [4, 3, 4]
    assert score.accuracy == pytest.approx(6 / 11)
    assert score.bits_per_base == pytest.approx((6 + 5 * other) / 11, rel=1e-5)
    assert score.perplexity == pytest.approx(2**score.bits_per_base)
    assert model.training


def test_a_fair_die_has_two_bits_and_perplexity_four() -> None:
    windows = windows_of(*["ACGT" * 8] * 4)
    score = score_model(Always(0.25), windows, NextBase(tokens), batch=3, device=CPU)
    assert score.bits_per_base == pytest.approx(2.0, abs=1e-5)
    assert score.perplexity == pytest.approx(4.0, abs=1e-4)


def test_the_batch_changes_nothing_of_a_masked_score() -> None:
    random = np.random.default_rng(0)
    windows = [torch.from_numpy(random.integers(0, 4, 200, dtype=np.uint8)) for _ in range(5)]
    objective = MaskedBase(tokens, 5, seed=0)
    one = score_model(Always(0.4), windows, objective, batch=1, device=CPU)
    three = score_model(Always(0.4), windows, objective, batch=3, device=CPU)
    np.testing.assert_array_equal(one.bases, three.bases)
    np.testing.assert_allclose(one.bits, three.bits, rtol=1e-6)
    assert 0 < one.bases.sum() < 300


@pytest.mark.parametrize("masked", [False, True], ids=["next", "masked"])
def test_a_baseline_is_scored_on_the_bases_that_the_model_is(masked: bool) -> None:
    texts = ["ACGTNACGTTGCAAN" * 6, "NNNNNACGGTTTACA" * 6, "acgttgcaNNacgta" * 6]
    objective = MaskedBase(tokens, 5, seed=2) if masked else NextBase(tokens)
    markov = Markov.fit([encode("ACGTTGCATTTACAGG" * 9)], max_order=3)
    scores = score_baseline(markov, windows_of(*texts), objective)
    model = score_model(Always(0.25), windows_of(*texts), objective, batch=2, device=CPU)
    assert len(scores) == 4
    for order, score in enumerate(scores):
        np.testing.assert_array_equal(score.bases, model.bases)
        for index, text in enumerate(texts):
            codes = encode(text)
            weights = objective(torch.from_numpy(codes)[None], 0, index).weights[0].numpy() > 0
            bits = markov.bits(codes)[order]
            asked = np.flatnonzero(weights) + (0 if masked else 1)
            assert score.bits[index] == pytest.approx(bits[asked].sum(), rel=1e-6)


def test_batches_cover_the_windows_in_order() -> None:
    windows = windows_of("AC", "CG", "GT")
    parts = list(batches(windows, 2))
    assert [first for first, _ in parts] == [0, 2]
    assert torch.equal(torch.cat([codes for _, codes in parts]), torch.stack(windows))


def test_the_interval_holds_the_figure() -> None:
    random = np.random.default_rng(0)
    bases = np.full(50, 100)
    score = Score(random.normal(190.0, 10.0, 50), bases)
    _, low, high = score.interval()
    assert low < score.bits_per_base < high
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / math.sqrt(50), rel=0.3)


def test_a_hopeless_score_has_an_infinite_perplexity() -> None:
    assert Score(np.array([4000.0]), np.array([1])).perplexity == np.inf
    assert Score(np.array([3.0]), np.array([1])).perplexity == 8.0


def test_scores_by_segments_are_those_of_whole_windows() -> None:
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(d_model=8, n_layer=2, d_state=4)).double()
    windows = torch.randint(0, 5, (3, 50), dtype=torch.uint8).unbind()
    objective = NextBase(model.tokens)
    whole = score_model(model, windows, objective, batch=2, device=CPU)
    parts = score_model(model, windows, objective, batch=2, device=CPU, segment=16)
    np.testing.assert_allclose(parts.bits, whole.bits, rtol=1e-6)
    assert parts.accuracy == whole.accuracy
