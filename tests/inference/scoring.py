"""Small models and genomes, and what a score is by definition: two whole windows, one by one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.alphabet import Codes
from dnamamba.data.region import Region
from dnamamba.inference.score_window import Change, Window
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel


class Genome:
    """Contigs that lie in memory."""

    def __init__(self, contigs: Mapping[str, Codes]) -> None:
        self.contigs = contigs
        self.lengths = {name: len(codes) for name, codes in contigs.items()}

    def fetch(self, region: Region) -> Codes:
        return self.contigs[region.contig][region.start : region.end]


def tiny(seed: int = 0, **options: Any) -> LanguageModel:
    """A model whose predictions hang on what it has read, and not only lately.

    Its head is its own: logits stay near 1, and so does what is rounded away.
    """
    torch.manual_seed(seed)
    sizes = {"d_model": 16, "n_layer": 2, "d_state": 4, "tie_embeddings": False}
    model = LanguageModel(ModelConfig(**{**sizes, **options}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        model.backbone.embedding.weight.mul_(5)
    return model.eval()


def random_codes(length: int, seed: int = 0) -> Codes:
    return np.random.default_rng(seed).integers(0, 4, length, dtype=np.uint8)


def log_probabilities(model: LanguageModel, codes: Codes) -> NDArray[np.float64]:
    """What a causal model gives to each base but the first, in one reading."""
    ids = model.tokens(torch.from_numpy(codes.copy())[None])
    with torch.no_grad():
        found = model(ids).log_softmax(-1)[0, :-1].double()
    values: NDArray[np.float64] = found.gather(1, ids[0, 1:, None])[:, 0].numpy()
    return values


def whole(model: LanguageModel, window: Window, change: Change) -> float:
    """log p of the alternate window less that of the reference."""
    alternate = log_probabilities(model, window.changed(change)).sum()
    return float(alternate - log_probabilities(model, window.codes).sum())
