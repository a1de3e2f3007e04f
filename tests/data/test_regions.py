from pathlib import Path

import numpy as np
import pytest

from dnamamba.alphabet import decode
from dnamamba.data.regions import clusters, fetch, forward, overlap, read_regions
from dnamamba.data.store import Store, open_store
from dnamamba.errors import InputError

BASES = "ACGTTGCAACCGGTTANNNNACGTACGTAACC"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    fasta = tmp_path / "g.fa"
    fasta.write_text(f">chr1\n{BASES}\n>chr2\n{BASES[::-1]}\n")
    return open_store(fasta)


def write(tmp_path: Path, text: str, name: str = "regions.bed") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


FORMS = {
    "bed": ("r.bed", "chr1\t0\t6\ta\t1\t+\nchr2\t2\t9\tb\t2\t-\n"),
    "bed with a header": (
        "r.bed",
        "#chrom\tstart\tend\tname\tscore\tstrand\nchr1\t0\t6\ta\t1\t+\nchr2\t2\t9\tb\t2\t-\n",
    ),
    "csv": ("r.csv", "name,strand,end,start,chrom\na,+,6,0,chr1\nb,-,9,2,chr2\n"),
    "tsv": ("r.tsv", "chrom\tstart\tend\tstrand\tname\nchr1\t0\t6\t.\ta\nchr2\t2\t9\t-\tb\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_regions_of_any_form_are_the_same(form: str, store: Store, tmp_path: Path) -> None:
    name, text = FORMS[form]
    regions = read_regions(write(tmp_path, text, name), store)
    first, second = map(decode, fetch(store, regions.windows))
    assert first == BASES[:6]
    other = BASES[::-1][2:9][::-1].translate(str.maketrans("ACGT", "TGCA"))
    assert second == other
    assert regions.table.column("name") == ["a", "b"]
    assert regions.table.column("chrom") == ["chr1", "chr2"]
    assert list(map(decode, fetch(store, forward(regions.windows))))[1] == BASES[::-1][2:9]
    around = read_regions(tmp_path / name, store, window=4)
    assert list(map(len, fetch(store, around.windows))) == [4, 4]
    assert around.windows.starts.tolist() == [1, 3]


BAD = {
    "all faults": (
        "chr1\t5\t3\nchr9\t1\t2\nchr1\t0\t99\nchr1\tx\t9\n",
        None,
        ["line 1 (5 to 3)", "`chr9` (1 line", "line 3 (to 99", "line 4 ('x' to '9')"],
    ),
    "table": (
        "chrom,start,end,strand\nchr1,5,3,+\nCHR1,1,2,+\nchr1,1,2,x\n",
        None,
        ["line 2 (5 to 3)", "did you mean `chr1`?", "line 4 ('x')"],
    ),
    "no base": ("chr1\t3\t3\n", None, ["line 1: a region without a base; --window N"]),
    "window": ("chr1\t9\t15\nchr1\t0\t6\n", 12, ["line 2: no room for a window of 12 bases"]),
    "nothing": ("# none\n", None, ["holds no region"]),
}


@pytest.mark.parametrize("fault", BAD)
def test_faults_are_named_at_once_with_their_lines(
    fault: str, store: Store, tmp_path: Path
) -> None:
    text, window, wanted = BAD[fault]
    with pytest.raises(InputError) as caught:
        read_regions(write(tmp_path, text), store, window)
    for each in wanted:
        assert each in str(caught.value)


def test_rows_of_parquet_are_called_rows(store: Store, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "r.parquet"
    columns = {"chrom": ["chr1", "chr1"], "start": [0, 9], "end": [6, 3]}
    parquet.write_table(arrow.table(columns), path)
    with pytest.raises(InputError, match=r"row 2 \(9 to 3\)"):
        read_regions(path, store)


def test_what_overlaps_is_found(store: Store, tmp_path: Path) -> None:
    lines = [("chr1", 0, 6), ("chr1", 5, 9), ("chr1", 9, 12), ("chr2", 0, 6), ("chr1", 8, 9)]
    text = "".join(f"{name}\t{start}\t{end}\n" for name, start, end in lines)
    windows = read_regions(write(tmp_path, text), store).windows
    numbers = clusters(windows)
    for i, one in enumerate(lines):
        for j, other in enumerate(lines):
            shared = one[0] == other[0] and one[1] < other[2] and other[1] < one[2]
            found = overlap(windows.chosen(np.array([i])), windows.chosen(np.array([j])))
            assert bool(found[0]) == shared, (one, other)
            if shared:
                assert numbers[i] == numbers[j]
    assert len(set(numbers.tolist())) == 3
    some = overlap(windows, windows.chosen(np.array([2, 3])))
    assert some.tolist() == [False, False, True, True, False]
