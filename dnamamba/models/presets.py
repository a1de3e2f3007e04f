"""Models by name: the sizes of the Mamba paper's genomics experiments (arXiv 2312.00752).

470k is that of Caduceus on short labelled sequences (arXiv 2403.03234).
"""

import dataclasses
import difflib
from typing import Any

from dnamamba.errors import UsageError
from dnamamba.models.backbone import ModelConfig


def _size(layers: int, width: int) -> ModelConfig:
    """Build a size of the paper; it counts a Mamba block as half a layer."""
    return ModelConfig(d_model=width, n_layer=2 * layers)


PRESETS: dict[str, ModelConfig] = {
    "250k": _size(4, 64),
    "470k": _size(2, 128),
    "700k": _size(5, 96),
    "1.4m": _size(6, 128),
    "3.5m": _size(7, 192),
    "7.0m": _size(8, 256),
    "19.3m": _size(10, 384),
    "40.7m": _size(12, 512),
}
_ALIASES = {"7m": "7.0m"}


def preset(name: str, **overrides: Any) -> ModelConfig:
    """Look a preset up, and change fields of it.

    Parameters
    ----------
    name
        A key of `PRESETS`, in either case; `7m` is `7.0m`.
    **overrides
        Fields of `ModelConfig`.

    Raises
    ------
    UsageError
        For an unknown name or field, or fields that do not fit together.
    """
    key = _ALIASES.get(name.lower(), name.lower())
    if key not in PRESETS:
        raise UsageError(f"preset: {name!r} is not one of {', '.join(PRESETS)}")
    known = [field.name for field in dataclasses.fields(ModelConfig)]
    for field in overrides:
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise UsageError(f"preset {name}: unknown setting {field!r}; {hint}")
    return dataclasses.replace(PRESETS[key], **overrides)


def preset_name(config: ModelConfig) -> str | None:
    """Name the preset whose size `config` has, whatever its objective and options; or None."""
    sized = ("d_model", "n_layer", "mixers", "d_state", "d_conv", "expand", "rank")
    for name, candidate in PRESETS.items():
        if all(getattr(config, field) == getattr(candidate, field) for field in sized):
            return name
    return None
