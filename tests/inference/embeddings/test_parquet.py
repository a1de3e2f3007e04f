import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnamamba.inference.embeddings import parquet, write_embeddings
from tests.inference.embeddings.samples import ABOUT, table, values

DIMS = [f"layer8_{dim}" for dim in range(5)]


@pytest.fixture
def pq() -> Any:
    return pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")


@pytest.fixture
def path(pq: Any, tmp_path: Path) -> Path:
    return tmp_path / "out.parquet"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", [0, 1, 500])
def test_pandas_reads_it(path: Path, rows: int, dtype: str) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    write_embeddings(path, values(rows, dtype=dtype), table(rows), ABOUT, dims=DIMS)
    frame = pandas.read_parquet(path, engine="pyarrow")
    assert list(frame.columns) == [*table(rows), *DIMS]
    for name, column in table(rows).items():
        assert np.array_equal(frame[name].to_numpy(), column), name
    assert frame["chrom"].dtype == "category"
    assert frame["strand"].dtype == "category"
    assert frame["kept"].dtype == bool
    assert set(frame[DIMS].dtypes) == {np.dtype(np.float32)}
    assert np.array_equal(frame[DIMS].to_numpy(), values(rows, dtype=dtype))
    assert frame.index.name == "row_name"
    assert frame.index[:2].tolist() == ["chr1:1-50", "chr10:101-150(-)"][:rows]
    assert str(frame)


def test_the_schema_says_what_it_is_about(path: Path, pq: Any) -> None:
    write_embeddings(path, values(9), table(9), ABOUT)
    schema = pq.read_schema(path)
    assert schema.names[:3] == ["row_name", "chrom", "start"]
    assert json.loads(schema.metadata[b"dnamamba"]) == ABOUT


def test_nan_is_kept(path: Path, pq: Any) -> None:
    write_embeddings(path, np.full((2, 1), np.nan, np.float32), table(2), {})
    column = pq.read_table(path)["0"]
    assert column.null_count == 0
    assert np.isnan(column.to_numpy()).all()


def test_row_groups(path: Path, pq: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 200 * 5 * 4)
    write_embeddings(path, values(500), table(500), ABOUT, dims=DIMS)
    file = pq.ParquetFile(path)
    rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert rows == [200, 200, 100]
    read = file.read()
    assert np.array_equal(np.stack([read[dim].to_numpy() for dim in DIMS], 1), values(500))
    assert read["chrom"].to_pylist() == table(500)["chrom"].tolist()
    file.close()


def test_halves_take_little_more_room_than_as_such(path: Path) -> None:
    embedded = values(20_000, dtype="float16")
    write_embeddings(path, embedded, {}, {}, names=[str(row) for row in range(len(embedded))])
    assert path.stat().st_size < 1.3 * embedded.nbytes
