"""Models that others published: their folders, read as ours.

A layout is a module with `NAME`, `recognises`, `config` and `translate`, as `Layout` says. Names
and settings follow the published code; what that can do and a block here cannot is refused by name.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol, cast

from torch import Tensor

from dnamamba.errors import CheckpointError, UsageError
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.formats import caduceus, hyenadna, state_spaces, transformers
from dnamamba.models.formats.vocabulary import Vocabulary, read_vocabulary
from dnamamba.models.formats.weights import read_tensors


class Layout(Protocol):
    """A published layout."""

    NAME: str
    """What its models are called."""

    def recognises(self, about: Mapping[str, Any]) -> bool:
        """Tell it by the content of config.json."""

    def config(self, about: Mapping[str, Any], vocabulary: Vocabulary) -> ModelConfig:
        """Describe the model; a CheckpointError names a setting that has no equal here."""

    def translate(
        self, weights: Mapping[str, Tensor], about: Mapping[str, Any], config: ModelConfig
    ) -> dict[str, Tensor]:
        """Rename and rearrange weights; a name that is not known stays as it is."""


LAYOUTS: Final = tuple(
    cast(Layout, module) for module in (state_spaces, transformers, caduceus, hyenadna)
)


def published_config(
    folder: Path, about: Mapping[str, Any], ids: Vocabulary | None = None
) -> ModelConfig:
    """Describe a published model.

    Parameters
    ----------
    folder
        Its folder.
    about
        The content of its config.json.
    ids
        The ids of bases, where the folder does not say them.

    Raises
    ------
    CheckpointError
        For an unknown architecture (naming those known), a setting that has no equal here, or ids
        that are not known.
    """
    layout = _layout(folder, about)
    try:
        return layout.config(about, ids or read_vocabulary(folder, about))
    except (UsageError, CheckpointError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except KeyError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error.args[0]} is missing") from error


def published_weights(
    folder: Path, about: Mapping[str, Any], config: ModelConfig
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read the weights of a published model, by our names.

    Returns
    -------
    The config, which says whether the head is the embedding, and the weights.

    Raises
    ------
    CheckpointError
        For weights that cannot be read, or that say what the config does not.
    """
    try:
        weights = _layout(folder, about).translate(read_tensors(folder), about, config)
    except CheckpointError as error:
        text = str(error)
        raise CheckpointError(text if str(folder) in text else f"{folder}: {text}") from error
    return _tied(config, weights)


def _layout(folder: Path, about: Mapping[str, Any]) -> Layout:
    for layout in LAYOUTS:
        if layout.recognises(about):
            return layout
    what = about.get("model_type") or ", ".join(about.get("architectures") or []) or None
    known = ", ".join(["dnamamba", *(layout.NAME for layout in LAYOUTS)])
    raise CheckpointError(
        f"{folder / 'config.json'}: architecture {what!r} is not known; known: {known}"
    )


def _tied(config: ModelConfig, weights: dict[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Tie the head to the embedding where they are one and the same, whatever a config says."""
    head, embedding = weights.get("lm_head.weight"), weights.get("backbone.embedding.weight")
    tied = head is None or (
        embedding is not None and head.shape == embedding.shape and bool((head == embedding).all())
    )
    if tied:
        weights = {name: w for name, w in weights.items() if name != "lm_head.weight"}
    return replace(config, tie_embeddings=tied), weights
