"""Caduceus Ph and PS, and PlantCaduceus (Schiff et al. 2024, arXiv 2403.03234).

Ph is a bidirectional model of one strand; PS reads both strands through the same weights, as
symmetry "shared" does here. Where a PS model was made with `fused_add_norm`, the published code
hands every block the two strands' halves the other way round: what a block reads is the reverse
complement of what the block before it wrote, positions and channels both reversed. Every second
block can be turned round instead, which gives the same numbers: its two directions change places,
and so do the channels that it reads from and writes to the stream.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dnamamba.errors import CheckpointError
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.formats.settings import padded, rank, require
from dnamamba.models.formats.vocabulary import Vocabulary
from dnamamba.models.symmetry import complement_map

NAME = "Caduceus and PlantCaduceus"
_SHARED = ("in_proj", "out_proj")
_RENAMED = (
    (r"^caduceus\.", ""),
    (r"^backbone\.embeddings\.word_embeddings\.(embedding\.)?weight$", "backbone.embedding.weight"),
    (r"^lm_head\.lm_head\.", "lm_head."),
    (r"\.(mixer|norm|norm_f)\.submodule\.", r".\1."),
)


def recognises(about: Mapping[str, Any]) -> bool:
    """Tell it by its model_type."""
    return about.get("model_type") == "caduceus"


def config(about: Mapping[str, Any], vocabulary: Vocabulary) -> ModelConfig:
    """Describe the model."""
    require(
        about,
        {
            "rms_norm": True,
            "bidirectional_weight_tie": True,
            "bidirectional_strategy": ("add", None),
        },
    )
    inside = dict(about.get("ssm_cfg") or {})
    require(inside, {"bias": False, "conv_bias": True, "layer": "Mamba1"}, "config.json: ssm_cfg")
    size = padded(about, 8)
    return ModelConfig(
        d_model=about["d_model"],
        n_layer=about["n_layer"],
        d_state=inside.get("d_state", 16),
        d_conv=inside.get("d_conv", 4),
        expand=inside.get("expand", 2),
        dt_rank=rank(inside.get("dt_rank"), about["d_model"]),
        vocab_size=size,
        ids=vocabulary.ids,
        mask_id=vocabulary.mask_in(size),
        objective="masked",
        bidirectional=about.get("bidirectional", True),
        symmetry="shared" if about.get("rcps") else "none",
        norm_eps=about.get("norm_epsilon", 1e-5),
    )


def translate(
    weights: Mapping[str, Tensor], about: Mapping[str, Any], config: ModelConfig
) -> dict[str, Tensor]:
    """Rename, merge the projections that both directions share, and turn blocks round."""
    named = {}
    for name, weight in weights.items():
        if not name.endswith(".complement_map"):
            for pattern, ours in _RENAMED:
                name = re.sub(pattern, ours, name)
            named[name] = weight
    merged = _merged(named, config.bidirectional)
    if config.symmetry == "shared" and about.get("fused_add_norm", True):
        return _turned(merged, config)
    return merged


def _merged(weights: Mapping[str, Tensor], bidirectional: bool) -> dict[str, Tensor]:
    """Give the directions our names; a tied projection may stand under either direction's."""
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        match = re.fullmatch(r"(.*\.mixer)\.mamba_(fwd|rev)\.(.*)", name)
        if match is None:
            found[name] = weight
            continue
        mixer, way, rest = match.groups()
        if rest.split(".")[0] in _SHARED or not bidirectional:
            ours = f"{mixer}.{rest}"
        else:
            ours = f"{mixer}.{'ahead' if way == 'fwd' else 'back'}.{rest}"
        if ours in found and not torch.equal(found[ours], weight):
            raise CheckpointError(f"{name} differs from mamba_fwd's: the two are not tied")
        found[ours] = weight
    return found


def _turned(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Turn every second block round, so that the last one is as it is.

    With an odd number of blocks it is the other strand's embedding that reaches the last one, its
    channels reversed, while the head's weight stays: they are no longer tied.
    """
    found = {}
    for name, weight in weights.items():
        match = re.fullmatch(r"(backbone\.layers\.(\d+)\.)(.*)", name)
        if match is None or (config.n_layer - 1 - int(match[2])) % 2 == 0:
            found[name] = weight
        else:
            found[match[1] + _other_way(match[3])] = _other_channels(match[3], weight)
    if config.n_layer % 2:
        embedding = weights["backbone.embedding.weight"]
        found.setdefault("lm_head.weight", embedding)
        complement = complement_map(config.ids, config.vocab_size)
        found["backbone.embedding.weight"] = embedding[complement].flip(1)
    return found


def _other_way(name: str) -> str:
    for way, other in (("mixer.ahead.", "mixer.back."), ("mixer.back.", "mixer.ahead.")):
        if name.startswith(way):
            return other + name.removeprefix(way)
    return name


def _other_channels(name: str, weight: Tensor) -> Tensor:
    if name == "mixer.in_proj.weight":
        return weight.flip(1)
    return weight.flip(0) if name in ("mixer.out_proj.weight", "norm.weight") else weight
