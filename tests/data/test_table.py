import gzip
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dnamamba.data.table import empty_cells, read_table
from dnamamba.errors import InputError, UsageError

TEXT = "id,label\n1,a\n\n2,\n3,c\n"


def write(folder: Path, data: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    "data",
    [
        TEXT,
        TEXT.replace(",", "\t"),
        TEXT.replace("\n", "\r\n"),
        "\ufeff" + TEXT.rstrip("\n"),
        gzip.compress(TEXT.encode()),
    ],
    ids=("csv", "tsv", "crlf", "bom", "gzip"),
)
def test_columns_are_text(data: str | bytes, tmp_path: Path) -> None:
    table = read_table(write(tmp_path, data))
    assert table.columns == {"id": ["1", "2", "3"], "label": ["a", "", "c"]}
    assert (table.numbers, len(table)) == ([2, 4, 5], 3)
    assert table.where([0]) == "line 2"
    assert table.where([0, 2]) == "lines 2, 5"
    assert table.where([0] * 7) == "lines 2, 2, 2, 2, 2 and 2 more"
    assert list(empty_cells(table, ["id", "label"])) == ["line 4: the column `label` is empty"]


def test_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(TEXT.encode())))
    table = read_table(Path("-"))
    assert table.source == "stdin"
    assert table.column("id") == ["1", "2", "3"]


def test_a_header_alone(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "id,label\n"))
    assert (len(table), table.columns) == (0, {"id": [], "label": []})


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"id": [1, 2], "label": ["a", None], "value": [0.5, 1e-7], "is": [True, False]}
    path = tmp_path / "named.otherwise"
    parquet.write_table(pyarrow.table(columns), path)
    table = read_table(path)
    assert table.columns == {
        "id": ["1", "2"],
        "label": ["a", ""],
        "value": ["0.5", "1e-07"],
        "is": ["1", "0"],
    }
    assert table.where([1]) == "row 2"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="damaged Parquet"):
        read_table(path)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install dnamamba\[parquet\]"):
        read_table(write(tmp_path, b"PAR1"))


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ("", "empty; a header with the columns' names is wanted"),
        ("a,b\n1,2\n1\n1,2\n", r"line 3: 1 columns; the header has 2$"),
        ("a,b\n1,2\n1\n1,2,3\n", r"lines 3, 4: 1 columns; the header has 2$"),
        ("a,b\n1,2\n1\n", "line 3: 1 columns; the header has 2; is the file complete"),
        ("a,b,a\n1,2,3\n", "two columns are called `a`; rename one"),
        ('a,b\n"1\n2",3\n', "a quoted cell goes over the end of its line"),
    ],
)
def test_faults(data: str, fault: str, tmp_path: Path) -> None:
    path = write(tmp_path, data)
    with pytest.raises(InputError, match=fault) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
    with pytest.raises(InputError, match="no column `c`; the header is a, b"):
        read_table(write(tmp_path, "a,b\n")).column("c")
