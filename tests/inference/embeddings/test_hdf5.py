import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from dnamamba.errors import DnamambaError, UsageError
from dnamamba.inference.embeddings import describe, hdf5, write_bases, write_embeddings
from tests.inference.embeddings.samples import ABOUT, table, values

DIMS = ["layer4_0", "layer4_1", "layer8_0", "layer8_1", "layer8_2"]
Block = tuple[int, NDArray[Any]]


@pytest.fixture
def anndata() -> Any:
    return pytest.importorskip("anndata", reason="needs anndata")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.h5ad"


def assert_table(frame: Any, rows: int) -> None:
    """Compare what AnnData read with what was written."""
    assert list(frame.columns) == list(table(rows))
    for name, column in table(rows).items():
        assert np.array_equal(frame[name].to_numpy(), column), name
    assert frame["chrom"].dtype == "category"
    assert frame["strand"].dtype == "category"
    assert (frame["start"].dtype, frame["gc"].dtype) == (np.int64, np.float64)
    if rows:
        assert frame.index[:2].tolist() == ["chr1:1-50", "chr10:101-150(-)"][:rows]


def assert_about(uns: Any) -> None:
    for name in ("nothing", "columns"):
        assert uns[name].tolist() == ABOUT[name]
    assert uns["model"]["layers"].tolist() == [4, 8]
    for name in ("preset", "bidirectional", "d_model"):
        assert uns["model"][name] == ABOUT["model"][name]
    for name in ("pool", "context", "coordinates"):
        assert uns[name] == ABOUT[name]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", [0, 1, 2, 500])
def test_anndata_reads_it(path: Path, rows: int, dtype: str, anndata: Any) -> None:
    write_embeddings(path, values(rows, dtype=dtype), table(rows), ABOUT, dims=DIMS)
    read = anndata.read_h5ad(path)
    assert read.X.dtype == dtype
    assert np.array_equal(read.X, values(rows, dtype=dtype))
    assert_table(read.obs, rows)
    assert read.var_names.tolist() == DIMS
    assert_about(read.uns)
    assert not any((read.layers, read.obsm, read.obsp, read.varm, read.varp))

    backed = anndata.read_h5ad(path, backed="r")
    assert np.array_equal(backed.X[:], values(rows, dtype=dtype))
    assert_table(backed.obs, rows)
    assert_about(backed.uns)
    if rows > 2:
        some = backed[backed.obs["chrom"] == "chr2"].to_memory()
        assert np.array_equal(some.X, values(rows, dtype=dtype)[2::3])
    backed.file.close()


def test_it_is_encoded_as_anndata_itself_does(path: Path, anndata: Any, tmp_path: Path) -> None:
    def encodings(file: Path) -> dict[str, tuple[str, str]]:
        found: dict[str, tuple[str, str]] = {}
        with h5py.File(file, "r") as opened:
            opened.visititems(
                lambda name, item: found.update(
                    {name: (item.attrs["encoding-type"], item.attrs["encoding-version"])}
                )
            )
            return {"": (opened.attrs["encoding-type"], opened.attrs["encoding-version"]), **found}

    write_embeddings(path, values(9), table(9), ABOUT)
    anndata.read_h5ad(path).write_h5ad(tmp_path / "again.h5ad")
    assert encodings(path) == encodings(tmp_path / "again.h5ad")


def test_info_still_reads_what_anndata_wrote(path: Path, anndata: Any, tmp_path: Path) -> None:
    write_embeddings(path, values(9), table(9), ABOUT)
    read = anndata.read_h5ad(path)
    read.uns |= {"pca": {"variance": np.zeros(3), "loadings": np.zeros((5, 3))}, "base": None}
    read.write_h5ad(tmp_path / "again.h5ad")
    told = describe(tmp_path / "again.h5ad")
    about = told.pop("about")
    assert about == {**ABOUT, "pca": {"variance": [0, 0, 0]}}
    assert told == {name: item for name, item in describe(path).items() if name != "about"}


def test_h5py_finds_the_obvious(path: Path) -> None:
    write_embeddings(path, values(9), table(9), ABOUT)
    with h5py.File(path, "r") as file:
        assert np.array_equal(file["X"][2:4], values(9)[2:4])
        assert file["X"].chunks is None
        assert file["obs/start"][:].tolist() == table(9)["start"].tolist()
        assert file["obs/name"].asstr()[1] == "gène 1"
        assert file["obs/chrom/categories"].asstr()[:].tolist() == ["chr1", "chr2", "chr10"]
        assert file["obs/chrom/codes"][:3].tolist() == [0, 2, 1]
        assert file["uns/model/preset"].asstr()[()] == "1.4m"


def test_it_is_written_slice_by_slice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_row(rows: int, row_bytes: int) -> Iterator[slice]:
        return (slice(row, row + 1) for row in range(rows))

    monkeypatch.setattr(hdf5, "slices", by_row)
    write_embeddings(path, values(9), table(9), ABOUT)
    with h5py.File(path, "r") as file:
        assert np.array_equal(file["X"][:], values(9))
        assert file["obs/start"][:].tolist() == table(9)["start"].tolist()
        assert file["obs/name"].asstr()[:].tolist() == table(9)["name"].tolist()
        assert file["obs/chrom/codes"][:].tolist() == [0, 2, 1] * 3


def blocks(lengths: list[int], most: int) -> Iterator[Block]:
    """Cut rows of these lengths, laid end to end in `values`, into blocks of at most `most`."""
    embedded = values(sum(lengths))
    start = 0
    for row, length in enumerate(lengths):
        for first in range(0, length, most):
            yield row, embedded[start + first : start + min(first + most, length)]
        start += length


@pytest.mark.parametrize("most", [1, 7, 1000])
@pytest.mark.parametrize("chunk", [1, 8, 2**16], ids=["base chunks", "chunks", "one chunk"])
@pytest.mark.parametrize(
    "lengths", [[], [0, 0], [16], [5, 0, 12, 30]], ids=["no rows", "no bases", "one", "some"]
)
def test_bases(
    tmp_path: Path, lengths: list[int], chunk: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.h5"
    monkeypatch.setattr(hdf5, "_CHUNK_BYTES", 5 * 4 * chunk)
    rows = len(lengths)
    write_bases(path, blocks(lengths, most), table(rows), ABOUT, DIMS, "float32")
    with h5py.File(path, "r") as file:
        assert file["values"].chunks == (chunk, 5)
        assert file["values"].dtype == np.float32
        assert np.array_equal(file["values"][:], values(sum(lengths)))
        assert file["offsets"].dtype == np.int64
        assert file["offsets"][:].tolist() == [0, *np.cumsum(lengths)]
        assert file["dims"].asstr()[:].tolist() == DIMS


def test_bases_are_stored_in_the_type_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    write_bases(path, [(0, values(9))], table(1), {}, DIMS, np.float16)
    with h5py.File(path, "r") as file:
        assert np.array_equal(file["values"][:], values(9).astype(np.float16))


def test_chunks_are_about_a_mebibyte_and_compressed(tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    dims = [str(dim) for dim in range(256)]
    same = np.ones((5000, 256), np.float16)
    write_bases(path, [(0, same)], table(1), {}, dims, np.float16)
    with h5py.File(path, "r") as file:
        assert file["values"].chunks == (2048, 256)
        assert (file["values"].compression, file["values"].shuffle) == ("gzip", True)
        assert np.array_equal(file["values"][:], same)
    assert path.stat().st_size < same.nbytes / 4


def test_anndata_reads_the_table_of_bases(tmp_path: Path, anndata: Any) -> None:
    path = tmp_path / "out.h5"
    write_bases(path, blocks([3, 0, 2], 2), table(3), ABOUT, DIMS, "float32")
    with h5py.File(path, "r") as file:
        assert_table(anndata.io.read_elem(file["obs"]), 3)
        assert_about(anndata.io.read_elem(file["about"]))
        assert np.array_equal(anndata.io.read_elem(file["values"]), values(5))
        assert anndata.io.read_elem(file["offsets"]).tolist() == [0, 3, 3, 5]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([(1, values(2)), (0, values(2))], "for row 0 after row 1"),
        ([(2, values(2))], "of rows 0 to 1"),
        ([(0, values(2, 4))], r"blocks of \(bases, 5\) are wanted"),
    ],
    ids=["order", "row", "dims"],
)
def test_blocks_that_are_wrong(tmp_path: Path, wrong: list[Block], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_bases(tmp_path / "out.h5", wrong, table(2), {}, DIMS, "float32")
    assert list(tmp_path.iterdir()) == []


def test_no_more_blocks_are_asked_for_once_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def endless() -> Iterator[Block]:
        for number in range(1000):
            asked.append(number)
            yield 0, values(64)

    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(hdf5, "_CHUNK_BYTES", 5 * 4 * 64)
    monkeypatch.setattr(hdf5._Disk, "fault", full)
    with pytest.raises(DnamambaError, match=r"disk full while writing .*out\.h5"):
        write_bases(tmp_path / "out.h5", endless(), table(1), {}, DIMS, "float32")
    assert len(asked) < 100
    assert list(tmp_path.iterdir()) == []
