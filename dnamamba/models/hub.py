"""Where a model lies: a folder, or a repository of the Hugging Face hub, which is fetched once."""

import re
from pathlib import Path
from typing import Final

from dnamamba.errors import CheckpointError
from dnamamba.models.pretrained import CARD, CONFIG, WEIGHTS

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def model_folder(place: Path | str) -> Path:
    """Return the folder of a model.

    Parameters
    ----------
    place
        A folder; or the `owner/name` of a repository on the hub, which comes with its safetensors,
        its config and its card, and from the hub's cache where it has been fetched before.

    Raises
    ------
    CheckpointError
        Where it cannot be fetched, or the library that fetches is missing.
    """
    folder = Path(place)
    if folder.exists() or isinstance(place, Path) or not _HUB_ID.fullmatch(place):
        return folder
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"{place}: no such folder; to fetch it from the hub, pip install 'dnamamba[hub]'"
        ) from error
    try:
        return Path(snapshot_download(place, allow_patterns=[CONFIG, WEIGHTS, CARD]))
    except (OSError, ValueError) as error:  # those of the hub and of the network are either
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{place}: no such folder, nor on the hub: {reason}") from error
