"""Files of embeddings: written in slices, whole or not at all, the same bytes for the same input.

====================  ==========================================================================
`.h5ad`               AnnData: `X` (rows, dims), a table of the rows in `obs`, the rest in `uns`
`.parquet`            a column for each dim behind those of the table, for pandas, R and others
`.npz`                NumPy arrays, one for `values` and one for each column of the table
`.h5`                 one row per base, for output that is not pooled: chunked and compressed
====================  ==========================================================================
"""

import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dnamamba.errors import InputError, UsageError
from dnamamba.files import require_file
from dnamamba.inference.embeddings import hdf5, npz, parquet
from dnamamba.inference.embeddings.table import make_table, require_column

PER_BASE = ".h5"
_FORMATS = {
    ".h5ad": (hdf5.write_anndata, hdf5.describe, hdf5.RESERVED),
    ".parquet": (parquet.write, parquet.describe, parquet.RESERVED),
    ".npz": (npz.write, npz.describe, npz.RESERVED),
}
_DAMAGE = (
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What libraries raise where a file is not what it seems."""
SUFFIXES = (*_FORMATS, PER_BASE)
"""How files of embeddings are named."""


def require_format(path: Path, columns: Iterable[str] = (), *, per_base: bool = False) -> None:
    """Find out before any work that a file can be written later.

    Parameters
    ----------
    path
        Its suffix chooses the format.
    columns
        Names of the table's columns.
    per_base
        Whether there will be a row per base, for `write_bases`.

    Raises
    ------
    UsageError
        For a suffix that names no format, a column's name that the format cannot hold, or a
        library that is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in ((PER_BASE,) if per_base else _FORMATS):
        *some, last = _FORMATS
        raise UsageError(
            f"{path}: embeddings go to {', '.join(some)} or {last}, and one per base to "
            f"{PER_BASE}: choose another name with -o"
        )
    if suffix == ".parquet":
        parquet.require_pyarrow()
    reserved = hdf5.RESERVED if per_base else _FORMATS[suffix][2]
    for column in columns:
        require_column(column, reserved, suffix)


def write_embeddings(
    path: Path,
    values: NDArray[Any],
    obs: Mapping[str, NDArray[Any]],
    about: Mapping[str, Any],
    *,
    dims: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Write one embedding per row.

    Parameters
    ----------
    path
        `.h5ad`, `.parquet` or `.npz`; replaced where it exists.
    values
        (rows, dims) float16 or float32, in memory or mapped; read a slice of rows at a time.
    obs
        Column to (rows,) array of text, whole numbers, floats or bools. Text of few values is
        written as a categorical, and so are `chrom` and `strand`.
    about
        Nested dictionaries of text, numbers, bools and lists of these; None is left out.
    dims
        A name for each dim; "0", "1" and so on by default.
    names
        A name for each row; by default its region as samtools writes it, from the columns `chrom`,
        `start`, `end` (0-based, half-open) and, where there is one, `strand`. A name that comes
        again is written with -1, -2 and so on behind it.

    Raises
    ------
    UsageError
        As in `require_format`; for arrays that do not fit together, and what cannot be stored.
    DnamambaError
        Where the disk is full or the folder cannot be written; what was at `path` is still there.
    """
    require_format(path, obs)
    dims = [str(dim) for dim in range(values.shape[1])] if dims is None else dims
    table = make_table(obs, about, dims, names)
    if values.shape != table.shape:
        raise UsageError(
            f"values of shape {values.shape}, with names for {table.shape}: give one name "
            "for each row and each dim"
        )
    _FORMATS[path.suffix.lower()][0](path, values, table)


def write_bases(
    path: Path,
    blocks: Iterable[tuple[int, NDArray[Any]]],
    obs: Mapping[str, NDArray[Any]],
    about: Mapping[str, Any],
    dims: Sequence[str],
    dtype: DTypeLike,
    *,
    names: Sequence[str] | None = None,
) -> None:
    """Write one embedding per base, as they come.

    The file holds `values` (bases, dims), in which the rows lie end to end, `offsets` (rows + 1),
    where each begins, `dims`, and the groups `obs` and `about`, which `anndata.io.read_elem` reads.

    Parameters
    ----------
    path
        `.h5`; replaced where it exists.
    blocks
        Number of a row and (bases, dims) of it; in order, any number of blocks to a row.
    obs, about, dims, names
        As for `write_embeddings`.
    dtype
        What the blocks are stored in.

    Raises
    ------
    UsageError, DnamambaError
        As in `write_embeddings`.
    """
    require_format(path, obs, per_base=True)
    hdf5.write_bases(path, blocks, make_table(obs, about, dims, names), np.dtype(dtype))


def describe(path: Path) -> dict[str, Any]:
    """Say what a file of embeddings holds, without reading the embeddings.

    Parameters
    ----------
    path
        A file that `write_embeddings` or `write_bases` wrote.

    Returns
    -------
    Plain values: `rows`, `dims`, `dtype` (and `bases`, in a file with a row per base), `columns` of
    its table, what it `covers` of the first contigs (1-based, both ends inside) and what was given
    as `about`.

    Raises
    ------
    InputError
        For a file that is damaged or holds something else.
    UsageError
        For a suffix that names no format, or a library that is missing.
    """
    suffix = require_file(path).suffix.lower()
    require_format(path, per_base=suffix == PER_BASE)
    read = hdf5.describe if suffix == PER_BASE else _FORMATS[suffix][1]
    try:
        return read(path)
    except _DAMAGE as error:
        why = " ".join(str(error).split())
        raise InputError(f"{path}: damaged, or no embeddings of dnamamba ({why})") from error
