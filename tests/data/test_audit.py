from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.data.audit import HOMOLOGOUS, coverage, reached, share_kmers
from dnamamba.data.automatic import automatic_split
from dnamamba.data.region import Region
from dnamamba.data.splits import Split, hold_out
from dnamamba.data.store import open_store
from dnamamba.data.windows import Source, TrainingWindows

spans = st.tuples(st.integers(0, 120), st.integers(1, 60))
regions = st.lists(spans.map(lambda span: Region("c", span[0], sum(span))), max_size=4).map(tuple)


def windows_by_hand(train: tuple[Region, ...], length: int) -> list[set[int]]:
    """Every window that lies wholly inside the training bases, by trying each start."""
    bases = {base for region in train for base in range(region.start, region.end)}
    every = (set(range(start, start + length)) for start in range(200))
    return [window for window in every if window <= bases]


@settings(deadline=None)
@given(train=regions, valid=regions, test=regions, length=st.integers(1, 70))
def test_what_windows_reach_is_exact(
    train: tuple[Region, ...], valid: tuple[Region, ...], test: tuple[Region, ...], length: int
) -> None:
    held_out = {base for region in valid + test for base in range(region.start, region.end)}
    expected = set().union(*windows_by_hand(train, length)) & held_out
    found = reached(Split(train, valid, test), length)
    assert {base for region in found for base in range(region.start, region.end)} == expected


def test_a_breach_is_named() -> None:
    split = Split((Region("a", 0, 60), Region("b", 0, 9)), (Region("a", 50, 80), Region("b", 5, 9)))
    assert reached(split, 10) == [Region("a", 50, 60)]
    assert reached(split, 5) == [Region("a", 50, 60), Region("b", 5, 9)]


@settings(deadline=None)
@given(train=regions, length=st.integers(1, 70))
def test_coverage_equals_counting(train: tuple[Region, ...], length: int) -> None:
    windows = windows_by_hand(train, length)
    times: dict[int, int] = {}
    for window in windows:
        for base in window:
            times[base] = times.get(base, 0) + 1
    (found,) = coverage([train], length)
    bases = {base for region in train for base in range(region.start, region.end)}
    assert found.unreachable == len(bases) - len(times)
    if windows:
        draws = len(times) / length
        expected = np.array(list(times.values())) * draws / len(windows)
        assert found.mean == pytest.approx(1.0) == pytest.approx(expected.mean())
        assert found.least == pytest.approx(expected.min())
        assert found.most == pytest.approx(expected.max())
    else:
        assert (found.mean, found.least, found.most) == (0, 0, 0)


def test_coverage_is_what_is_drawn(tmp_path: Path, write_fasta: Callable[..., Path]) -> None:
    store = open_store(write_fasta(tmp_path / "g.fa", {"a": "ACGT" * 50, "b": "ACGT" * 10}))
    trains = [[Region("a", 0, 200)], [Region("b", 0, 40)]]
    sources = [Source(store, tuple(train)) for train in trains]
    windows = TrainingWindows(sources, 20, seed=0)
    epochs = 2000
    times = [np.zeros(200), np.zeros(40)]
    for index in range(epochs * windows.bases // 20):
        window = windows.window(0, index)
        times[window.source][window.region.start : window.region.end] += 1 / epochs
    for found, seen in zip(coverage(trains, 20), times, strict=True):
        assert found.mean == pytest.approx(seen.mean(), rel=0.05)
        assert found.least == pytest.approx(seen.min(), rel=0.2)
        assert found.most == pytest.approx(seen.max(), rel=0.1)


def test_sharing_is_measured_and_homologous_contigs_are_named(
    tmp_path: Path, write_fasta: Callable[..., Path]
) -> None:
    rng = np.random.default_rng(0)

    def draw(size: int) -> str:
        return "".join(rng.choice(list("ACGT"), size))

    def mutate(sequence: str, rate: float) -> str:
        changed = rng.random(len(sequence)) < rate
        return "".join(
            rng.choice(list("ACGT")) if c else b for b, c in zip(sequence, changed, strict=True)
        )

    gene, repeat = draw(20_000), draw(300)
    held_out = gene + "".join(repeat + draw(1000) for _ in range(20))
    records = {
        "held": held_out,
        "twin": mutate(gene, 0.05) + draw(5000),
        "repeats": "".join(repeat + draw(1000) for _ in range(20)),
        "other": draw(20_000),
    }
    store = open_store(write_fasta(tmp_path / "g.fa", records))
    (split,) = hold_out([store], [list(records)], ["held"])
    sharing = share_kmers([store], [split], threads=2)
    (pair,) = sharing.homologies
    assert pair.held_out == ("g.fa", "held")
    assert pair.train == ("g.fa", "twin")
    # 21 bases unchanged at a rate of 3/4 x 5 %, of the 20 of 40.3 kb that have a twin.
    assert pair.share == pytest.approx((1 - 0.0375) ** 21 / 2, rel=0.15)
    sampled, found = sharing.sampled[0, "valid"], sharing.found[0, "valid"]
    assert sampled == pytest.approx(40_300, rel=0.02)
    assert found / sampled == pytest.approx(pair.share + 280 / 40_300, rel=0.05)


def test_sharing_between_two_genomes_and_a_thinned_sketch(
    tmp_path: Path, write_fasta: Callable[..., Path]
) -> None:
    sequence = "".join(np.random.default_rng(0).choice(list("ACGT"), 600_000))
    one = open_store(write_fasta(tmp_path / "one.fa", {"c": sequence}))
    two = open_store(write_fasta(tmp_path / "two.fa", {"d": sequence[300_000:]}))
    whole = (Region("d", 0, 300_000),)
    splits = [Split((), (Region("c", 0, 600_000),)), Split(whole, ())]
    sharing = share_kmers([one, two], splits)
    assert sharing.scale == 2
    (pair,) = sharing.homologies
    assert (pair.held_out, pair.train) == (("one.fa", "c"), ("two.fa", "d"))
    assert pair.share == pytest.approx(0.5, abs=0.01)
    assert (1, "valid") not in sharing.sampled


@pytest.mark.real
@pytest.mark.parametrize("seed", range(3))
def test_five_mitochondria_make_no_honest_hold_out(samples: Path, seed: int) -> None:
    store = open_store(samples / "great_apes_mt.fa.gz")
    split, _ = automatic_split(store, list(store.lengths), 8192, seed=seed)
    assert share_kmers([store], [split]).homologies


@pytest.mark.slow
@pytest.mark.real
def test_repeats_alone_raise_no_alarm(shared_data: Path) -> None:
    store = open_store(shared_data / "human_chr20_GRCh37.fa.gz")
    split, _ = automatic_split(store, ["20"], 8192)
    sharing = share_kmers([store], [split], threads=2)
    assert sharing.homologies == ()
    assert 0.03 < sharing.found[0, "valid"] / sharing.sampled[0, "valid"] < 0.15


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize(("other", "homologous"), [("marmoset", True), ("galago", False)])
def test_the_same_locus_in_other_primates(shared_data: Path, other: str, homologous: bool) -> None:
    paths = [shared_data / f"encode_ENm001_{name}.fa.gz" for name in ("human", other)]
    stores = [open_store(path) for path in paths]
    whole = [
        tuple(Region(contig, 0, length) for contig, length in store.lengths.items())
        for store in stores
    ]
    sharing = share_kmers(stores, [Split((), whole[0]), Split(whole[1], ())])
    assert bool(sharing.homologies) == homologous
    assert all(pair.share >= HOMOLOGOUS for pair in sharing.homologies)
