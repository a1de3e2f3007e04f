"""The same weights in transformers' layout, as a folder or as its model.

A folder needs no transformers to be written: config.json, model.safetensors with its names, and a
tokenizer of single letters.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save as to_safetensors
from torch import Tensor

from dnamamba.errors import UsageError
from dnamamba.files import atomic_path, write_text
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.models.mixers.mamba2 import Mamba2Config
from dnamamba.models.pretrained import CARD, CONFIG, WEIGHTS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MASK = "[MASK]"


def save_transformers(model: LanguageModel, folder: Path, card: str) -> None:
    """Write a folder that transformers' `AutoModelForCausalLM` and `AutoTokenizer` read.

    Parameters
    ----------
    model
        A next-base model that reads one way, of Mamba or of Mamba-2 blocks.
    folder
        Made where it does not exist.
    card
        Text of README.md.

    Raises
    ------
    UsageError
        For a model that transformers has no equal of.
    DnamambaError
        Where the disk is full or the folder cannot be written.
    """
    about = transformers_config(model.config)
    if model.config.objective != "next":
        raise UsageError(
            f'objective "{model.config.objective}": transformers\' Mamba predicts next'
        )
    weights = {name: w.cpu().contiguous() for name, w in _renamed(model).items()}
    if model.config.tie_embeddings:
        del weights["lm_head.weight"]
    files = {CONFIG: about, "tokenizer.json": _tokenizer(model.config), **_TOKENIZER_CONFIG}
    for name, content in files.items():
        write_text(folder / name, json.dumps(content, indent=2, sort_keys=True) + "\n")
    write_text(folder / CARD, card)
    with atomic_path(folder / WEIGHTS) as temporary:
        temporary.write_bytes(to_safetensors(weights, metadata={"format": "pt"}))


def to_transformers(model: LanguageModel) -> "PreTrainedModel":
    """Build transformers' model of a model's weights.

    Parameters
    ----------
    model
        One that reads one way. With symmetry "none" logits are the same; hidden states of the
        backbone are whatever the symmetry.

    Returns
    -------
    The model on the CPU, in its training mode; `backbone` gives hidden states alone.

    Raises
    ------
    UsageError
        Where transformers is missing, or has no such model.
    """
    try:
        import transformers
    except ImportError as error:
        raise UsageError("transformers is missing: pip install transformers") from error
    about = transformers_config(model.config)
    kind = about.pop("model_type")
    del about["architectures"]
    twin: PreTrainedModel
    if kind == "mamba":
        twin = transformers.MambaForCausalLM(transformers.MambaConfig(**about))
    else:
        twin = transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**about))
    twin.load_state_dict(_renamed(model))
    return twin


def transformers_config(config: ModelConfig) -> dict[str, Any]:
    """Say in transformers' settings what a model is.

    Raises
    ------
    UsageError
        For a model that it has no equal of.
    """
    if config.bidirectional:
        raise UsageError("bidirectional: transformers has no Mamba that reads both ways")
    if len(set(config.mixers)) != 1 or config.mixers[0] not in ("mamba", "mamba2"):
        pattern = ", ".join(config.mixers)
        raise UsageError(f"mixers: transformers has no model of the blocks {pattern}")
    if config.norm != "rms":
        raise UsageError(f'norm: "{config.norm}": transformers\' Mamba norms by RMSNorm')
    about: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layer,
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
        "use_cache": False,
    }
    if config.mixers[0] == "mamba":
        sizes = {
            "state_size": config.d_state,
            "conv_kernel": config.d_conv,
            "expand": config.expand,
            "time_step_rank": config.rank,
        }
        return {**about, **sizes, "model_type": "mamba", "architectures": ["MambaForCausalLM"]}
    inside = config.mamba2 or Mamba2Config()
    sizes = {
        "state_size": inside.d_state,
        "conv_kernel": inside.d_conv,
        "expand": inside.expand,
        "head_dim": inside.head_dim,
        "num_heads": inside.expand * config.d_model // inside.head_dim,
        "n_groups": inside.groups,
    }
    return {**about, **sizes, "model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"]}


def transformers_name(name: str) -> str:
    """Return what transformers calls a parameter; published checkpoints call it as we do."""
    return name.replace("backbone.embedding.", "backbone.embeddings.")


def _renamed(model: LanguageModel) -> dict[str, Tensor]:
    return {transformers_name(name): weight for name, weight in model.state_dict().items()}


_TOKENIZER_CONFIG = {
    "tokenizer_config.json": {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "unk_token": "N",
        "mask_token": MASK,
    }
}


def _tokenizer(config: ModelConfig) -> dict[str, Any]:
    """Describe a tokenizer of single letters, in either case; every other letter is N."""
    vocabulary = dict(zip("ACGTN", config.ids, strict=True))
    mask = {"id": config.mask_id, "content": MASK, "special": True, "single_word": False}
    raised = [
        {"type": "Replace", "pattern": {"String": letter.lower()}, "content": letter}
        for letter in "ACGT"
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{**mask, "lstrip": False, "rstrip": False, "normalized": False}],
        "normalizer": {"type": "Sequence", "normalizers": raised},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "."},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {**vocabulary, MASK: config.mask_id},
            "unk_token": "N",
        },
    }
