from contextlib import nullcontext

import numpy as np
import pytest
import torch

from dnamamba.inference.stability import Divergence, measure_divergence
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.models.precision import Autocast, autocast_to
from dnamamba.models.predictor import Predictor, PredictorConfig

CPU = torch.device("cpu")
RANDOM = np.random.default_rng(0)
SEQUENCES = [RANDOM.integers(0, 4, size).astype(np.uint8) for size in (5, 40, 17)]


def measured(
    predictor: Predictor, autocast: Autocast = nullcontext, strength: float = 1e-3
) -> Divergence:
    return measure_divergence(
        predictor, SEQUENCES, device=CPU, autocast=autocast, strength=strength
    )


@pytest.fixture(params=["classes", "labels", "values"])
def predictor(request: pytest.FixtureRequest) -> Predictor:
    torch.manual_seed(0)
    language = LanguageModel(ModelConfig(d_model=16, n_layer=2))
    scales = {"centres": (0.0, 0.0), "scales": (2.0, 5.0)} if request.param == "values" else {}
    return Predictor(language, PredictorConfig(request.param, ("a", "b"), **scales))


def test_the_same_precision_does_not_diverge(predictor: Predictor) -> None:
    found = measured(predictor)
    np.testing.assert_array_equal(found.between, np.zeros(3))
    assert (found.own > 0).all()
    assert (measured(predictor, strength=0).own == 0).all()


def test_a_stronger_perturbation_moves_outputs_in_proportion(predictor: Predictor) -> None:
    weak, strong = (measured(predictor, strength=strength).own for strength in (1e-3, 4e-3))
    np.testing.assert_allclose(strong, 4 * weak, rtol=0.1)


def test_bf16_diverges_a_little(predictor: Predictor) -> None:
    found = measured(predictor, autocast_to("bf16", CPU))
    assert (found.between > 0).all()
    assert found.between.max() < 0.05
    torch.nn.init.zeros_(predictor.head.weight)
    still = measured(predictor, autocast_to("bf16", CPU))
    assert (still.own == 0).all()
    assert not predictor.language.backbone.layers[0]._forward_pre_hooks
