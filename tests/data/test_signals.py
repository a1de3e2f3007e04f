import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnamamba.data.regions import fetch, read_regions
from dnamamba.data.signals import open_signal, read_signals
from dnamamba.data.store import Store, open_store
from dnamamba.errors import InputError, UsageError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    fasta = tmp_path / "g.fa"
    fasta.write_text(">chr1\n" + "ACGT" * 4 + "NN" + "ACGT" * 4 + "\n>chr2\n" + "ACGT" * 5 + "\n")
    return open_store(fasta)


def write(tmp_path: Path, text: str, name: str) -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def big_wig(path: Path, lengths: dict[str, int], rows: list[tuple[Any, ...]]) -> Path:
    pybigtools = pytest.importorskip("pybigtools")
    pybigtools.open(str(path), "w").write(lengths, iter(rows))
    return path


def test_bed_says_what_lies_inside(store: Store, tmp_path: Path) -> None:
    text = "chr9\t0\t5\nchr1\t8\t10\nchr1\t2\t6\nchr1\t3\t4\nchr1\t5\t9\n"
    signal = open_signal(write(tmp_path, text, "peaks.bed"), store)
    assert signal.kind == "labels"
    wanted = np.zeros(34)
    wanted[2:10] = 1
    for start, end in ((0, 34), (4, 7), (2, 10), (9, 12), (10, 20)):
        np.testing.assert_array_equal(signal.read("chr1", start, end), wanted[start:end])
    assert not signal.read("chr2", 0, 20).any()


@pytest.mark.parametrize("form", ["bedGraph", "bigWig"])
def test_numbers_are_unknown_where_there_are_none(form: str, store: Store, tmp_path: Path) -> None:
    rows = [("chr1", 0, 3, 1.5), ("chr1", 3, 5, -2.0), ("chr1", 8, 9, 4.0)]
    if form == "bigWig":
        path = big_wig(tmp_path / "x.bw", {"chr1": 34, "chr9": 50}, rows)
    else:
        lines = ["\t".join(map(str, row)) for row in [*rows[::-1], ("chr9", 1, 2, 3)]]
        path = write(tmp_path, "track type=bedGraph\n" + "\n".join(lines), "x.bedGraph")
    signal = open_signal(path, store)
    assert signal.kind == "values"
    wanted = np.full(34, np.nan)
    for _, start, end, value in rows:
        wanted[start:end] = value
    np.testing.assert_array_equal(signal.read("chr1", 0, 34), wanted)
    np.testing.assert_array_equal(signal.read("chr1", 2, 9), wanted[2:9])
    assert np.isnan(signal.read("chr2", 0, 20)).all()


def test_windows_are_read_end_to_end_and_n_is_unknown(store: Store, tmp_path: Path) -> None:
    regions = read_regions(write(tmp_path, "chr1\t12\t20\nchr2\t0\t4\n", "r.bed"), store)
    tracks = [
        write(tmp_path, "chr1\t14\t17\n", "one.bed"),
        write(tmp_path, "chr2\t1\t2\n", "two.narrowPeak"),
    ]
    sequences = list(fetch(store, regions.windows))
    found = read_signals(tracks, store, regions.windows, sequences)
    assert (found.kind, found.names, len(found)) == ("labels", ("one", "two"), 2)
    nan = np.nan
    wanted = [[0, 0, 1, 1, nan, nan, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, nan, nan, 0, 0, 0, 1, 0, 0]]
    np.testing.assert_array_equal(found.values, np.array(wanted).T)
    second = found.of([1])
    np.testing.assert_array_equal(second.values, found.values[8:])
    assert second.span(0) == slice(0, 4)


def test_bad_tracks_are_refused(store: Store, tmp_path: Path) -> None:
    bad = {
        "a.bed": ("1\t0\t5\n", "none of its contigs is in g.fa: `1`; did you mean `chr1`"),
        "b.bed": ("chr1\t0\t99\n", "behind a contig's end in g.fa"),
        "c.bed": ("# none\n", "holds no region"),
        "d.bedGraph": ("chr1\t0\t5\thigh\n", "line 1: the fourth column of bedGraph is a number"),
        "e.bedGraph": ("chr1\t4\t6\t1\nchr1\t0\t5\t2\n", "lines 1 and 2 overlap"),
        "f.bedGraph": ("chr1\t4\t6\n", "line 1: the fourth column"),
    }
    for name, (text, fault) in bad.items():
        with pytest.raises(InputError, match=fault):
            open_signal(write(tmp_path, text, name), store)
    regions = read_regions(write(tmp_path, "chr1\t0\t5\n", "r.bed"), store)
    sequences = list(fetch(store, regions.windows))
    good = write(tmp_path, "chr1\t0\t2\n", "x.bed")
    graph = write(tmp_path, "chr1\t0\t2\t1\n", "y.bedGraph")
    for paths, fault in (([good, good], "two are called x"), ([good, graph], "has values")):
        with pytest.raises(UsageError, match=fault):
            read_signals(paths, store, regions.windows, sequences)


def test_bad_big_wigs_are_refused(store: Store, tmp_path: Path) -> None:
    other = big_wig(tmp_path / "o.bw", {"chr1": 99}, [("chr1", 0, 5, 1.0)])
    with pytest.raises(InputError, match=r"chr1 has 99 bases, and in g\.fa 34"):
        open_signal(other, store)
    alien = big_wig(tmp_path / "a.bw", {"1": 34}, [("1", 0, 5, 1.0)])
    with pytest.raises(InputError, match="did you mean `chr1`"):
        open_signal(alien, store)
    rows = [("chr1", at, at + 1, float(at)) for at in range(30)]
    whole = big_wig(tmp_path / "w.bw", {"chr1": 34}, rows).read_bytes()
    cut = tmp_path / "cut.bw"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        open_signal(cut, store).read("chr1", 0, 34)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pybigtools", None)
        with pytest.raises(UsageError, match=r"pip install dnamamba\[finetune\]"):
            open_signal(other, store)
