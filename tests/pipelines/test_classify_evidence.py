from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from dnamamba.data.loci import Piece
from dnamamba.data.region import Region
from dnamamba.data.store import open_store
from dnamamba.data.tracks import LabelledWindow, Track, Tracks, tile_tracks
from dnamamba.evaluation.calls import Calls, combine
from dnamamba.evaluation.contest import Contest
from dnamamba.pipelines import classify_evidence
from dnamamba.pipelines.classify_evidence import longer_contests, with_enough

LENGTH = 10


@pytest.fixture
def species(write_fasta: Callable[[Path, Mapping[str, str]], Path], tmp_path: Path) -> Tracks:
    """Of 170 bases, and of 170 on two tracks of 85."""
    store = open_store(write_fasta(tmp_path / "x.fa", {"a": "ACGT" * 50}))

    def track(start: int, end: int) -> Track:
        return Track(store, [Piece(Region("a", start, end), Region("r", start, end))])

    return [[track(0, 170)], [track(0, 85), track(85, 170)]]


def called(windows: list[LabelledWindow], seed: int) -> Calls:
    random = np.random.default_rng(seed)
    labels = np.array([window.species for window in windows])
    return Calls(("ape", "bear"), random.dirichlet([1, 1], len(windows)), labels, labels)


def contest(windows: list[LabelledWindow]) -> Contest:
    return Contest(LENGTH, called(windows, 0), {"k-mers": called(windows, 1)})


def test_neighbouring_windows_are_combined(species: Tracks) -> None:
    windows = tile_tracks(species, LENGTH)
    before = contest(windows)
    longer = longer_contests(before, species, windows)
    assert [(each.length, each.combined) for each in longer] == [(40, 4), (160, 16)]
    found = longer[0]
    assert found.model.labels.tolist() == [0] * 4 + [1] * 4
    assert found.model.loci.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    rows = [range(0, 4), range(4, 8), range(8, 12), range(12, 16)]
    rows += [range(17, 21), range(21, 25), range(25, 29), range(29, 33)]
    for calls, source in (
        (found.model, before.model),
        (found.controls["k-mers"], before.controls["k-mers"]),
    ):
        wanted = [combine(source.probabilities[list(four)]) for four in rows]
        np.testing.assert_array_equal(calls.probabilities, wanted)


def test_a_stretch_counts_where_all_its_windows_were_called(species: Tracks) -> None:
    windows = tile_tracks(species, LENGTH)
    some = windows[:5] + windows[6:]  # the second stretch of the first species lacks one
    (found,) = longer_contests(contest(some), species, some)
    assert found.model.labels.tolist() == [0] * 3 + [1] * 4
    every_second = windows[::2]
    assert longer_contests(contest(every_second), species, every_second) == []


def test_contexts_end(species: Tracks, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = tile_tracks(species, 5)
    before = Contest(5, called(windows, 0), {"k-mers": called(windows, 1)})
    assert [each.length for each in longer_contests(before, species, windows)] == [20, 80]
    monkeypatch.setattr(classify_evidence, "LONGEST", 79)
    assert [each.length for each in longer_contests(before, species, windows)] == [20]


def test_contexts_with_few_stretches_of_a_species_are_not_reported(species: Tracks) -> None:
    windows = tile_tracks(species, LENGTH)
    before = contest(windows)
    longer = longer_contests(before, species, windows)
    assert longer[1].model.labels.tolist() == [0], "the tracks of the second are too short"
    assert with_enough([before, *longer]) == [before, longer[0]]
    few = contest(windows[:1] + windows[-1:])
    assert with_enough([few]) == [few], "contexts that the model reads are"
