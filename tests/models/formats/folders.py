"""What tests of published layouts share: folders of random weights, as others write them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

CHARACTERS = {
    "[CLS]": 0, "[SEP]": 1, "[BOS]": 2, "[MASK]": 3, "[PAD]": 4, "[RESERVED]": 5, "[UNK]": 6,
    "A": 7, "C": 8, "G": 9, "T": 10, "N": 11,
}  # fmt: skip
"""HyenaDNA's and Caduceus's character tokenizer."""
PLANTS = {"[PAD]": 0, "[MASK]": 1, "[UNK]": 2, "a": 3, "c": 4, "g": 5, "t": 6}
"""PlantCaduceus's."""


def write_config(folder: Path, about: Mapping[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(about))


def write_tokenizer(folder: Path, tokens: Mapping[str, int]) -> None:
    """Write a fast tokenizer's file, special tokens apart as it has them."""
    special = [
        {"id": number, "content": token, "special": True}
        for token, number in tokens.items()
        if token.startswith("[")
    ]
    content = {"added_tokens": special, "model": {"type": "WordLevel", "vocab": dict(tokens)}}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def write_weights(
    folder: Path, weights: Mapping[str, Tensor], name: str = "model.safetensors"
) -> None:
    tensors = {key: weight.detach().clone().contiguous() for key, weight in weights.items()}
    if name.endswith(".safetensors"):
        save_file(tensors, folder / name)
    else:
        torch.save(tensors, folder / name)


@torch.no_grad()
def stir(module: nn.Module, seed: int = 0) -> None:
    """Move every parameter away from where it begins."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
