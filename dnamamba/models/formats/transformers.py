"""Mamba and Mamba-2 as transformers lays them out (the `-hf` repositories)."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dnamamba.models.backbone import ModelConfig
from dnamamba.models.formats.settings import rank, require
from dnamamba.models.formats.vocabulary import Vocabulary
from dnamamba.models.mixers.mamba2 import Mamba2Config

NAME = "transformers' mamba and mamba2"


def recognises(about: Mapping[str, Any]) -> bool:
    """Tell it by its model_type."""
    return about.get("model_type") in ("mamba", "mamba2")


def config(about: Mapping[str, Any], vocabulary: Vocabulary) -> ModelConfig:
    """Describe the model; settings that a file leaves out are those of transformers."""
    require(about, {"use_bias": False, "use_conv_bias": True, "hidden_act": ("silu", "swish")})
    options: dict[str, Any] = {}
    if about["model_type"] == "mamba2":
        require(about, {"rms_norm": True, "norm_before_gate": (True, None)})
        _require_no_limit(about.get("time_step_limit"))
        sizes = Mamba2Config(
            d_state=about.get("state_size", 128),
            d_conv=about.get("conv_kernel", 4),
            expand=about.get("expand", 2),
            head_dim=about.get("head_dim", 64),
            groups=about.get("n_groups", 8),
        )
        heads = sizes.expand * int(about["hidden_size"]) // sizes.head_dim
        require(about, {"num_heads": heads})
        options = {"mixers": ("mamba2",), "mamba2": sizes}
    else:
        options = {
            "d_state": about.get("state_size", 16),
            "d_conv": about.get("conv_kernel", 4),
            "expand": about.get("expand", 2),
            "dt_rank": rank(about.get("time_step_rank", "auto"), about["hidden_size"]),
        }
        require(about, {"intermediate_size": options["expand"] * int(about["hidden_size"])})
    return ModelConfig(
        d_model=about["hidden_size"],
        n_layer=about["num_hidden_layers"],
        vocab_size=about["vocab_size"],
        ids=vocabulary.ids,
        mask_id=vocabulary.mask_in(about["vocab_size"]),
        norm_eps=about.get("layer_norm_epsilon", 1e-5),
        **options,
    )


def _require_no_limit(limits: Any) -> None:
    """Refuse bounds of delta, of which infinity is written in one of two ways."""
    if limits is None:
        return
    low, high = (
        float(limit["__float__"] if isinstance(limit, Mapping) else limit) for limit in limits
    )
    require({"time_step_limit": (low, high)}, {"time_step_limit": ((0.0, math.inf),)})


def translate(
    weights: Mapping[str, Tensor], about: Mapping[str, Any], config: ModelConfig
) -> dict[str, Tensor]:
    """Rename the embedding; everything else has our names."""
    return {
        name.replace("backbone.embeddings.", "backbone.embedding."): weight
        for name, weight in weights.items()
    }
