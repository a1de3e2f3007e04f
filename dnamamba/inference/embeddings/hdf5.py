"""Embeddings in HDF5, in the encoding of AnnData (https://anndata.readthedocs.io, on-disk format).

AnnData itself would hold all values in memory; h5py writes what it reads in slices. Every object
says in the attributes `encoding-type` and `encoding-version` what it is.
"""

import io
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.errors import UsageError
from dnamamba.files import atomic_path
from dnamamba.inference.embeddings.table import (
    Categorical,
    Column,
    Table,
    covers,
    slices,
)

RESERVED: Final = ("_index",)
_CHUNK_BYTES: Final = 2**20
_TEXT: Final = h5py.string_dtype()
_TEXT_BYTES: Final = 128
"""What a row's text takes, roughly."""


def write_anndata(path: Path, values: NDArray[Any], table: Table) -> None:
    """Write an .h5ad; `values` is (rows, dims), stored in one piece and uncompressed."""
    with create(path) as (file, disk):
        _encode(file, "anndata", "0.1.0")
        _write_array(file, "X", values, disk)
        _write_frame(file, "obs", table.names, table.obs, disk)
        _write_frame(file, "var", table.dims, {}, disk)
        _write_dict(file, "uns", table.about, disk)
        for name in ("layers", "obsm", "obsp", "varm", "varp"):
            _write_dict(file, name, {}, disk)


def write_bases(
    path: Path,
    blocks: Iterable[tuple[int, NDArray[Any]]],
    table: Table,
    dtype: np.dtype[Any],
) -> None:
    """Write an .h5 with a row per base: `values`, `offsets`, `dims`, `obs` and `about`.

    Chunks are packed in threads, by Huffman codes alone. Floats hardly repeat, so gzip's search for
    what was there before takes three times as long and makes the file larger.
    """
    rows, dims = table.shape
    lengths = np.zeros(rows, np.int64)
    size = max(1, _CHUNK_BYTES // (dims * dtype.itemsize))
    with create(path) as (file, disk), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        values = file.create_dataset(
            "values",
            (0, dims),
            dtype,
            maxshape=(None, dims),
            chunks=(size, dims),
            shuffle=True,
            compression="gzip",
            compression_opts=1,
        )
        _encode(values, "array", "0.2.0")
        chunks = _chunks(blocks, (size, dims), dtype, lengths)
        for packed, bases in _pack_ahead(pool, chunks):
            start = len(values)
            values.resize(start + bases, axis=0)
            values.id.write_direct_chunk((start, 0), packed)
            disk.check()
        _write_array(file, "offsets", np.concatenate([[0], lengths.cumsum()]), disk)
        _write_array(file, "dims", table.dims, disk)
        _write_frame(file, "obs", table.names, table.obs, disk)
        _write_dict(file, "about", table.about, disk)


def _chunks(
    blocks: Iterable[tuple[int, NDArray[Any]]],
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    lengths: NDArray[np.int64],
) -> Iterator[tuple[NDArray[Any], int]]:
    """Lay blocks end to end in chunks, the last filled up with zeros; count each row's bases."""
    chunk, filled, current = np.zeros(shape, dtype), 0, 0
    for row, block in blocks:
        if not current <= row < len(lengths) or block.shape[1:] != shape[1:]:
            raise UsageError(
                f"a block of shape {block.shape} for row {row} after row {current}: blocks of "
                f"(bases, {shape[1]}) are wanted, in order, of rows 0 to {len(lengths) - 1}"
            )
        current = row
        lengths[row] += len(block)
        while len(block):
            taken = block[: shape[0] - filled]
            chunk[filled : filled + len(taken)] = taken
            filled += len(taken)
            block = block[len(taken) :]
            if filled == shape[0]:
                yield chunk, filled
                chunk, filled = np.zeros(shape, dtype), 0
    if filled:
        yield chunk, filled


def _pack_ahead(
    pool: ThreadPoolExecutor, chunks: Iterable[tuple[NDArray[Any], int]]
) -> Iterator[tuple[bytes, int]]:
    """Pack a few chunks at once, and hand them out in order."""
    ahead = 2 * torch.get_num_threads()
    packing: deque[tuple[Future[bytes], int]] = deque()
    for chunk, bases in chunks:
        packing.append((pool.submit(_pack, chunk), bases))
        if len(packing) > ahead:
            packed, used = packing.popleft()
            yield packed.result(), used
    for packed, used in packing:
        yield packed.result(), used


def _pack(chunk: NDArray[Any]) -> bytes:
    """Do as HDF5's filters `shuffle` and `gzip`: first bytes of all numbers, second bytes, ..."""
    planes = np.ascontiguousarray(chunk.view(np.uint8).reshape(-1, chunk.itemsize).T)
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, strategy=zlib.Z_HUFFMAN_ONLY)
    return packer.compress(planes.data) + packer.flush()


class _Disk(io.FileIO):
    """A file that keeps a fault of writing to itself until it is asked for.

    HDF5 must not hear of it: told that a disk is full, it may crash the process.
    """

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while self.fault is None and len(rest):
            try:
                rest = rest[super().write(rest) or 0 :]
            except OSError as error:
                self.fault = error
        return size

    def readinto(self, buffer: Any) -> int:
        rest = memoryview(buffer).cast("B")
        size = len(rest)
        while count := super().readinto(rest):
            rest = rest[count:]
        rest[:] = bytes(len(rest))  # HDF5 reads behind the end what it has not written yet
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.fault = self.fault or error
            return size or 0

    def check(self) -> None:
        """Raise the first fault of writing, if there was one."""
        if self.fault is not None:
            raise self.fault


@contextmanager
def create(path: Path) -> Iterator[tuple[h5py.File, _Disk]]:
    """Begin an HDF5 file that appears whole or not at all; a full disk is an error, not a crash.

    Raises
    ------
    DnamambaError
        Where the disk is full or the folder cannot be written; in the end, or from `check` of what
        is yielded beside the file.
    """
    with atomic_path(path) as temporary, _Disk(temporary, "w+") as disk:
        try:
            with h5py.File(disk, "w") as file:
                yield file, disk
        finally:
            disk.check()


def _encode(target: h5py.Group | h5py.Dataset, kind: str, version: str) -> None:
    target.attrs["encoding-type"] = kind
    target.attrs["encoding-version"] = version


def _write_array(group: h5py.Group, name: str, values: NDArray[Any], disk: _Disk) -> None:
    text = values.dtype == object
    dataset = group.create_dataset(name, values.shape, _TEXT if text else values.dtype)
    _encode(dataset, "string-array" if text else "array", "0.2.0")
    row_bytes = _TEXT_BYTES if text else values.itemsize * int(np.prod(values.shape[1:]))
    for part in slices(len(values), row_bytes):
        dataset[part] = values[part]
        disk.check()


def _write_frame(
    parent: h5py.Group,
    name: str,
    index: NDArray[np.object_],
    columns: Mapping[str, Column],
    disk: _Disk,
) -> None:
    group = parent.create_group(name)
    _encode(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    group.attrs.create("column-order", np.array(list(columns), dtype=object), dtype=_TEXT)
    _write_array(group, "_index", index, disk)
    for column, values in columns.items():
        if isinstance(values, Categorical):
            categorical = group.create_group(column)
            _encode(categorical, "categorical", "0.2.0")
            categorical.attrs["ordered"] = False
            _write_array(categorical, "codes", values.codes, disk)
            _write_array(categorical, "categories", values.categories, disk)
        else:
            _write_array(group, column, values, disk)


def _write_dict(parent: h5py.Group, name: str, items: Mapping[str, Any], disk: _Disk) -> None:
    group = parent.create_group(name)
    _encode(group, "dict", "0.1.0")
    for key, value in items.items():
        if isinstance(value, dict):
            _write_dict(group, key, value, disk)
        elif isinstance(value, list):
            numbers = value and not isinstance(value[0], str)
            _write_array(group, key, np.array(value, None if numbers else object), disk)
        else:
            group[key] = value
            _encode(group[key], "string" if isinstance(value, str) else "numeric-scalar", "0.2.0")
    disk.check()


def describe(path: Path) -> dict[str, Any]:
    """Describe an .h5ad or .h5; see `dnamamba.inference.embeddings.describe`."""
    with h5py.File(path, "r") as file:
        per_base = "offsets" in file
        values = file["values" if per_base else "X"]
        obs = file["obs"]
        columns = [str(name) for name in obs.attrs["column-order"]]
        return {
            "rows": len(file["offsets"]) - 1 if per_base else len(values),
            **({"bases": len(values)} if per_base else {}),
            "dims": values.shape[1],
            "dtype": str(values.dtype),
            "columns": columns,
            "covers": covers(columns, lambda name: _read_column(obs[name])),
            "about": _read_dict(file["about" if per_base else "uns"]),
        }


def _read_column(column: h5py.Group | h5py.Dataset) -> NDArray[Any]:
    if isinstance(column, h5py.Group):
        return Categorical(column["codes"][:], column["categories"].asstr()[:])[:]
    values: NDArray[Any] = (column.asstr() if column.dtype == _TEXT else column)[:]
    return values


def _read_dict(group: h5py.Group) -> dict[str, Any]:
    """Read dictionaries, scalars and lists; what else other programs have added is passed over."""
    read: dict[str, Any] = {}
    for name, item in group.items():
        kind = item.attrs.get("encoding-type")
        if kind == "dict":
            read[name] = _read_dict(item)
        elif kind in ("string", "string-array"):
            read[name] = _plain(item.asstr()[()])
        elif kind in ("numeric-scalar", "array") and item.ndim < 2:
            read[name] = _plain(item[()])
    return read


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
