"""Configurations: frozen dataclasses of plain values, in and out of dictionaries and TOML."""

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from dnamamba.errors import InputError, UsageError
from dnamamba.files import require_file

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a config dataclass into nested dictionaries of plain values."""
    return dataclasses.asdict(config)


def from_dict(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the config dataclass `kind` from `values`, checking names and types.

    Parameters
    ----------
    kind
        A dataclass whose fields are plain values, tuples, or other such dataclasses.
    values
        Field names and values; missing ones take their defaults.
    where
        What to call the source in an error, such as a file name.

    Raises
    ------
    UsageError
        For an unknown name (with the nearest known one) or a value of the wrong type.
    """
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(fields)}"
            raise UsageError(f"{where}: unknown setting {name!r}{hint}")
        arguments[name] = _convert(hints[name], value, f"{where}: {name}")
    missing = [
        name
        for name, field in fields.items()
        if name not in arguments
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UsageError(f"{where}: missing {', '.join(missing)}")
    return kind(**arguments)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        for option in options:
            if option is not type(None):
                return _convert(option, value, where)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            known = ", ".join(map(repr, typing.get_args(hint)))
            raise UsageError(f"{where}: {value!r} is not one of {known}")
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UsageError(f"{where}: {value!r} is not a table")
        return from_dict(typing.cast(type[Any], hint), value, where)
    if origin is tuple:
        (item, *_) = typing.get_args(hint)
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{where}: {value!r} is not a list")
        return tuple(_convert(item, element, where) for element in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (
        not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)
    ):
        raise UsageError(f"{where}: {value!r} is not of type {hint.__name__}")
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; a syntax error names the file and the line."""
    try:
        return tomllib.loads(require_file(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from error


def to_toml(values: Mapping[str, Any]) -> str:
    """Write plain values and one level of tables as TOML; None is left out."""
    flat = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    tables = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    lines = [f"{name} = {_toml(value)}" for name, value in flat.items() if value is not None]
    for table, inner in tables.items():
        lines += ["", f"[{table}]"]
        lines += [f"{name} = {_toml(value)}" for name, value in inner.items() if value is not None]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)
