import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from dnamamba.data.loci import Piece
from dnamamba.data.overlap import measure_overlap, without_shared
from dnamamba.data.region import Region
from dnamamba.data.store import open_store
from dnamamba.data.tracks import Track


def bases(seed: int, length: int) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=length))


def complement(sequence: str) -> str:
    return sequence[::-1].translate(str.maketrans("ACGT", "TGCA"))


@pytest.fixture
def track_of(
    write_fasta: Callable[[Path, Mapping[str, str]], Path], tmp_path: Path
) -> Callable[[str, str], Track]:
    def make(name: str, sequence: str) -> Track:
        store = open_store(write_fasta(tmp_path / f"{name}.fa", {name: sequence}))
        region = Region(name, 0, len(sequence))
        return Track(store, [Piece(region, region)])

    return make


def test_unrelated_sides_share_nothing(track_of: Callable[[str, str], Track]) -> None:
    train = [[track_of("a", bases(0, 20_000))], [track_of("b", bases(1, 20_000))]]
    test = [[track_of("c", bases(2, 8192))], [track_of("d", bases(3, 8192))]]
    overlap = measure_overlap(train, test, 1024)
    assert (overlap.windows, overlap.found, overlap.share) == (16, 0, 0.0)
    assert not overlap.leaks
    assert overlap.first == ""


@pytest.mark.parametrize("strand", ["given", "reverse complement"])
def test_sequence_on_both_sides_is_found(
    track_of: Callable[[str, str], Track], strand: str
) -> None:
    """Whichever species it stands under."""
    copied = bases(2, 4096)
    there = copied if strand == "given" else complement(copied)
    train = [[track_of("a", bases(0, 5000) + there)], [track_of("b", bases(1, 9000))]]
    test = [[track_of("c", bases(3, 8192))], [track_of("d", copied + bases(4, 4096))]]
    overlap = measure_overlap(train, test, 1024)
    assert (overlap.windows, overlap.found) == (16, 4)
    assert overlap.leaks
    assert overlap.first == "d.fa d:1-1024"
    assert overlap.share == pytest.approx(0.25, abs=0.02)


def test_one_short_record_is_looked_at_whole(track_of: Callable[[str, str], Track]) -> None:
    copied = bases(2, 500)
    overlap = measure_overlap([[track_of("a", copied)]], [[track_of("c", copied)]], 1024)
    assert (overlap.windows, overlap.found) == (1, 1)


def test_what_is_held_out_is_cut_out_of_train(track_of: Callable[[str, str], Track]) -> None:
    """Copies at 95 % identity go, and repeats stay, that the held-out side has often, too."""
    rng = random.Random(5)
    copied, repeat = bases(2, 4096), bases(6, 2048)
    mutated = "".join(rng.choice("ACGT") if rng.random() < 0.06 else base for base in copied)
    own = bases(0, 8192)
    train = [[track_of("a", own[:4096] + mutated + own[4096:] + repeat)]]
    held = [[track_of("c", bases(3, 4096) + copied + repeat + repeat)]]
    (kept,), removed = without_shared(train, held)
    assert removed == pytest.approx(4096 / (8192 + 4096 + 2048))
    assert kept[0].length == 8192 + 2048
    assert [str(region) for region in kept[0].regions(4095, 4097)] == ["a:4096-4096", "a:8193-8193"]
    assert measure_overlap([kept], [[held[0][0]]], 1024).found <= 4  # the repeats


def test_a_track_may_vanish(track_of: Callable[[str, str], Track]) -> None:
    copied = bases(2, 4096)
    kept, removed = without_shared([[track_of("a", copied)]], [[track_of("c", copied)]])
    assert kept == [[]]
    assert removed == 1
