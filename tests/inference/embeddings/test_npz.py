import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dnamamba.inference.embeddings import npz, write_embeddings
from tests.inference.embeddings.samples import ABOUT, table, values


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", [0, 1, 500])
def test_numpy_reads_it(tmp_path: Path, rows: int, dtype: str) -> None:
    path = tmp_path / "out.npz"
    write_embeddings(path, values(rows, dtype=dtype), table(rows), ABOUT)
    with np.load(path, allow_pickle=False) as read:
        assert set(read) == {"values", "dims", "row_name", "about", *table(rows)}
        assert read["values"].dtype == dtype
        assert np.array_equal(read["values"], values(rows, dtype=dtype))
        for name, column in table(rows).items():
            assert np.array_equal(read[name], column), name
        assert read["dims"].tolist() == ["0", "1", "2", "3", "4"]
        assert read["row_name"][:2].tolist() == ["chr1:1-50", "chr10:101-150(-)"][:rows]
        assert json.loads(str(read["about"])) == ABOUT


def test_members_are_as_numpy_writes_them(tmp_path: Path) -> None:
    path, other = tmp_path / "out.npz", tmp_path / "numpy.npz"
    write_embeddings(path, values(9), table(9), ABOUT)
    with np.load(path) as read:
        np.savez(other, **read)
    with zipfile.ZipFile(path) as ours, zipfile.ZipFile(other) as theirs:
        for name in theirs.namelist():
            assert ours.read(name) == theirs.read(name), name


def test_it_is_written_slice_by_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_row(rows: int, row_bytes: int) -> Iterator[slice]:
        return (slice(row, row + 1) for row in range(rows))

    path = tmp_path / "out.npz"
    write_embeddings(path, values(9), table(9), ABOUT)
    with np.load(path) as read:
        whole = dict(read)
    monkeypatch.setattr(npz, "slices", by_row)
    write_embeddings(path, values(9), table(9), ABOUT)
    with np.load(path) as read:
        assert all(np.array_equal(read[name], whole[name]) for name in whole)


def test_text_of_one_long_value_takes_little_room(tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    names = ["x" * 10_000, *map(str, range(999))]
    write_embeddings(path, values(1000), {"name": np.array(names)}, {}, names=names)
    assert path.stat().st_size < 1_000_000
