"""Training states: weights, optimiser moments and step in one safetensors file, resumed exactly.

A state is written under a temporary name, then renamed; the last two are kept, and the newest that
is whole wins. Pickles are refused unread.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from dnamamba.errors import CheckpointError, UsageError
from dnamamba.files import PICKLE_SUFFIXES, atomic_path, begins_as_pickle
from dnamamba.log import logger
from dnamamba.processes import ALONE, Processes
from dnamamba.training.parallel import sharded_like, whole

FOLDER: Final = "training_state"
KEEP: Final = 2
_FORMAT: Final = "dnamamba training state 1"


def write_state(
    run: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Mapping[str, Any],
    processes: Processes = ALONE,
) -> Path:
    """Write the state after `step` steps into `run`/training_state and drop all but the last two.

    What is written does not depend on the processes, nor on whether the model is sharded.

    Parameters
    ----------
    run
        The run folder.
    step
        Steps done.
    model, optimizer
        What is saved: parameters and moments, by parameter name.
    settings
        Plain values that a resume has to agree with, such as preset, length and seed.
    processes
        Who trains the model. All call this, and the first writes.

    Raises
    ------
    DnamambaError
        Where the disk is full; the states before stay as they are.
    """
    tensors = {}
    for name, tensor in _named_tensors(model, optimizer).items():
        gathered = whole(tensor.detach())
        if processes.is_first:
            tensors[name] = gathered.cpu().contiguous()
    path = _path(run, step)

    def write() -> None:
        metadata = {
            "format": _FORMAT,
            "step": str(step),
            "settings": json.dumps(dict(settings), sort_keys=True),
            "sha256": _digest(tensors),
        }
        with atomic_path(path) as temporary:
            temporary.write_bytes(save(tensors, metadata))
        for old in list_states(run)[KEEP:]:
            old.unlink()

    processes.on_first(write)
    return path


def list_states(run: Path) -> list[Path]:
    """List the training states in a run folder, newest first."""
    return sorted((run / FOLDER).glob("step-*.safetensors"), reverse=True)


def state_step(path: Path) -> int:
    """Read from a state's name after how many steps it was written."""
    return int(path.stem.removeprefix("step-"))


def restore_state(
    run: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Mapping[str, Any],
    processes: Processes = ALONE,
) -> tuple[int, dict[str, Any]]:
    """Load the newest whole training state into `model` and `optimizer`.

    A damaged state is passed over with a warning if the one before is whole.

    Parameters
    ----------
    run, model, optimizer, settings, processes
        As for `write_state`; the first process reads for all.

    Returns
    -------
    Its step, and all the settings it was written with; 0 and none, and nothing is changed, where
    the run has no training state yet.

    Raises
    ------
    CheckpointError
        If no state is whole, or one is a pickle.
    UsageError
        If the state was made with other settings.
    """
    state = processes.on_first(lambda: _read_newest(run, settings))
    if state is None:
        return 0, {}
    path, metadata, tensors = state
    _load_into(path, tensors, model, optimizer)
    return int(metadata["step"]), json.loads(metadata["settings"])


def _read_newest(
    run: Path, settings: Mapping[str, Any]
) -> tuple[Path, dict[str, str], dict[str, Tensor]] | None:
    """Find the newest whole state; what `restore_state` says."""
    for path in sorted((run / FOLDER).glob("*")):
        if path.suffix in PICKLE_SUFFIXES:
            raise CheckpointError(_refusal(path))
    paths = list_states(run)
    for path in paths:
        try:
            metadata, tensors = read_state(path)
        except _DamagedError as damage:
            logger.warning("%s is damaged (%s): trying the one before", path, damage)
            continue
        _require_same(path, json.loads(metadata["settings"]), settings)
        return path, metadata, tensors
    if paths:
        raise CheckpointError(
            f"{paths[0]}: damaged, and so is every other training state of the run: "
            f"remove {run / FOLDER} and --resume to start at zero"
        )
    return None


class _DamagedError(Exception):
    """A training state that is not whole."""


def read_state(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read the metadata and the tensors of one state, and check them against their checksum."""
    raw = path.read_bytes()
    if begins_as_pickle(raw[:9]):
        raise CheckpointError(_refusal(path))
    try:
        tensors = load(raw)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    except (safetensors.SafetensorError, ValueError) as error:
        raise _DamagedError(str(error)) from error
    metadata: dict[str, str] = header.get("__metadata__", {})
    if metadata.get("format") != _FORMAT:
        raise _DamagedError("no training state of this version")
    if metadata.get("sha256") != _digest(tensors):
        raise _DamagedError("its checksum does not match")
    return metadata, tensors


def remove_leftovers(run: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote into `run`."""
    for folder in (run, run / FOLDER):
        for path in folder.glob(".*.tmp"):
            path.unlink()


def _path(run: Path, step: int) -> Path:
    return run / FOLDER / f"step-{step:09d}.safetensors"


def _refusal(path: Path) -> str:
    return f"{path}: holds a pickle, which is never loaded: remove it, or resume another run folder"


def _named_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    states = optimizer.state_dict()["state"]
    moments = {each: states.get(index, {}) for index, each in enumerate(_optimised(optimizer))}
    for name, parameter in model.named_parameters():
        named[f"weights.{name}"] = parameter
        for moment, value in moments.get(parameter, {}).items():
            named[f"optimizer.{moment}.{name}"] = value
    return named


def _optimised(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """List parameters in the order in which a state dict numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _load_into(
    path: Path, tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    parameters = dict(model.named_parameters())
    weights: dict[str, Tensor] = {}
    moments: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "weights":
            weights[name] = tensor
        else:
            moment, _, name = name.partition(".")
            moments.setdefault(name, {})[moment] = tensor
    for name in sorted(weights.keys() ^ parameters.keys()):
        where = "the model" if name in weights else "the file"
        raise CheckpointError(f"{path}: {where} has no {name!r}; start again with --force")
    for name, parameter in parameters.items():
        if weights[name].shape != parameter.shape:
            shapes = f"{list(weights[name].shape)}, and the model's is {list(parameter.shape)}"
            raise CheckpointError(f"{path}: {name} is of shape {shapes}; start again with --force")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(sharded_like(parameter, weights[name]))
    names = {parameter: name for name, parameter in parameters.items()}
    state = {
        index: {
            moment: sharded_like(parameter, tensor)
            for moment, tensor in moments[names[parameter]].items()
        }
        for index, parameter in enumerate(_optimised(optimizer))
    }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _require_same(path: Path, saved: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if saved.get(name) != value:
            raise UsageError(
                f"{path}: was made with {name} {saved.get(name)}, and this run has {value}: "
                "give the same settings, or start again with --force"
            )


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        raw = tensors[name].contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()
