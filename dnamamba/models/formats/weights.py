"""The tensors of a published folder: safetensors, or a pickle of which nothing is executed.

A pickle is read by PyTorch's own reader of tensors alone (`weights_only`), which refuses whatever
would call code.
"""

import json
import pickle
import warnings
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dnamamba.errors import CheckpointError
from dnamamba.files import describe_os_error

FILES: Final = ("model.safetensors", "pytorch_model.bin", "weights.ckpt")
"""Files of weights, and the first that is there is read; either may come in parts, by an index."""


def weight_files(folder: Path) -> list[Path]:
    """List the files that `read_tensors` would read, an index first; none where there are none.

    Raises
    ------
    CheckpointError
        For an index that is none, or that names a file that is not there.
    """
    for name in FILES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            return [index, *_parts(index)]
    return []


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a folder, by their published names.

    Raises
    ------
    CheckpointError
        Naming the file: none there, cut short, or a pickle that holds more than tensors.
    """
    files = [path for path in weight_files(folder) if path.suffix != ".json"]
    if not files:
        raise CheckpointError(f"{folder}: no weights: none of {', '.join(FILES)}")
    tensors: dict[str, Tensor] = {}
    for path in files:
        tensors.update(_read(path))
    return tensors


def _parts(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{index}: not an index of weights: {error}") from error
    paths = [index.parent / Path(name).name for name in sorted(names)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise CheckpointError(f"{index}: {missing[0]} is missing; fetch the folder again")
    return paths


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            found: dict[str, Tensor] = load_file(path)
            return found
        with warnings.catch_warnings(action="ignore"):  # of protocols, before it refuses them
            content = torch.load(path, map_location="cpu", weights_only=True)
        return _only_tensors(content, path)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: cut short or not a safetensors file ({error}); fetch it again"
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: a pickle that holds more than tensors ({_reason(error)}); it is not "
            "executed; ask its maker for safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path}: cut short or no weights ({_reason(error)})") from error
    except OSError as error:
        raise CheckpointError(str(describe_os_error(error, path))) from error


def _only_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """Take the tensors of a file, which may lie beside a training's other state."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: holds a {type(content).__name__}, and no names with tensors"
        )
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _reason(error: Exception) -> str:
    """Say what PyTorch's reader met, without its advice on how to execute it all the same."""
    text = " ".join(str(error).split())
    for mark in ("Unsupported global: ", "Unsupported operand "):
        if mark in text:
            return mark.lower() + text.split(mark, 1)[1].split(" was not", 1)[0].split(". ")[0]
    return text.split(". ")[0][:200]
