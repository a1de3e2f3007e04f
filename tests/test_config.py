from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from dnamamba.config import from_dict, read_toml, to_dict, to_toml
from dnamamba.errors import InputError, UsageError


@dataclass(frozen=True)
class Inner:
    rate: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.95)


@dataclass(frozen=True)
class Outer:
    name: str
    steps: int = 10
    limit: int | None = None
    mode: Literal["next", "masked"] = "next"
    fast: bool = False
    inner: Inner = field(default_factory=Inner)


def test_there_and_back_through_toml(tmp_path: Path) -> None:
    config = Outer('a "quoted" \\ name\n\u00e9', 5, None, "masked", True, Inner(2e-4, (0.5, 1.0)))
    path = tmp_path / "config.toml"
    path.write_text(to_toml(to_dict(config)), encoding="utf-8")
    assert from_dict(Outer, read_toml(path), "config.toml") == config


def test_defaults_and_conversions() -> None:
    assert from_dict(Outer, {"name": "x"}, "x") == Outer("x")
    assert from_dict(Inner, {"rate": 1}, "x").rate == 1.0
    assert isinstance(from_dict(Inner, {"rate": 1}, "x").rate, float)
    assert from_dict(Inner, {"betas": [1, 2]}, "x").betas == (1.0, 2.0)
    assert from_dict(Outer, {"name": "x", "limit": 3}, "x").limit == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "x.toml: missing name"),
        ({"name": "x", "stepz": 1}, "x.toml: unknown setting 'stepz'; did you mean 'steps'?"),
        ({"name": "x", "qqq": 1}, "unknown setting 'qqq'; known: name, steps"),
        ({"name": 5}, "x.toml: name: 5 is not of type str"),
        ({"name": "x", "steps": "5"}, "x.toml: steps: '5' is not of type int"),
        ({"name": "x", "steps": True}, "steps: True is not of type int"),
        ({"name": "x", "steps": 1.5}, "steps: 1.5 is not of type int"),
        ({"name": "x", "limit": "a"}, "limit: 'a' is not of type int"),
        ({"name": "x", "mode": "other"}, "mode: 'other' is not one of 'next', 'masked'"),
        ({"name": "x", "inner": {"rats": 1}}, "x.toml: inner: unknown setting 'rats'"),
        ({"name": "x", "inner": {"betas": ["a"]}}, "inner: betas: 'a' is not of type float"),
    ],
)
def test_faults_name_file_and_setting(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_dict(Outer, values, "x.toml")
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "inner": 5}, "x.toml: inner"),
        ({"name": "x", "inner": {"betas": 5}}, "x.toml: inner: betas"),
    ],
)
def test_a_value_where_a_table_or_list_is_wanted(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_dict(Outer, values, "x.toml")


@pytest.mark.parametrize("content", [b"steps = = 5\n", b"\xff\xfe"])
def test_bad_toml_names_the_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"config\.toml: not valid TOML"):
        read_toml(path)
    with pytest.raises(InputError, match="no such file"):
        read_toml(tmp_path / "nosuch.toml")
