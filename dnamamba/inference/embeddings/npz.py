"""Embeddings as NumPy arrays: `values`, `dims`, `row_name`, each column of the table, `about`.

`numpy.savez` would hold all in memory; here a member is its header, and then slices.
"""

import json
import zipfile
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dnamamba.files import atomic_path
from dnamamba.inference.embeddings.table import (
    ROW_NAME,
    Categorical,
    Column,
    Table,
    covers,
    slices,
)

RESERVED: Final = ("about", "dims", ROW_NAME, "values")


def write(path: Path, values: NDArray[Any], table: Table) -> None:
    """Write an .npz; `values` is (rows, dims).

    Text is of fixed width, so that nothing has to be unpickled, and compressed: it is mostly blank.
    """
    about = np.array(json.dumps(table.about, ensure_ascii=False))
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        _write(archive, "values", values.dtype, values)
        _write_column(archive, "dims", table.dims)
        _write_column(archive, ROW_NAME, table.names)
        for name, column in table.obs.items():
            _write_column(archive, name, column)
        with _open(archive, "about", about.dtype) as handle:
            npy.write_array(handle, about, allow_pickle=False)


def _write_column(archive: zipfile.ZipFile, name: str, column: Column) -> None:
    if not isinstance(column, Categorical) and column.dtype != object:
        _write(archive, name, column.dtype, column)
        return
    texts = column.categories if isinstance(column, Categorical) else column
    width = max(map(len, texts), default=1)
    _write(archive, name, np.dtype(f"<U{max(1, width)}"), column)


def _write(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], values: NDArray[Any] | Categorical
) -> None:
    shape = (len(values),) if isinstance(values, Categorical) else values.shape
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    row_bytes = dtype.itemsize * int(np.prod(shape[1:]))
    with _open(archive, name, dtype) as handle:
        npy.write_array_header_1_0(handle, header)
        for part in slices(len(values), row_bytes):
            handle.write(values[part].astype(dtype, copy=False).tobytes())


def _open(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any]) -> IO[bytes]:
    member = zipfile.ZipInfo(f"{name}.npy")
    member.compress_type = zipfile.ZIP_DEFLATED if dtype.kind == "U" else zipfile.ZIP_STORED
    return archive.open(member, "w", force_zip64=True)


def describe(path: Path) -> dict[str, Any]:
    """Describe an .npz; see `dnamamba.inference.embeddings.describe`."""
    with zipfile.ZipFile(path) as archive:
        with archive.open("values.npy") as handle:
            npy.read_magic(handle)
            (rows, dims), _, dtype = npy.read_array_header_1_0(handle)
        members = [name.removesuffix(".npy") for name in archive.namelist()]
        columns = [name for name in members if name not in RESERVED]
        return {
            "rows": rows,
            "dims": dims,
            "dtype": str(dtype),
            "columns": columns,
            "covers": covers(columns, lambda name: _read(archive, name)),
            "about": json.loads(str(_read(archive, "about"))),
        }


def _read(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as handle:
        values: NDArray[Any] = npy.read_array(handle, allow_pickle=False)
    return values
