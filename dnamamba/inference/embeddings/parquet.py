"""Embeddings in Parquet: row names, the table's columns, and then a column for each dim."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.errors import UsageError
from dnamamba.files import atomic_path
from dnamamba.inference.embeddings.table import (
    ROW_NAME,
    Categorical,
    Column,
    Table,
    covers,
    slices,
)

if TYPE_CHECKING:
    import pyarrow as pa

RESERVED: Final = (ROW_NAME,)
_ABOUT, _DIMS = b"dnamamba", b"dnamamba_dims"
_DTYPE: Final = np.dtype(np.float32)
_GROUP_BYTES: Final = 2**26


def require_pyarrow() -> None:
    """Raise a UsageError with the cure where pyarrow is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UsageError(".parquet: pyarrow is missing; pip install 'dnamamba[parquet]'") from error


def write(path: Path, values: NDArray[Any], table: Table) -> None:
    """Write a .parquet; `values` is (rows, dims), a row group at a time.

    Values become float32: pandas and R hardly know halves. Split into planes of bytes and
    compressed, those that were halves take little more room than as such. Text of few values is
    dictionary-encoded, which pandas reads as a categorical and R as a factor.
    """
    import pyarrow.parquet as pq

    schema = _schema(table)
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(
            temporary,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name, column in table.obs.items() if _is_text(column)],
            use_byte_stream_split=table.dims.tolist(),
            write_statistics=[ROW_NAME, *table.obs],
        ) as writer,
    ):
        for part in slices(len(values), _DTYPE.itemsize * values.shape[1], _GROUP_BYTES):
            writer.write_batch(_batch(part, values, table, schema))


def _is_text(column: Column) -> bool:
    return isinstance(column, Categorical) or column.dtype == object


def _batch(
    part: slice, values: NDArray[Any], table: Table, schema: "pa.Schema"
) -> "pa.RecordBatch":
    import pyarrow as pa

    arrays = [pa.array(table.names[part], pa.string())]
    for column in table.obs.values():
        if isinstance(column, Categorical):
            categories = pa.array(column.categories, pa.string())
            codes = column.codes[part].astype(np.int32)
            arrays.append(pa.DictionaryArray.from_arrays(codes, categories))
        else:
            arrays.append(pa.array(column[part], pa.string() if _is_text(column) else None))
    arrays.extend(map(pa.array, np.ascontiguousarray(values[part].T, _DTYPE)))
    return pa.record_batch(arrays, schema=schema)


def _schema(table: Table) -> "pa.Schema":
    import pyarrow as pa

    types = {ROW_NAME: pa.string()}
    for name, column in table.obs.items():
        if isinstance(column, Categorical):
            types[name] = pa.dictionary(pa.int32(), pa.string())
        else:
            types[name] = pa.string() if _is_text(column) else pa.from_numpy_dtype(column.dtype)
    types.update(dict.fromkeys(table.dims, pa.from_numpy_dtype(_DTYPE)))
    metadata = {
        _ABOUT: table.about,
        _DIMS: table.dims.tolist(),
        b"pandas": _for_pandas(table),
    }
    texts = {key: json.dumps(item, ensure_ascii=False) for key, item in metadata.items()}
    return pa.schema(types.items(), texts)


def _for_pandas(table: Table) -> dict[str, Any]:
    """Say what pandas writes itself, so that row names become the index."""
    columns = {ROW_NAME: table.names, **table.obs, **dict.fromkeys(table.dims, np.empty(0, _DTYPE))}
    return {
        "index_columns": [ROW_NAME],
        "columns": [
            {"name": name, "field_name": name, "metadata": None, **_pandas_types(column)}
            for name, column in columns.items()
        ],
        "column_indexes": [],
    }


def _pandas_types(column: Column) -> dict[str, Any]:
    if isinstance(column, Categorical):
        about = {"num_categories": len(column.categories), "ordered": False}
        return {"pandas_type": "categorical", "numpy_type": "int32", "metadata": about}
    text = column.dtype == object
    return {
        "pandas_type": "unicode" if text else column.dtype.name,
        "numpy_type": column.dtype.name,
    }


def describe(path: Path) -> dict[str, Any]:
    """Describe a .parquet; see `dnamamba.inference.embeddings.describe`."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        dims = json.loads(schema.metadata[_DIMS])
        columns = [name for name in schema.names if name not in {ROW_NAME, *dims}]
        return {
            "rows": file.metadata.num_rows,
            "dims": len(dims),
            "dtype": str(_DTYPE),
            "columns": columns,
            "covers": covers(columns, lambda name: file.read([name])[name].to_numpy()),
            "about": json.loads(schema.metadata[_ABOUT]),
        }
