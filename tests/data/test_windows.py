import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnamamba.alphabet import SOFT_MASK, N, encode, reverse_complement
from dnamamba.data.region import Region
from dnamamba.data.store import Store, open_store
from dnamamba.data.windows import (
    HeldOutWindows,
    Source,
    TrainingWindows,
    Window,
    admissible,
    tile,
)
from dnamamba.errors import UsageError

SEQUENCE = "".join(np.random.default_rng(0).choice(list("ACGTacgt"), 2000))


@pytest.fixture
def store(tmp_path: Path, write_fasta: Callable[..., Path]) -> Store:
    gaps = SEQUENCE[:100] + "N" * 300 + SEQUENCE[400:1000]
    records = {"whole": SEQUENCE, "gaps": gaps, "short": "ACGT" * 5, "n": "N" * 200}
    return open_store(write_fasta(tmp_path / "genome.fa", records))


def test_a_window_is_a_pure_function_of_seed_step_and_index(store: Store) -> None:
    sources = [Source(store, (Region("whole", 0, 2000), Region("gaps", 0, 1000)))]
    keys = [(step, index) for step in (0, 1, 7, 10**9) for index in (0, 1, 500)]
    one = TrainingWindows(sources, 50, seed=3)
    other = TrainingWindows(sources, 50, seed=3)
    expected = [one.window(*key) for key in keys]
    assert [other.window(*key) for key in reversed(keys)] == expected[::-1]
    assert len(set(expected)) == len(keys)
    assert [TrainingWindows(sources, 50, seed=4).window(*key) for key in keys] != expected
    copy = pickle.loads(pickle.dumps(one))
    assert all(torch.equal(copy[key], one[key]) for key in keys)


def test_draws_stay_the_same_from_release_to_release(store: Store) -> None:
    windows = TrainingWindows([Source(store, (Region("whole", 0, 2000),))], 10, seed=0)
    drawn = [windows.window(step, index) for step, index in ((0, 0), (0, 1), (1, 0))]
    assert [(w.region.start, w.region.strand) for w in drawn] == [
        (480, "+"),
        (429, "+"),
        (126, "-"),
    ]


def test_codes_are_the_genome_s_with_the_soft_mask(store: Store) -> None:
    windows = TrainingWindows([Source(store, (Region("whole", 100, 1900),))], 64, seed=0)
    strands = set()
    for index in range(50):
        region = windows.window(0, index).region
        expected = encode(SEQUENCE[region.start : region.end])
        strands.add(region.strand)
        codes = windows[0, index]
        assert codes.dtype == torch.uint8
        np.testing.assert_array_equal(
            codes, reverse_complement(expected) if region.strand == "-" else expected
        )
        assert (codes & SOFT_MASK).any()
    assert strands == {"+", "-"}


def test_one_strand_only_where_asked(store: Store) -> None:
    sources = [Source(store, (Region("whole", 0, 2000),))]
    both = TrainingWindows(sources, 64, seed=0)
    single = TrainingWindows(sources, 64, seed=0, reverse_complement=False)
    assert {single.window(0, i).region.strand for i in range(64)} == {"+"}
    minus = sum(both.window(0, i).region.strand == "-" for i in range(1000))
    assert 430 < minus < 570


def test_every_start_is_equally_likely(store: Store) -> None:
    regions = (Region("whole", 0, 12), Region("whole", 500, 520), Region("gaps", 500, 505))
    windows = TrainingWindows([Source(store, regions)], 10, seed=1)
    starts = [windows.window(step, 0).region.start for step in range(7000)]
    values, counts = np.unique(starts, return_counts=True)
    assert values.tolist() == [0, 1, 2, *range(500, 511)]
    expected = 7000 / 14
    assert ((counts - expected) ** 2 / expected).sum() < 35  # chi-square, 13 degrees, p = 0.001
    assert windows.bases == 32


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    edges=st.lists(st.integers(0, 2000), min_size=2, max_size=8, unique=True),
    length=st.integers(1, 300),
    seed=st.integers(0, 2**70),
)
def test_windows_lie_inside_one_region(
    store: Store, edges: list[int], length: int, seed: int
) -> None:
    edges.sort()
    regions = tuple(Region("whole", a, b) for a, b in pairwise(edges))[::2]
    if not admissible(regions, length):
        with pytest.raises(UsageError, match=f"no training region holds a window of {length}"):
            TrainingWindows([Source(store, regions)], length, seed=seed)
        return
    windows = TrainingWindows([Source(store, regions)], length, seed=seed)
    for index in range(20):
        drawn = windows.window(0, index).region
        assert len(drawn) == length
        assert any(r.start <= drawn.start and drawn.end <= r.end for r in regions)


def test_windows_with_many_n_are_drawn_again(store: Store) -> None:
    sources = [Source(store, (Region("gaps", 0, 1000), Region("n", 0, 200)))]
    windows = TrainingWindows(sources, 20, seed=0, max_n_fraction=0.25)
    drawn = torch.stack([windows[0, index] for index in range(300)])
    missing = ((drawn & 7) == N).sum(1)
    assert missing.max() <= 5
    assert missing.max() > 0


def test_where_all_is_n_the_draw_still_ends(store: Store) -> None:
    windows = TrainingWindows([Source(store, (Region("n", 0, 200),))], 20, seed=0)
    assert ((windows[0, 0] & 7) == N).all()


def test_two_genomes_are_drawn_by_their_bases(store: Store) -> None:
    sources = [
        Source(store, (Region("whole", 0, 300),)),
        Source(store, (Region("whole", 1000, 1900),)),
    ]
    windows = TrainingWindows(sources, 1, seed=0)
    drawn = [windows.window(0, index) for index in range(2000)]
    assert sum(window.source == 1 for window in drawn) == pytest.approx(1500, rel=0.05)
    assert all((window.region.start >= 1000) == (window.source == 1) for window in drawn)


def test_no_room_for_a_window(store: Store) -> None:
    with pytest.raises(UsageError, match="the longest has 20; choose a smaller --length"):
        TrainingWindows([Source(store, (Region("short", 0, 20),))], 21, seed=0)


def test_tiles_lie_side_by_side_and_leave_out_n_and_the_rest(store: Store) -> None:
    sources = [
        Source(store, (Region("gaps", 50, 995), Region("short", 0, 20))),
        Source(store, (Region("whole", 7, 207),)),
    ]
    windows = tile(sources, 100)
    assert [window.region.start for window in windows] == [50, 350, 450, 550, 650, 750, 850, 7, 107]
    assert [window.source for window in windows] == [0] * 7 + [1] * 2
    assert tile(sources, 100, max_n_fraction=0.4)[0].region.start == 450
    assert len(tile(sources, 100, max_n_fraction=1.0)) == 11
    assert tile([Source(store, (Region("n", 0, 200),))], 50) == []


def test_tiles_are_thinned_evenly(store: Store) -> None:
    sources = [Source(store, (Region("whole", 0, 2000),))]
    starts = [window.region.start // 10 for window in tile(sources, 10, limit=4)]
    assert starts == [25, 75, 125, 175]
    assert tile(sources, 10, limit=1000) == tile(sources, 10)
    assert len(tile(sources, 10, limit=199)) == len(set(tile(sources, 10, limit=199))) == 199


def test_held_out_windows_are_read_in_order(store: Store) -> None:
    sources = [Source(store, (Region("whole", 0, 2000),))]
    tiles = [*tile(sources, 30, limit=3), Window(0, Region("whole", 0, 30, "-"))]
    held_out = HeldOutWindows(sources, tiles)
    assert len(held_out) == 4
    for index in range(3):
        region = tiles[index].region
        np.testing.assert_array_equal(held_out[index], encode(SEQUENCE)[region.start : region.end])
    np.testing.assert_array_equal(held_out[3], reverse_complement(encode(SEQUENCE[:30])))
