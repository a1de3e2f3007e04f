"""Mamba and Mamba-2 as their authors publish them (state-spaces on the Hugging Face hub).

Parameters have our names already. Mamba-2 models say `"layer": "Mamba2"` in ssm_cfg.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dnamamba.errors import CheckpointError
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.formats.settings import padded, rank, require
from dnamamba.models.formats.vocabulary import Vocabulary
from dnamamba.models.mixers.mamba2 import Mamba2Config

NAME = "state-spaces Mamba and Mamba-2"


def recognises(about: Mapping[str, Any]) -> bool:
    """Tell it by ssm_cfg, without a model_type."""
    return "model_type" not in about and "ssm_cfg" in about and "n_layer" in about


def config(about: Mapping[str, Any], vocabulary: Vocabulary) -> ModelConfig:
    """Describe the model."""
    # What the authors' own classes take where the file says nothing.
    rms = about.get("rms_norm", True)
    require({"rms_norm": rms}, {"rms_norm": True})
    require(about, {"d_intermediate": 0, "attn_layer_idx": ([], None), "attn_cfg": ({}, None)})
    inside = dict(about.get("ssm_cfg") or {})
    kind = inside.get("layer", "Mamba1")
    if kind not in ("Mamba1", "Mamba2"):
        raise CheckpointError(f"config.json: ssm_cfg layer is {kind!r}, not Mamba1 or Mamba2")
    require(inside, {"bias": False, "conv_bias": True}, "config.json: ssm_cfg")
    size = padded(about, 8)
    options: dict[str, Any] = {}
    if kind == "Mamba2":
        require(
            inside,
            {"norm_before_gate": False, "rmsnorm": True, "D_has_hdim": False, "d_ssm": None},
            "config.json: ssm_cfg",
        )
        options["mixers"] = ("mamba2",)
        options["mamba2"] = Mamba2Config(
            d_state=inside.get("d_state", 128),
            d_conv=inside.get("d_conv", 4),
            expand=inside.get("expand", 2),
            head_dim=inside.get("headdim", 64),
            groups=inside.get("ngroups", 1),
        )
    else:
        for name in ("d_state", "d_conv", "expand"):
            if name in inside:
                options[name] = inside[name]
        options["dt_rank"] = rank(inside.get("dt_rank"), about["d_model"])
    return ModelConfig(
        d_model=about["d_model"],
        n_layer=about["n_layer"],
        vocab_size=size,
        ids=vocabulary.ids,
        mask_id=vocabulary.mask_in(size),
        **options,
    )


def translate(
    weights: Mapping[str, Tensor], about: Mapping[str, Any], config: ModelConfig
) -> dict[str, Tensor]:
    """Keep every name."""
    return dict(weights)
