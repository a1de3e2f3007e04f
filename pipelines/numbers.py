"""Counts on the command line: `1024`, `1,024`, `131_072`, `1k`, `2.5M`, `16Ki`."""

import re
from typing import TYPE_CHECKING, Any, Final

import click

from dnamamba.errors import UsageError

if TYPE_CHECKING:
    IntType = click.ParamType[int]
    NamesType = click.ParamType[tuple[str, ...]]
    CountsType = click.ParamType[tuple[int, ...]]
else:  # generic in new releases of Click only
    IntType = NamesType = CountsType = click.ParamType

_FACTORS: Final = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
_BINARY: Final = {"ki": 2**10, "mi": 2**20, "gi": 2**30}
_NUMBER: Final = re.compile(r"(?P<number>[0-9][0-9,_]*(\.[0-9]+)?)(?P<suffix>[kmg]?i?)", re.I)


class Count(IntType):
    """A whole number of 1 or more; k, M, G are powers of 1,000 and Ki, Mi, Gi of 1,024."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read a count, or refuse it with an example."""
        if isinstance(value, int):
            return value
        match = _NUMBER.fullmatch(str(value).strip())
        suffix = match["suffix"].lower() if match else "?"
        factor = {**_FACTORS, **_BINARY}.get(suffix)
        if match is None or factor is None:
            self.fail(f"{value!r} is not a count; write 1024, 131,072, 500k, 2.5M or 16Ki")
        count = float(match["number"].replace(",", "").replace("_", "")) * factor
        if count < 1 or count != int(count):
            self.fail(f"{value!r} is not a whole number of 1 or more")
        return int(count)


def read_shape(text: str, axes: str, example: str) -> tuple[int, ...]:
    """Read a shape such as `8x131072`, each part as `Count` reads it.

    Parameters
    ----------
    text
        What was given as `--shape`.
    axes
        What is wanted, such as `BATCHxLENGTH`.
    example
        A shape of that form, for the error.

    Raises
    ------
    UsageError
        For another text.
    """
    parts = text.split("x")
    try:
        counts = tuple(Count().convert(part, None, None) for part in parts)
    except click.BadParameter:
        counts = ()
    if len(counts) != len(axes.split("x")):
        raise UsageError(f"--shape {text}: {axes} is wanted, such as {example}")
    return counts


class Names(NamesType):
    """Names with commas between them."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Read the names, and refuse an empty list."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(",") if name.strip())
        if not names:
            self.fail("give at least one name")
        return names


class Counts(CountsType):
    """Counts with commas between them, such as `4096,1Mi`; `1,024` is two."""

    name = "counts"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Read the counts, and refuse an empty list."""
        if isinstance(value, tuple):
            return value
        return tuple(Count().convert(n, param, ctx) for n in Names().convert(value, param, ctx))


def show_bytes(size: float) -> str:
    """Write a number of bytes: `1.25 GB`."""
    return f"{_short(size)}B"


def show_count(count: float) -> str:
    """Write a number shortly: `63 M`."""
    return _short(count)


def _short(number: float) -> str:
    for prefix in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.3g} {prefix}"
        number /= 1000
    return f"{number:.3g} T"
