"""Long DNA sequences with Mamba."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dnamamba.data.genome import Genome as Genome
    from dnamamba.inference.model import load as load

_LAZY = {"Genome": "dnamamba.data.genome", "load": "dnamamba.inference.model"}

__all__ = ["Genome", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'dnamamba' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
