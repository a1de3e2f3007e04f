"""Where a model lies: a folder, or a repository of the Hugging Face hub, and the way there."""

import re
from pathlib import Path
from typing import Any, Final

from dnamamba.errors import CheckpointError

SAFE: Final = ("*.json", "*.safetensors", "README.md")
"""What is fetched of a repository, once: it holds the ids of bases too."""
PICKLES: Final = ("*.bin", "*.ckpt")
"""What is fetched besides where there are no safetensors."""
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(place: Path | str) -> bool:
    """Tell whether `place` can only be `owner/name` on the hub: no folder is there."""
    return (
        not isinstance(place, Path) and not Path(place).exists() and bool(_HUB_ID.fullmatch(place))
    )


def model_folder(place: Path | str) -> Path:
    """Return the folder of a model.

    Parameters
    ----------
    place
        A folder; or the `owner/name` of a repository on the hub, which comes with its weights, its
        configs and its card, and from the hub's cache where it has been fetched before.

    Raises
    ------
    CheckpointError
        Where it cannot be fetched, or the library that fetches is missing.
    """
    if not is_hub_id(place):
        return Path(place)
    name = str(place)
    hub = _library(f"{name}: no such folder; to fetch it from the hub")
    try:
        folder = Path(hub.snapshot_download(name, allow_patterns=[*SAFE]))
        if not any(folder.glob("*.safetensors")):
            folder = Path(hub.snapshot_download(name, allow_patterns=[*SAFE, *PICKLES]))
    except (OSError, ValueError) as error:  # those of the hub and of the network are either
        raise CheckpointError(
            f"{name}: no such folder, nor on the hub: {_first_line(error)}"
        ) from error
    return folder


def model_name(place: Path | str) -> str:
    """Name a model for a record: its folder's name, or `owner/name` on the hub."""
    return str(place) if is_hub_id(place) else Path(place).resolve().name


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload a model folder to a repository of the hub, which is made where there is none.

    Parameters
    ----------
    folder
        A model folder; its config, weights, card and tokenizer go, and nothing else in it.
    name
        `owner/name`.
    private
        Whether a new repository is private.

    Returns
    -------
    Where it can be seen.

    Raises
    ------
    CheckpointError
        For a name that is none, or where the hub refuses.
    """
    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(f"{name}: owner/name is wanted, as on the hub")
    hub = _library(f"{name}: to push to the hub")
    files = ["config.json", "model.safetensors", "README.md", "tokenizer*.json"]
    try:
        place = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, allow_patterns=files)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{name}: the hub refused ({_first_line(error)}); hf auth login signs you in"
        ) from error
    return str(place)


def _library(purpose: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(f"{purpose}, pip install 'dnamamba[hub]'") from error
    return huggingface_hub


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
