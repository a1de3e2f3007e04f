"""HyenaDNA, as first published and as transformers lays it out (Nguyen et al. 2023, 2306.15794).

A layer of it is two blocks here, a Hyena mixer's and a perceptron's. What it stores of positions
is computed here, and has to agree.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dnamamba.errors import CheckpointError
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.formats.settings import padded, require
from dnamamba.models.formats.vocabulary import Vocabulary
from dnamamba.models.mixers.hyena import HyenaConfig, position_features
from dnamamba.models.mixers.mlp import MLPConfig

NAME = "HyenaDNA"
_RENAMED = (
    (r"^(model|hyena)\.", ""),
    (r"\.(mixer|mlp)\.layer\.", r".\1."),
    (r"^backbone\.embeddings\.word_embeddings\.", "backbone.embedding."),
    (r"^backbone\.ln_f\.", "backbone.norm_f."),
    (r"\.short_filter\.", ".conv_"),
    (r"\.filter_fn\.bias$", ".filters.bias"),
    (r"\.filter_fn\.modulation\.deltas$", ".filters.decay"),
)


def recognises(about: Mapping[str, Any]) -> bool:
    """Tell it by its model_type, or by the layer that the first configs name."""
    return about.get("model_type") == "hyenadna" or (
        (about.get("layer") or {}).get("_name_") == "hyena"
    )


def config(about: Mapping[str, Any], vocabulary: Vocabulary) -> ModelConfig:
    """Describe the model."""
    inside = about.get("layer") or {}
    require(about, {"use_bias": True, "attn_layer_idx": ([], None)})
    require(inside, {"modulate": True}, "config.json: layer")
    width, mlp = int(about["d_model"]), int(about.get("d_inner", 4 * about["d_model"]))
    if mlp % width:
        raise CheckpointError(f"config.json: d_inner {mlp} is no multiple of d_model {width}")
    length = about["max_seq_len"] if "max_seq_len" in about else inside["l_max"]
    size = padded(about, 8)
    return ModelConfig(
        d_model=width,
        n_layer=2 * int(about["n_layer"]),
        mixers=("hyena", "mlp"),
        hyena=HyenaConfig(
            max_length=int(length),
            order=about.get("hyena_order", inside.get("order", 2)),
            d_conv=about.get("short_filter_order", inside.get("short_filter_order", 3)),
            positions=about.get("emb_dim", inside.get("emb_dim", 3)),
            d_filter=about.get("filter_order", inside.get("filter_order", 64)),
            filter_layers=about.get("num_inner_mlps", inside.get("num_inner_mlps", 2)),
        ),
        mlp=MLPConfig(expand=mlp // width),
        vocab_size=size,
        ids=vocabulary.ids,
        mask_id=vocabulary.mask_in(size),
        norm="layer",
        norm_eps=about.get("layer_norm_epsilon", 1e-5),
    )


def translate(
    weights: Mapping[str, Tensor], about: Mapping[str, Any], config: ModelConfig
) -> dict[str, Tensor]:
    """Rename, and part each layer into two blocks."""
    found: dict[str, Tensor] = {}
    for published, weight in weights.items():
        name = published
        for pattern, ours in _RENAMED:
            name = re.sub(pattern, ours, name)
        if ".filter_fn.pos_emb." in name:
            _check_positions(published, weight, config)
            continue
        if name.endswith(".filters.decay"):
            weight = weight.abs()
        if name.endswith((".conv_weight", ".filters.decay")):
            weight = (
                weight.squeeze(1)
                if weight.dim() == 3 and name.endswith("weight")
                else (weight.flatten())
            )
        name = _filter_name(_block_name(name), config)
        if name.endswith(".filters.frequency"):
            weight = weight.flatten()
            if name in found and not torch.equal(found[name], weight):
                raise CheckpointError(f"{published}: a frequency of its own; one is shared here")
        found[name] = weight
    return found


def _block_name(name: str) -> str:
    """Make two blocks of layer i: 2 i is its mixer's, 2 i + 1 its perceptron's."""
    match = re.fullmatch(r"backbone\.layers\.(\d+)\.(norm1|mixer|norm2|mlp)\.(.*)", name)
    if match is None:
        return name
    layer, part, rest = int(match[1]), match[2], match[3]
    if part == "mlp":
        rest = (
            {"fc1": "in_proj", "fc2": "out_proj"}.get(rest.split(".")[0], "?")
            + "."
            + (rest.split(".", 1)[1])
        )
    block = 2 * layer + (part in ("norm2", "mlp"))
    return f"backbone.layers.{block}.{'norm' if part.startswith('norm') else 'mixer'}.{rest}"


def _filter_name(name: str, config: ModelConfig) -> str:
    """Name the network that makes filters: linear layers at even numbers, sines between."""
    match = re.fullmatch(r"(.*)\.filter_fn\.implicit_filter\.(\d+)\.(.*)", name)
    if match is None or config.hyena is None:
        return name
    mixer, number, rest = match[1], int(match[2]), match[3]
    if rest == "freq":
        return f"{mixer}.filters.frequency"
    last = 2 * (config.hyena.filter_layers + 1)
    layer = "out" if number == last else f"layers.{number // 2}"
    return f"{mixer}.filters.{layer}.{rest}"


def _check_positions(name: str, stored: Tensor, config: ModelConfig) -> None:
    """Refuse positions that were learned, or scaled to another length."""
    if config.hyena is None or stored.shape[1] != config.hyena.max_length:
        raise CheckpointError(f"{name}: has {stored.shape[1]:,} positions, and not the config's")
    features = position_features(config.hyena.max_length, config.hyena)
    expected = features if name.endswith(".z") else features[:, :1]
    if not torch.allclose(stored[0].double(), expected, rtol=0, atol=1e-3):
        raise CheckpointError(f"{name}: positions are not those of the paper, but learned")
