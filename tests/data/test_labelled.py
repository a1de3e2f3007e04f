from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from dnamamba.data.labelled import LabelledWindows
from dnamamba.data.loci import Piece
from dnamamba.data.region import Region
from dnamamba.data.store import Store, open_store
from dnamamba.data.tracks import Track, read
from dnamamba.errors import UsageError


@pytest.fixture
def store(write_fasta: Callable[[Path, Mapping[str, str]], Path], tmp_path: Path) -> Store:
    random = np.random.default_rng(0)
    texts = {name: "".join(random.choice(list("ACGT"), 400)) for name in "abc"}
    return open_store(write_fasta(tmp_path / "x.fa", texts))


def on(store: Store, contig: str, *spans: tuple[int, int, str, int, int]) -> Track:
    """Lay pieces of a contig end to end: start, end, strand, and the locus's start and end."""
    return Track(
        store,
        [
            Piece(Region(contig, start, end, strand), Region("r", first, last))
            for start, end, strand, first, last in spans
        ],
    )


@pytest.fixture
def one(store: Store) -> list[Track]:
    return [on(store, "a", (0, 200, "+", 0, 200), (200, 400, "-", 300, 500))]


@pytest.fixture
def other(store: Store) -> list[Track]:
    """The same loci on two tracks, the first with half as many bases as the locus."""
    return [on(store, "b", (0, 100, "+", 0, 200)), on(store, "b", (100, 300, "+", 300, 500))]


def keys(steps: int, batch: int) -> list[tuple[int, int]]:
    return [(step, index) for step in range(steps) for index in range(batch)]


def test_a_step_shows_each_locus_in_every_species(one: list[Track], other: list[Track]) -> None:
    windows = LabelledWindows([one, other], 20, seed=3)
    middles = []
    for step in range(200):
        pair = sorted((windows.window(step, i) for i in (4, 5)), key=lambda each: each.species)
        assert [window.species for window in pair] == [0, 1]
        spans = [
            windows.species[window.species][window.track].loci(window.start, window.end)
            for window in pair
        ]
        first, second = ((loci[0].start + loci[-1].end) / 2 for loci in spans)
        # A window at a track's end is pushed inwards, by half of itself at most: 20 of the locus.
        assert abs(first - second) <= 21 + 100 * (len(spans[0]) > 1)
        middles.append(first)
    assert min(middles) < 30
    assert max(middles) > 470


def test_all_starts_are_drawn(one: list[Track], other: list[Track]) -> None:
    windows = LabelledWindows([one, other], 98, seed=1)
    drawn = [windows.window(*key) for key in keys(3000, 4)]
    places = {(w.species, w.track, w.start) for w in drawn}
    # Starts of the second are drawn by its own turn; some are homologs of the first's, too.
    assert {place for place in places if place[0] == 0} == {(0, 0, i) for i in range(303)}
    assert {place for place in places if place[:2] == (1, 0)} == {(1, 0, i) for i in range(3)}


def test_windows_are_a_function_of_seed_and_key(one: list[Track], other: list[Track]) -> None:
    windows, again, others = (LabelledWindows([one, other], 20, seed=seed) for seed in (3, 3, 4))
    assert windows.window(7, 2) == again.window(7, 2)
    assert windows.window(7, 2) != others.window(7, 2)
    assert windows.window(7, 2) != windows.window(8, 2)
    assert torch.equal(windows[7, 2], read(windows.species, windows.window(7, 2)))


def test_a_species_without_the_locus_is_drawn_by_itself(one: list[Track], store: Store) -> None:
    apart = [Track(store, [Piece(Region("c", 0, 50), Region("s", 0, 50))])]
    windows = LabelledWindows([one, apart], 20, seed=0)
    starts = {windows.window(step, 1).start for step in range(0, 2000, 2)}
    assert starts == set(range(31))


def test_tracks_too_short_for_a_window_are_passed_over(one: list[Track], store: Store) -> None:
    short = on(store, "b", (0, 10, "+", 100, 110))
    long = on(store, "b", (10, 60, "+", 110, 160))
    windows = LabelledWindows([one, [short, long]], 20, seed=0)
    assert {windows.window(step, 1).track for step in range(0, 400, 2)} == {1}


def test_a_batch_smaller_than_the_species_leaves_none_out(one: list[Track]) -> None:
    windows = LabelledWindows([one, one, one], 8, seed=1)
    drawn = Counter(windows.window(*key).species for key in keys(30, 2))
    assert drawn == {0: 20, 1: 20, 2: 20}


@pytest.mark.parametrize("by_track", [False, True])
def test_a_key_is_of_one_species_at_every_length(one: list[Track], by_track: bool) -> None:
    windows = LabelledWindows([one, one, one], 8, seed=1, by_track=by_track)
    shorter = windows.of_length(2)
    labels = [windows.label(*key) for key in keys(10, 10)]
    assert set(labels) == {0, 1, 2}
    assert labels == [windows.window(*key).species for key in keys(10, 10)]
    assert labels == [shorter.window(*key).species for key in keys(10, 10)]
    assert len(shorter[0, 0]) == 2


def test_the_papers_way(one: list[Track], store: Store) -> None:
    """A species, then a track, each as likely, then a window: all independent."""
    small = on(store, "b", (0, 25, "+", 0, 25))
    windows = LabelledWindows([one, [*one, small]], 20, seed=0, by_track=True)
    drawn = [windows.window(step, 0) for step in range(2000)]
    assert abs(sum(window.species for window in drawn) - 1000) < 4 * 500**0.5
    of_second = [window for window in drawn if window.species == 1]
    assert abs(sum(window.track for window in of_second) - 500) < 4 * 250**0.5
    assert {window.start for window in of_second if window.track == 1} == set(range(6))


def test_a_species_without_a_window_is_said(one: list[Track], store: Store) -> None:
    short = [on(store, "b", (0, 10, "+", 0, 10))]
    with pytest.raises(UsageError, match=r"species 2 has no stretch of 11 bases.*longest has 10"):
        LabelledWindows([one, short], 11, seed=0)
