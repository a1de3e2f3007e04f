"""What holds for every format of a file of embeddings."""

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnamamba.errors import DnamambaError, InputError, UsageError
from dnamamba.inference.embeddings import (
    SUFFIXES,
    describe,
    require_format,
    write_bases,
    write_embeddings,
)
from tests.inference.embeddings.samples import ABOUT, table, values

ROWS = 9


def write(path: Path, rows: int = ROWS, **changes: Any) -> Path:
    """Write in whatever format the suffix says; of an .h5, two bases to a row."""
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow")
    given = {"obs": table(rows), "about": ABOUT, **changes}
    embedded = given.pop("values", values(rows))
    if path.suffix != ".h5":
        write_embeddings(path, embedded, **given)
    else:
        blocks = ((row, embedded[[row, row]]) for row in range(rows))
        dims = [str(dim) for dim in range(embedded.shape[1])]
        write_bases(path, blocks, given["obs"], given["about"], dims, embedded.dtype)
    return path


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"out{request.param}"


def test_a_file_is_described(path: Path) -> None:
    told = describe(write(path))
    assert (told["rows"], told["dims"], told["dtype"]) == (ROWS, 5, "float32")
    assert told.get("bases") == (2 * ROWS if path.suffix == ".h5" else None)
    assert told["columns"] == list(table(ROWS))
    assert told["covers"] == ["chr1:1-650", "chr2:201-850", "chr10:101-750"]
    assert told["about"] == ABOUT


def test_of_many_contigs_the_first_are_named(path: Path) -> None:
    chrom = np.array([f"chr{number}" for number in range(12, 3, -1)])
    told = describe(write(path, obs={**table(ROWS), "chrom": chrom}))
    assert told["covers"][0] == "chr4:801-850"
    assert told["covers"][4:] == ["chr8:401-450", "and 4 more contigs"]


def test_no_rows(path: Path) -> None:
    told = describe(write(path, rows=0))
    assert (told["rows"], told["dims"], told["covers"]) == (0, 5, [])
    assert told["columns"] == list(table(0))


def test_rows_without_places(path: Path) -> None:
    obs = {"score": np.arange(ROWS)}
    if path.suffix == ".h5":
        dims = [str(dim) for dim in range(5)]
        write_bases(path, [], obs, {}, dims, "float16", names=list("abcdefghi"))
    else:
        write(path, obs=obs, names=list("abcdefghi"))
    assert describe(path)["covers"] == []


def test_none_is_left_out(path: Path) -> None:
    write(path, about={"layer": None, "model": {"preset": None, "ids": (0, 1)}})
    assert describe(path)["about"] == {"model": {"ids": [0, 1]}}


def test_same_input_same_bytes(path: Path) -> None:
    first = write(path).read_bytes()
    time.sleep(1.1)  # so that a time stamp in the file would differ
    assert write(path).read_bytes() == first


def test_values_may_be_mapped_and_in_any_order_of_memory(path: Path, tmp_path: Path) -> None:
    plain = write(path).read_bytes()
    np.save(tmp_path / "spilled.npy", values(ROWS))
    mapped = np.load(tmp_path / "spilled.npy", mmap_mode="r")
    assert write(path, values=mapped).read_bytes() == plain
    assert write(path, values=np.asfortranarray(values(ROWS))).read_bytes() == plain


def test_nothing_is_left_of_a_failed_write(path: Path) -> None:
    path.write_text("what was there")
    with pytest.raises(UsageError, match="cannot be stored"):
        write(path, about={"model": {"set": {1}}})
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_text() == "what was there"


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.99])
def test_a_disk_that_fills_is_one_line(path: Path, share: float) -> None:
    embedded = values(20_000, 50)
    size = write(path, rows=20_000, values=embedded).stat().st_size
    path.unlink()
    with files_up_to(int(size * share)), pytest.raises(DnamambaError) as caught:
        write(path, rows=20_000, values=embedded)
    assert str(caught.value).startswith(f"{path}: ")
    assert "File too large" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(path.parent.iterdir()) == []


def test_a_damaged_file_is_one_line(path: Path) -> None:
    content = write(path).read_bytes()
    for cut in (0, 100, len(content) // 2):
        path.write_bytes(content[:cut])
        with pytest.raises(InputError, match=r"out.*: damaged, or no embeddings") as caught:
            describe(path)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        describe(path)


@pytest.mark.parametrize(
    ("name", "per_base"),
    [("x.csv", False), ("x", False), ("x.h5", False), ("x.h5ad", True), ("x.csv", True)],
)
def test_a_suffix_that_is_none(name: str, per_base: bool) -> None:
    wanted = r"embeddings go to \.h5ad, \.parquet or \.npz, and one per base to \.h5"
    with pytest.raises(UsageError, match=wanted):
        require_format(Path(name), per_base=per_base)


def test_nothing_is_made_of_another_suffix(tmp_path: Path) -> None:
    (tmp_path / "x.csv").touch()
    with pytest.raises(UsageError, match=r"embeddings go to \.h5ad"):
        describe(tmp_path / "x.csv")
    with pytest.raises(UsageError, match=r"embeddings go to \.h5ad"):
        write_embeddings(tmp_path / "y.h5", values(1), table(1), {})


def test_a_suffix_in_capitals(tmp_path: Path) -> None:
    require_format(tmp_path / "X.H5AD", table(0))
    require_format(tmp_path / "X.H5", table(0), per_base=True)
    assert describe(write(tmp_path / "X.NPZ"))["rows"] == ROWS


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("x.h5ad", "_index"),
        ("x.h5ad", "fold/change"),
        ("x.h5ad", ""),
        ("x.npz", "values"),
        ("x.npz", "about"),
    ],
)
def test_a_column_that_a_format_cannot_hold(name: str, column: str) -> None:
    with pytest.raises(UsageError, match="rename"):
        require_format(Path(name), ["chrom", column])


def test_parquet_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(UsageError, match=r"pip install 'dnamamba\[parquet\]'"):
        require_format(Path("x.parquet"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": values(3)}, "values of shape"),
        ({"names": ["a"]}, "has shape"),
        ({"dims": ["a"]}, "values of shape"),
        ({"obs": {"chrom": np.array(["a"])}}, "rows have no names"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write(tmp_path / "x.npz", **changes)


FILL = """
import resource, sys
from pathlib import Path
import numpy as np
from dnamamba.inference.embeddings import require_format, write_bases, write_embeddings

def peak():  # bytes; macOS tells bytes, Linux KiB
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale

path, rows, dims = Path(sys.argv[1]), 1_000_000, 128
index = np.arange(rows)
obs = {"chrom": np.full(rows, "chr20", object), "start": 100 * index, "end": 100 * index + 100}
values = np.broadcast_to(np.arange(dims, dtype=np.float32), (rows, dims))  # no memory of its own
require_format(path, obs, per_base=path.suffix == ".h5")
before = peak()
if path.suffix == ".h5":
    blocks = ((row, values[row : row + 1]) for row in range(rows))
    write_bases(path, blocks, obs, {}, [str(dim) for dim in range(dims)], np.float32)
else:
    write_embeddings(path, values, obs, {})
print(peak() - before)
"""


@pytest.mark.slow
def test_a_million_rows_in_bounded_memory(path: Path) -> None:
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow")
    ran = subprocess.run(
        [sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, check=True
    )
    assert describe(path)["rows"] == 1_000_000
    # The values are 488 MiB; what grows with the rows is their names.
    assert int(ran.stdout) < 320 * 2**20
