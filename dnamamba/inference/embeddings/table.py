"""What is known of the rows and dims of embeddings, checked, and ready for any format."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.data.region import Region
from dnamamba.errors import UsageError

ROW_NAME: Final = "row_name"
"""The column of row names, in formats that have no place of their own for them."""
_PLACE: Final = ("chrom", "start", "end")
_CATEGORICAL: Final = ("chrom", "strand")
_SLICE_BYTES: Final = 2**24
_CONTIGS_SHOWN: Final = 5


@dataclass(frozen=True)
class Categorical:
    """A column of text with few values.

    Attributes
    ----------
    codes
        (rows,) signed integers, places in `categories`.
    categories
        (values,) str objects, each once, sorted so that chr2 comes before chr10.
    """

    codes: NDArray[np.signedinteger[Any]]
    categories: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice) -> NDArray[np.object_]:
        texts: NDArray[np.object_] = self.categories[self.codes[rows]]
        return texts


Column = NDArray[Any] | Categorical
"""Of numbers or bools, of str objects, or of few of them."""


@dataclass(frozen=True)
class Table:
    """All but the values: names of the rows and dims, columns, and what is true of all rows.

    Attributes
    ----------
    names
        (rows,) str objects, each once.
    dims
        (dims,) str objects, each once.
    obs
        Columns by name, (rows,) each.
    about
        Nested dictionaries of str, int, float, bool and lists of these.
    """

    names: NDArray[np.object_]
    dims: NDArray[np.object_]
    obs: dict[str, Column]
    about: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dims."""
        return len(self.names), len(self.dims)


def make_table(
    obs: Mapping[str, NDArray[Any]],
    about: Mapping[str, Any],
    dims: Sequence[str],
    names: Sequence[str] | None = None,
) -> Table:
    """Check what `write_embeddings` was given, and make what it was not.

    Raises
    ------
    UsageError
        Where lengths differ, a dim's name comes twice or is a column's, or something is of a type
        that cannot be stored.
    """
    twice = [name for name, count in Counter([*dims, *obs]).items() if count > 1]
    if twice:
        raise UsageError(f"{twice[0]!r} names two columns: rename one of them")
    rows = _texts("names", _regions(obs) if names is None else names)
    for name, column in obs.items():
        if column.shape != rows.shape:
            raise UsageError(f"column {name!r} has shape {column.shape} for {len(rows):,} rows")
    columns = {name: _column(name, column) for name, column in obs.items()}
    return Table(_unique(rows), _texts("dims", dims), columns, _plain(about))


def require_column(name: str, reserved: Sequence[str], suffix: str) -> None:
    """Refuse a column's name that a format cannot hold.

    Raises
    ------
    UsageError
        Naming the column.
    """
    if name in reserved:
        raise UsageError(f"{suffix} keeps {name!r} for itself: rename that column")
    if not name or "/" in name or "\0" in name or name == ".":
        raise UsageError(f"column {name!r}: a name without a slash is wanted: rename it")


def slices(rows: int, row_bytes: int, size: int = _SLICE_BYTES) -> Iterator[slice]:
    """Part rows into slices of about `size` bytes."""
    step = max(1, size // max(1, row_bytes))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def covers(columns: Sequence[str], read: Callable[[str], NDArray[Any]]) -> list[str]:
    """Say from where to where rows lie on each of the first contigs, as samtools writes it.

    Parameters
    ----------
    columns
        Names of a table's columns; where it has no places, nothing is said.
    read
        Returns (rows,) text or numbers of a column.
    """
    if not set(_PLACE) <= set(columns):
        return []
    chrom, start, end = map(read, _PLACE)
    contigs, codes = np.unique(chrom.astype(str), return_inverse=True)
    first = np.full(len(contigs), np.iinfo(np.int64).max)
    last = np.zeros(len(contigs), np.int64)
    np.minimum.at(first, codes, start)
    np.maximum.at(last, codes, end)
    spans = {
        str(contig): (int(low), int(high))
        for contig, low, high in zip(contigs, first, last, strict=True)
    }
    shown = sorted(spans, key=_natural)[:_CONTIGS_SHOWN]
    more = len(spans) - len(shown)
    return [
        *(str(Region(contig, *spans[contig])) for contig in shown),
        *([f"and {more:,} more contigs"] if more else []),
    ]


def _regions(obs: Mapping[str, NDArray[Any]]) -> list[str]:
    if not set(_PLACE) <= set(obs):
        raise UsageError("rows have no names: give `names`, or the columns chrom, start and end")
    chrom, start, end = (obs[name].tolist() for name in _PLACE)
    strand = obs["strand"].tolist() if "strand" in obs else ["+"] * len(chrom)
    return [
        str(Region(contig, first, last, "-" if side == "-" else "+"))
        for contig, first, last, side in zip(chrom, start, end, strand, strict=True)
    ]


def _unique(names: NDArray[np.object_]) -> NDArray[np.object_]:
    taken = set(names)
    if len(taken) == len(names):
        return names
    told, seen = [], Counter[str]()
    for name in names:
        new = name
        while name in seen and new in taken:
            new = f"{name}-{seen[name]}"
            seen[name] += 1
        seen[name] = seen[name] or 1
        taken.add(new)
        told.append(new)
    return np.array(told, dtype=object)


def _column(name: str, values: NDArray[Any]) -> Column:
    if values.dtype.kind in "biuf":
        return values
    texts = _texts(f"column {name!r}", values)
    distinct = set(texts)
    if name not in _CATEGORICAL and 2 * len(distinct) >= len(texts):
        return texts
    categories = np.array(sorted(distinct, key=_natural), dtype=object)
    place = {text: index for index, text in enumerate(categories)}
    smallest = np.min_scalar_type(-max(1, len(categories)))
    return Categorical(np.fromiter(map(place.__getitem__, texts), smallest, len(texts)), categories)


def _texts(what: str, values: Sequence[str] | NDArray[Any]) -> NDArray[np.object_]:
    texts = np.empty(len(values), dtype=object)
    texts[:] = values
    for text in texts:
        if not isinstance(text, str) or "\0" in text:
            raise UsageError(f"{what}: text without a zero byte is wanted, not {text!r}")
    return texts


def _natural(text: str) -> tuple[list[str | int], str]:
    parts = re.split("([0-9]+)", text)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], text


def _plain(about: Mapping[str, Any], place: str = "about") -> dict[str, Any]:
    """Leave None out, and refuse what not every format can hold."""
    plain: dict[str, Any] = {}
    for key, value in about.items():
        where = f"{place}.{key}"
        if "/" in key or not (isinstance(value, Mapping) or _is_storable(value)):
            raise UsageError(f"{where}: {value!r} cannot be stored under that name")
        if isinstance(value, Mapping):
            plain[key] = _plain(value, where)
        elif value is not None:
            plain[key] = list(value) if isinstance(value, tuple) else value
    return plain


def _is_storable(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, str) for item in value) or all(
            isinstance(item, (int, float)) for item in value
        )
    return value is None or isinstance(value, (str, int, float))
