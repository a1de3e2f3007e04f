from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnamamba.data.bed import read_bed
from dnamamba.data.region import Region
from dnamamba.data.targets import Short, Targets, centre, table_rows, tile, whole_contigs
from dnamamba.errors import UsageError

LENGTHS = {"a": 100, "b": 30, "c": 8}


def shown(targets: Targets) -> list[str]:
    return [str(targets.region(row)) for row in range(len(targets))]


def region(start: int, end: int, strand: str = "+", contig: str = "a") -> Targets:
    one = whole_contigs(LENGTHS, [contig])
    return Targets(
        one.contigs,
        one.contig,
        np.array([start]),
        np.array([end]),
        np.array([strand == "-"]),
        one.origin,
    )


def test_contigs_are_taken_whole_and_in_the_order_asked() -> None:
    targets = whole_contigs(LENGTHS, ["c", "a"])
    assert shown(targets) == ["c:1-8", "a:1-100"]
    assert targets.origin.tolist() == [0, 1]


def test_tables_are_taken_with_their_strands(tmp_path: Path) -> None:
    path = tmp_path / "x.bed"
    path.write_text("b\t5\t9\tone\t0\t-\na\t0\t2\ttwo\t0\t.\n")
    targets = table_rows(read_bed(path, LENGTHS), LENGTHS)
    assert shown(targets) == ["b:6-9(-)", "a:1-2"]


def test_tiles_lie_side_by_side_or_by_a_stride() -> None:
    assert shown(tile(region(10, 20), 4, 4)) == ["a:11-14", "a:15-18"]
    assert shown(tile(region(10, 20), 4, 3)) == ["a:11-14", "a:14-17", "a:17-20"]
    assert shown(tile(region(10, 20), 4, 6)) == ["a:11-14", "a:17-20"]
    assert shown(tile(region(10, 20, "-"), 4, 4)) == ["a:17-20(-)", "a:13-16(-)"]


def test_what_is_left_is_padded_on_demand() -> None:
    assert shown(tile(region(10, 20), 4, 4, "pad")) == ["a:11-14", "a:15-18", "a:19-20"]
    assert shown(tile(region(10, 20, "-"), 4, 4, "pad"))[-1] == "a:11-12(-)"
    assert shown(tile(region(10, 18), 4, 4, "pad")) == ["a:11-14", "a:15-18"]
    assert shown(tile(region(10, 20), 4, 3, "pad")) == ["a:11-14", "a:14-17", "a:17-20"]
    assert shown(tile(region(10, 12), 4, 4, "pad")) == ["a:11-12"]
    assert shown(tile(region(10, 15), 4, 7, "pad")) == ["a:11-14"]  # within a stride nothing is


@pytest.mark.parametrize("short", ["pad", "skip"])
@given(
    start=st.integers(0, 50),
    size=st.integers(0, 50),
    window=st.integers(1, 20),
    stride=st.integers(1, 30),
    strand=st.sampled_from("+-"),
)
def test_tiles_stay_inside_and_miss_no_base(
    short: Short, start: int, size: int, window: int, stride: int, strand: str
) -> None:
    tiles = tile(region(start, start + size, strand), window, stride, short)
    assert (tiles.starts >= start).all()
    assert (tiles.ends <= start + size).all()
    sizes = tiles.ends - tiles.starts
    assert ((sizes == window) | (short == "pad")).all()
    assert (sizes > 0).all()
    held = {base for row in range(len(tiles)) for base in range(tiles.starts[row], tiles.ends[row])}
    if short == "pad" and stride <= window:
        assert held == set(range(start, start + size))


def test_windows_are_centred() -> None:
    assert shown(centre(region(10, 20), 4, LENGTHS)) == ["a:14-17"]
    assert shown(centre(region(10, 21), 5, LENGTHS)) == ["a:14-18"]
    assert shown(centre(region(15, 16, "-"), 5, LENGTHS)) == ["a:14-18(-)"]


def test_windows_over_an_end_are_refused_padded_or_skipped() -> None:
    for place in (region(0, 2), region(98, 100)):
        with pytest.raises(UsageError, match=r"1 region has no room .* --short pad"):
            centre(place, 10, LENGTHS)
        assert not len(centre(place, 10, LENGTHS, "skip"))
    assert shown(centre(region(0, 2), 10, LENGTHS, "pad")) == ["a:1-6"]
    assert shown(centre(region(98, 100), 10, LENGTHS, "pad")) == ["a:95-100"]


def test_short_contigs_are_refused_padded_or_skipped() -> None:
    contigs = whole_contigs(LENGTHS, ["a", "b", "c"])
    with pytest.raises(UsageError, match=r"2 regions have no room .* first at b:1-30"):
        tile(contigs, 50, 50)
    assert shown(tile(contigs, 50, 50, "skip")) == ["a:1-50", "a:51-100"]
    padded = tile(contigs, 50, 50, "pad")
    assert shown(padded) == ["a:1-50", "a:51-100", "b:1-30", "c:1-8"]
    assert padded.origin.tolist() == [0, 0, 1, 2]


def test_one_window_is_a_region() -> None:
    assert whole_contigs(LENGTHS, ["b"]).region(0) == Region("b", 0, 30)
