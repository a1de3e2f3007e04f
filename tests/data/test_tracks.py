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
    Track,
    group_by_locus,
    read,
    tile_tracks,
    tracks_of,
)

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


def test_a_fold_lays_its_regions_apart(store: Store, track: Track) -> None:
    assert [found.pieces for found in tracks_of(store, track.pieces, [Region("r", 0, 150)])] == [
        track.pieces[:1]
    ]
    regions = [Region("r", 0, 150), Region("r", 150, 300), Region("s", 0, 300)]
    assert [found.length for found in tracks_of(store, track.pieces, regions)] == [6, 4]


def test_a_window_is_read_from_its_track(track: Track) -> None:
    assert text(read([[], [track]], LabelledWindow(1, 0, 2, 7))) == "CCCCA"


def test_homologous_windows_share_a_locus(store: Store) -> None:
    """The second species lacks a little of the first, and has what the first has not."""
    one = [Track(store, [Piece(Region("a", 0, 8), Region("r", 0, 80))])]
    two = [
        Track(store, [Piece(Region("b", 0, 6), Region("r", 12, 78))]),
        Track(store, [Piece(Region("c", 6, 10), Region("s", 0, 4))]),
    ]
    windows = tile_tracks([one, two], 2)
    numbers = group_by_locus([one, two], windows)
    assert [(w.species, w.track) for w in windows] == [(0, 0)] * 4 + [(1, 0)] * 3 + [(1, 1)] * 2
    assert numbers == [0, 1, 2, 3, 1, 2, 3, 4, 5]
