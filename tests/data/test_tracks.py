from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from dnamamba.data.loci import Piece
from dnamamba.data.region import Region
from dnamamba.data.store import Store, open_store
from dnamamba.data.tracks import (
    LabelledWindow,
    LabelledWindows,
    Track,
    group_by_locus,
    read,
    tile_tracks,
    tracks_of,
)
from dnamamba.errors import UsageError

LETTERS = np.array(list("ACGTN"))


def text(codes: np.ndarray | torch.Tensor) -> str:
    return "".join(LETTERS[np.asarray(codes)])


@pytest.fixture
def store(write_fasta: Callable[[Path, Mapping[str, str]], Path], tmp_path: Path) -> Store:
    return open_store(
        write_fasta(tmp_path / "x.fa", {"a": "AAAACCCC", "b": "GGTTTT", "c": "NNNNNNNNAC"})
    )


@pytest.fixture
def track(store: Store) -> Track:
    """AACCCC, then the reverse complement of GTTT: AACCCCAAAC."""
    return Track(
        store,
        [
            Piece(Region("a", 2, 8), Region("r", 100, 106)),
            Piece(Region("b", 1, 5, "-"), Region("r", 200, 208)),
        ],
    )


def test_pieces_are_read_end_to_end(track: Track) -> None:
    assert track.length == 10
    assert text(track.codes(0, 10)) == "AACCCCAAAC"
    for start in range(10):
        for end in range(start + 1, 11):
            assert text(track.codes(start, end)) == "AACCCCAAAC"[start:end]


def test_loci_of_a_stretch(track: Track) -> None:
    assert track.loci(1, 3) == [Region("r", 101, 103)]
    assert track.loci(4, 8) == [Region("r", 104, 106), Region("r", 200, 204)]


def test_n_are_counted_on_both_strands(store: Store) -> None:
    for strand, wanted in (("+", [0, 4, 8, 8]), ("-", [0, 2, 6, 8])):
        track = Track(store, [Piece(Region("c", 0, 10, strand), Region("r", 0, 10))])
        assert [track.n_count(0, end) for end in (0, 4, 8, 10)] == wanted


def test_a_fold_lays_its_regions_apart(store: Store, track: Track) -> None:
    assert [found.pieces for found in tracks_of(store, track.pieces, [Region("r", 0, 150)])] == [
        track.pieces[:1]
    ]
    regions = [Region("r", 0, 150), Region("r", 150, 300), Region("s", 0, 300)]
    assert [found.length for found in tracks_of(store, track.pieces, regions)] == [6, 4]


def test_windows_are_drawn_from_species_alike_and_from_all_starts(
    store: Store, track: Track
) -> None:
    other = Track(store, [Piece(Region("a", 0, 8), Region("r", 0, 8))])
    short = Track(store, [Piece(Region("b", 0, 3), Region("r", 0, 3))])
    windows = LabelledWindows([[track], [short, other]], 4, seed=3)
    drawn = [windows.window(step, index) for step in range(100) for index in range(20)]
    species = Counter(window.species for window in drawn)
    assert abs(species[0] - 1000) < 4 * 500**0.5
    places = {(w.species, w.track, w.start) for w in drawn}
    assert places == {(0, 0, i) for i in range(7)} | {(1, 1, i) for i in range(5)}
    assert {w.strand for w in drawn} == {"+", "-"}
    assert windows.window(7, 2) == LabelledWindows([[track], [short, other]], 4, seed=3).window(
        7, 2
    )
    assert torch.equal(windows[7, 2], read(windows.species, windows.window(7, 2)))


def test_a_key_is_of_one_species_at_every_length(track: Track) -> None:
    windows = LabelledWindows([[track], [track], [track]], 8, seed=1)
    shorter = windows.of_length(2)
    keys = [(step, index) for step in range(10) for index in range(10)]
    labels = [windows.label(*key) for key in keys]
    assert set(labels) == {0, 1, 2}
    assert labels == [windows.window(*key).species for key in keys]
    assert labels == [shorter.window(*key).species for key in keys]
    assert len(shorter[0, 0]) == 2


def test_tracks_may_be_drawn_alike(store: Store, track: Track) -> None:
    small = Track(store, [Piece(Region("a", 0, 4), Region("r", 0, 4))])
    counts = {}
    for by_track in (False, True):
        windows = LabelledWindows([[track, small]], 4, seed=0, by_track=by_track)
        counts[by_track] = Counter(windows.window(0, index).track for index in range(2000))
    assert abs(counts[False][1] - 250) < 70
    assert abs(counts[True][1] - 1000) < 100


def test_windows_of_n_are_drawn_again(store: Store) -> None:
    track = Track(store, [Piece(Region("c", 0, 10), Region("r", 0, 10))])
    windows = LabelledWindows([[track]], 4, seed=0)
    assert {windows.window(0, index).start for index in range(50)} == {6}
    assert tile_tracks([[track]], 4) == []
    assert tile_tracks([[track]], 2) == [LabelledWindow(0, 0, 8, 10)]


def test_the_reverse_strand(store: Store, track: Track) -> None:
    assert text(read([[track]], LabelledWindow(0, 0, 0, 10, "-"))) == "GTTTGGGGTT"


def test_a_species_without_a_window_is_said(store: Store, track: Track) -> None:
    with pytest.raises(UsageError, match=r"species 2 has no stretch of 11 bases.*longest has 10"):
        LabelledWindows([[Track(store, track.pieces * 2)], [track]], 11, seed=0)


def test_homologous_windows_share_a_locus(store: Store) -> None:
    """The second species lacks a little of the first, and has what the first has not."""
    one = [Track(store, [Piece(Region("a", 0, 8), Region("r", 0, 80))])]
    two = [
        Track(store, [Piece(Region("b", 0, 6), Region("r", 12, 78))]),
        Track(store, [Piece(Region("c", 6, 10), Region("s", 0, 4))]),
    ]
    windows = tile_tracks([one, two], 2)
    numbers = group_by_locus([one, two], windows)
    assert [(w.species, w.track) for w in windows] == [(0, 0)] * 4 + [(1, 0)] * 3 + [(1, 1)]
    assert numbers == [0, 1, 2, 3, 1, 2, 3, 4]
