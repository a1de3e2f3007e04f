"""What stands beside a language model in its folder: a config and the tensors of a head, ours."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from dnamamba.config import from_dict, to_dict
from dnamamba.errors import CheckpointError, UsageError
from dnamamba.files import atomic_path, describe_os_error, write_text
from dnamamba.models.pretrained import FORMAT

Config = TypeVar("Config")


def write_config(path: Path, config: object) -> None:
    """Write a config dataclass as JSON, with the version of the format."""
    about = {"format": FORMAT, **to_dict(config)}
    write_text(path, json.dumps(about, indent=2, sort_keys=True) + "\n")


def read_config(path: Path, kind: type[Config]) -> Config:
    """Read what `write_config` wrote.

    Raises
    ------
    CheckpointError
        If it cannot be read, or is of another format.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.pop("format", None)
        if version != FORMAT:
            raise CheckpointError(
                f"{path}: format is {version!r}, and this dnamamba reads {FORMAT}; "
                "pip install -U dnamamba"
            )
        return from_dict(kind, values, str(path))
    except OSError as error:
        raise CheckpointError(str(describe_os_error(error, path))) from error
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error
    except UsageError as error:
        raise CheckpointError(str(error)) from error


def write_weights(path: Path, module: nn.Module) -> None:
    """Write a module's tensors, as `write_tensors` does."""
    write_tensors(path, module.state_dict())


def read_weights(path: Path, module: nn.Module, what: str) -> None:
    """Read what `write_weights` wrote into a module of the same form.

    Parameters
    ----------
    what
        What errors call it, such as `this classifier`.

    Raises
    ------
    CheckpointError
        If it cannot be read, or is of another module.
    """
    tensors = read_tensors(path, what)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise _damaged(path, what) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by their names; the same ones give the same bytes."""
    here = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_safetensors(here, metadata={"format": "pt"}))


def read_tensors(path: Path, what: str) -> dict[str, Tensor]:
    """Read what `write_tensors` wrote; parameters and errors as in `read_weights`."""
    try:
        return from_safetensors(path.read_bytes())
    except OSError as error:
        raise CheckpointError(str(describe_os_error(error, path))) from error
    except SafetensorError as error:
        raise _damaged(path, what) from error


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: damaged, or not of {what}; fit it again")
