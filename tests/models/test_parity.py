"""The same weights in an implementation that nobody here wrote give the same results."""

from typing import Any

import pytest
import torch
from torch import nn

from dnamamba.models.backbone import ModelConfig
from dnamamba.models.convert import to_transformers, transformers_name
from dnamamba.models.heads import LanguageModel
from dnamamba.models.presets import preset


def perturbed(config: ModelConfig) -> LanguageModel:
    """Build a model with every parameter away from its initial value."""
    torch.manual_seed(0)
    model = LanguageModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.backend = "chunked"
    return model


def loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Next-base loss, and for a sequence of one base something that has a gradient too."""
    return nn.functional.cross_entropy(logits.transpose(1, 2), ids.roll(-1, dims=1))


@pytest.mark.parametrize(
    ("length", "options"),
    [
        (1, {}),
        (2, {"d_model": 16}),
        (3, {"d_model": 24, "expand": 3}),
        (7, {"d_conv": 2}),
        (31, {"d_state": 8, "dt_rank": 7}),
        (63, {"d_model": 48, "n_layer": 3}),
        (65, {"d_conv": 3, "d_state": 1}),
        (130, {"d_model": 64, "expand": 1}),
        (257, {"norm_eps": 1e-3}),
    ],
    ids=lambda value: value if isinstance(value, int) else "-".join(value) or "defaults",
)
def test_logits_and_gradients_equal_transformers(length: int, options: dict[str, Any]) -> None:
    model = perturbed(ModelConfig(**{"d_model": 32, "n_layer": 2, **options}))
    twin = to_transformers(model)
    ids = torch.randint(0, 5, (2, length))
    logits, theirs = model(ids), twin(ids).logits
    torch.testing.assert_close(logits, theirs, rtol=0, atol=1e-4)

    loss(logits, ids).backward()
    loss(theirs, ids).backward()
    expected = {name: parameter.grad for name, parameter in twin.named_parameters()}
    assert len(expected) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        reference = expected[transformers_name(name)]
        error = (parameter.grad - reference).norm()
        assert error <= 1e-3 * reference.norm(), f"{name}: {error:.1e} of {reference.norm():.1e}"
        assert length == 1 or reference.norm() > 0


@pytest.mark.slow
def test_logits_equal_transformers_at_16_384_bases() -> None:
    model = perturbed(preset("1.4m"))
    twin = to_transformers(model)
    ids = torch.randint(0, 5, (1, 16_384))
    with torch.inference_mode():
        torch.testing.assert_close(model(ids), twin(ids).logits, rtol=0, atol=1e-4)
