"""Settings of published configs: what has to be what, and sizes that are rounded up."""

from collections.abc import Mapping
from typing import Any

from dnamamba.errors import CheckpointError


def require(
    about: Mapping[str, Any], wanted: Mapping[str, Any], where: str = "config.json"
) -> None:
    """Refuse a setting that is there and is none of its `wanted` values.

    Parameters
    ----------
    about
        Settings.
    wanted
        By name: the value, or a tuple of those that will do.

    Raises
    ------
    CheckpointError
        Naming the setting, what it is, and what could be read.
    """
    for name, value in wanted.items():
        options = value if isinstance(value, tuple) else (value,)
        if name in about and about[name] not in options:
            raise CheckpointError(
                f"{where}: {name} is {about[name]!r}, and what is here reads "
                f"{' or '.join(repr(option) for option in options)}"
            )


def padded(about: Mapping[str, Any], multiple: int = 1) -> int:
    """Return the rows of the embedding: vocab_size, rounded up as the config says."""
    size, step = int(about["vocab_size"]), int(about.get("pad_vocab_size_multiple", multiple))
    return -(-size // step) * step


def rank(value: Any, width: int) -> int | None:
    """Read dt_rank, a number or "auto"; None is the usual one of a model of this width."""
    usual = -(-width // 16)
    return None if value in (None, "auto", usual) else int(value)
