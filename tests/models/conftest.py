"""Small models whose every parameter is away from its initial value, so that none hides."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel


@pytest.fixture
def tiny_model() -> Callable[..., LanguageModel]:
    def build(seed: int = 0, **options: Any) -> LanguageModel:
        torch.manual_seed(seed)
        config = ModelConfig(**{"d_model": 16, "n_layer": 2, "d_state": 4, **options})
        model = LanguageModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
            model.backbone.embedding.weight.mul_(5)
        model.backend = "chunked"
        return model.eval()

    return build


@pytest.fixture
def random_ids() -> Callable[..., torch.Tensor]:
    def draw(length: int, batch: int = 2, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, 5, (batch, length), generator=generator)

    return draw
