"""A model on disk: a folder of config.json, model.safetensors and README.md (its card).

The same weights give the same bytes. Folders that others publish are read too (`formats`). Nothing
that a user names is ever executed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from dnamamba.config import from_dict, to_dict
from dnamamba.errors import CheckpointError, UsageError
from dnamamba.files import (
    PICKLE_SUFFIXES,
    atomic_path,
    begins_as_pickle,
    describe_os_error,
    sha256,
    write_text,
)
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.formats import published_config, published_weights
from dnamamba.models.formats.vocabulary import Vocabulary
from dnamamba.models.formats.weights import weight_files
from dnamamba.models.heads import LanguageModel
from dnamamba.models.hub import model_folder
from dnamamba.models.presets import preset_name

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
MODEL_TYPE = "dnamamba"
FORMAT = 1


def save(model: LanguageModel, folder: Path, card: str) -> None:
    """Write a model into `folder`, which may hold other files; each file appears whole or not.

    Parameters
    ----------
    model
        Its weights are stored in the type that they have; a tied weight once.
    folder
        Made where it does not exist.
    card
        Text of README.md; `model_card` writes one.

    Raises
    ------
    DnamambaError
        Where the disk is full or the folder cannot be written.
    """
    about = {"format": FORMAT, "model_type": MODEL_TYPE, **to_dict(model.config)}
    write_text(folder / CONFIG, json.dumps(about, indent=2, sort_keys=True) + "\n")
    write_text(folder / CARD, card)
    weights = {name: tensor.cpu().contiguous() for name, tensor in _stored(model).items()}
    # a single metadata key: several are written in a random order
    content = to_safetensors(weights, metadata={"format": "pt"})
    with atomic_path(folder / WEIGHTS) as temporary:
        temporary.write_bytes(content)


Kind = TypeVar("Kind", bound=LanguageModel)


@overload
def load(
    folder: Path | str, device: torch.device | str = ..., *, ids: Vocabulary | None = ...
) -> LanguageModel: ...


@overload
def load(
    folder: Path | str,
    device: torch.device | str = ...,
    *,
    kind: type[Kind],
    ids: Vocabulary | None = ...,
) -> Kind: ...


def load(
    folder: Path | str,
    device: torch.device | str = "cpu",
    *,
    kind: type[LanguageModel] = LanguageModel,
    ids: Vocabulary | None = None,
) -> LanguageModel:
    """Read a model that `save` wrote, or that others published, ready for use (in eval mode).

    Parameters
    ----------
    folder
        A model folder or a run folder; or `owner/name` on the Hugging Face hub.
    device
        Where to put the weights.
    kind
        The class to build.
    ids
        The ids of bases of a published model whose folder does not say them.

    Raises
    ------
    CheckpointError
        Naming the file and what is wrong: not a model folder, a broken config.json or one of an
        unknown architecture, weights that are cut short, of another model, or a pickle that holds
        more than tensors.
    """
    folder = model_folder(folder)
    about = _read_about(folder)
    config = _config_of(folder, about, ids)
    published = None
    if _is_published(about):
        config, published = published_weights(folder, about, config)
    with torch.random.fork_rng(devices=[]):
        model = kind(config)
    if published is None:
        weights = _read_weights(folder / WEIGHTS, model)
    else:
        weights = published
        _compare(folder, _shapes(weights), _shapes(_stored(model)))
    model.load_state_dict(weights, strict=not config.tie_embeddings)
    return model.to(device).eval()


def is_model_folder(folder: Path) -> bool:
    """Tell whether `folder` holds a config and weights."""
    return (folder / CONFIG).is_file() and bool(weight_files(folder))


def fingerprint(folder: Path) -> tuple[int, str]:
    """Return the bytes that the weights of a model folder take on disk, and their SHA-256.

    Of weights in several files it is the SHA-256 of theirs, in the order of their names.

    Raises
    ------
    CheckpointError
        Where there are none.
    """
    files = weight_files(folder)
    if not files:
        raise CheckpointError(f"{folder}: not a model folder: {WEIGHTS} missing")
    digests = [sha256(path) for path in files]
    one = digests[0] if len(files) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return sum(path.stat().st_size for path in files), one


def read_config(folder: Path | str) -> ModelConfig:
    """Read the config of a model folder, ours or published, or of a repository of the hub.

    Raises
    ------
    CheckpointError
        If config.json is missing, is no JSON, or is not of a model that can be read.
    """
    folder = model_folder(folder)
    return _config_of(folder, _read_json(folder / CONFIG), None)


def _config_of(folder: Path, about: dict[str, Any], ids: Vocabulary | None) -> ModelConfig:
    if _is_published(about):
        return published_config(folder, about, ids)
    path, values = folder / CONFIG, dict(about)
    del values["model_type"]
    version = values.pop("format", None)
    if version != FORMAT:
        raise CheckpointError(
            f"{path}: format is {version!r}, and this dnamamba reads {FORMAT}; "
            "pip install -U dnamamba"
        )
    try:
        return from_dict(ModelConfig, values, str(path))
    except UsageError as error:
        raise CheckpointError(_with_place(str(error), path)) from error


def _is_published(about: Mapping[str, Any]) -> bool:
    return about.get("model_type") != MODEL_TYPE


def _read_about(folder: Path) -> dict[str, Any]:
    """Read config.json, once there is a folder that may be a model's."""
    _require_model_folder(folder)
    about = _read_json(folder / CONFIG)
    if not _is_published(about) and not (folder / WEIGHTS).is_file():
        pickles = sorted(path for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
        if pickles:
            raise _pickled(pickles[0])
        raise CheckpointError(f"{folder}: not a model folder: {WEIGHTS} missing")
    return about


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(str(describe_os_error(error, path))) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: no table of settings")
    return values


def model_card(
    model: LanguageModel,
    *,
    name: str,
    data: Sequence[str],
    metrics: Mapping[str, float],
    notes: str = "",
) -> str:
    """Write a model card in Markdown.

    Parameters
    ----------
    model
        The model to describe.
    name
        Its title.
    data
        What it was trained on, one line each.
    metrics
        Held-out figures, by name.
    notes
        Text for the end.
    """
    config = model.config
    size = preset_name(config)
    facts = {
        "size": f"{f'preset {size}, ' if size else ''}{model.parameters_count:,} parameters",
        "blocks x width": f"{config.n_layer} x {config.d_model} ({', '.join(config.mixers)})",
        "objective": f"{config.objective} base" + ("s" if config.objective == "masked" else ""),
        "bidirectional": "yes" if config.bidirectional else "no",
        "reverse complement": config.symmetry,
    }
    lines = [
        "---",
        "library_name: dnamamba",
        "tags: [dna, genomics, mamba]",
        "---",
        "",
        f"# {name}",
    ]
    lines += ["", "A Mamba language model of DNA."]
    lines += ["", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())]
    lines += ["", "## Training data", "", *(f"- {line}" for line in data)]
    lines += ["", "## Held-out figures", "", "| metric | value |", "|---|---|"]
    lines += [f"| {key} | {value:.4g} |" for key, value in metrics.items()]
    lines += ["", "## Use", "", "```python", "import dnamamba", ""]
    lines += ['model = dnamamba.load("path/to/this/folder")', "```"]
    return "\n".join([*lines, *(["", notes] if notes else [])]) + "\n"


def _stored(model: LanguageModel) -> dict[str, Tensor]:
    weights = model.state_dict()
    if model.config.tie_embeddings:
        del weights["lm_head.weight"]
    return weights


def _require_model_folder(folder: Path) -> None:
    if not folder.exists():
        raise CheckpointError(f"{folder}: no such folder")
    if not folder.is_dir():
        if folder.suffix in PICKLE_SUFFIXES or _is_pickle(folder):
            raise _pickled(folder)
        raise CheckpointError(f"{folder}: is a file; name the folder that holds {WEIGHTS}")
    if not (folder / CONFIG).is_file():
        missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
        raise CheckpointError(f"{folder}: not a model folder: {' and '.join(missing)} missing")


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as handle:
        return begins_as_pickle(handle.read(9))


def _pickled(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: holds a pickle; it is never executed; if you trust it, convert its tensors "
        f"with safetensors.torch.save_file"
    )


def _read_weights(path: Path, model: LanguageModel) -> dict[str, Tensor]:
    """Read the tensors of `path`, once their names and shapes are those of `model`."""
    if _is_pickle(path):
        raise _pickled(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            _compare(path, found, _shapes(_stored(model)))
            return {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: cut short or not a safetensors file ({error}); fetch or save it again"
        ) from error
    except OSError as error:
        raise CheckpointError(str(describe_os_error(error, path))) from error


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def _compare(
    path: Path, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    for name, shape in wanted.items():
        if name in found and found[name] != shape:
            raise CheckpointError(
                f"{path}: {name} has shape {found[name]}, and {CONFIG} asks for {shape}: "
                "the two are of different models"
            )
    for what, names in (("lacks", wanted.keys() - found), ("has unknown", found.keys() - wanted)):
        if names:
            first = min(names)
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(
                f"{path}: {what} {first}{more}; it and {CONFIG} are of different models"
            )


def _with_place(message: str, path: Path) -> str:
    return message if message.startswith(str(path)) else f"{path}: {message}"
