"""A tiny model learns a source of known entropy to a few hundredths of a bit."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnamamba.evaluation.language import Objective, Score, score_model
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.training.loop import Callbacks, LoopConfig, fit
from dnamamba.training.objectives import MaskedBase, NextBase
from dnamamba.training.optimizer import OptimizerConfig, build_optimizer
from dnamamba.training.signals import StopRequest

CPU = torch.device("cpu")
LENGTH = 64
BATCH = 16


class OrderTwo:
    """A Markov source of order 2 over A, C, G, T, with transitions drawn once."""

    def __init__(self, concentration: float = 0.3) -> None:
        random = np.random.default_rng(0)
        self.transitions = random.dirichlet(np.full(4, concentration), size=16)

    def draw(self, seed: int, batch: int, length: int) -> Tensor:
        """Draw (batch, length) uint8 codes, after some that wash out the start."""
        random = np.random.default_rng(seed)
        cumulative = self.transitions.cumsum(1)
        codes = np.zeros((batch, length + 32), dtype=np.uint8)
        for t in range(2, codes.shape[1]):
            context = codes[:, t - 2].astype(int) * 4 + codes[:, t - 1]
            uniform = random.random(batch)[:, None]
            codes[:, t] = np.minimum((uniform > cumulative[context]).sum(1), 3)
        return torch.from_numpy(codes[:, 32:].copy())

    def _stationary(self) -> NDArray[np.float64]:
        """Return the (16,) long-run probabilities of two bases in a row."""
        moves = np.zeros((16, 16))
        for context in range(16):
            for base in range(4):
                moves[context, context % 4 * 4 + base] += self.transitions[context, base]
        return np.linalg.matrix_power(moves, 1000)[0]

    def entropy_rate(self) -> float:
        """Return the bits of a base given the two before it."""
        p = self.transitions
        rows = -(p * np.log2(np.maximum(p, 1e-300))).sum(1)
        return float(self._stationary() @ rows)

    def order_zero(self) -> float:
        """Return the bits of a base given nothing."""
        p = self._stationary().reshape(4, 4).sum(1)
        return float(-(p * np.log2(p)).sum())


def learn(model: LanguageModel, objective: Objective, steps: int) -> Score:
    source = OrderTwo()
    config = OptimizerConfig(lr=1e-2)

    def batches() -> Iterator[Tensor]:
        for step in range(steps):
            yield source.draw(step, BATCH, LENGTH)

    fit(
        model,
        build_optimizer(model, config),
        objective,
        batches(),
        Callbacks(lambda rows: None, lambda step: None, lambda step: None),
        start=0,
        config=LoopConfig(steps, BATCH, BATCH, LENGTH, steps, steps),
        optimizer_config=config,
        device=CPU,
        stop=StopRequest(),
    )
    held_out = list(source.draw(10**6, 256, LENGTH))
    return score_model(model, held_out, objective, batch=64, device=CPU)


def build(**settings: object) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(ModelConfig(d_model=32, n_layer=1, **settings))  # type: ignore[arg-type]


def test_next_base_comes_close_to_the_entropy_rate() -> None:
    model = build()
    score = learn(model, NextBase(model.tokens), steps=150)
    rate = OrderTwo().entropy_rate()
    assert OrderTwo().order_zero() > rate + 0.4
    assert rate - 0.03 < score.bits_per_base < rate + 0.05


@pytest.mark.parametrize("reads", [pytest.param("one way", marks=pytest.mark.slow), "both ways"])
def test_masked_bases_are_learnt_from_both_sides(reads: str) -> None:
    model = build(objective="masked", bidirectional=reads == "both ways")
    objective = MaskedBase(model.tokens, model.config.mask_id, seed=0)
    score = learn(model, objective, steps=200)
    if reads == "one way":
        assert score.bits_per_base < OrderTwo().order_zero() - 0.1
    else:
        assert score.bits_per_base < OrderTwo().entropy_rate()
