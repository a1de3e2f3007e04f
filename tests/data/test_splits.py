from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dnamamba.data.automatic import automatic_split
from dnamamba.data.region import Region, intersect, merge
from dnamamba.data.splits import Split, count_n, cut_gaps, format_splits, hold_out, read_splits
from dnamamba.data.store import Store, open_store
from dnamamba.errors import InputError, UsageError

Genome = Callable[..., Store]


@pytest.fixture
def genome(tmp_path: Path, write_fasta: Callable[..., Path]) -> Genome:
    """Makes a store of contigs; a number stands for so many random bases."""
    rng = np.random.default_rng(0)

    def make(name: str = "genome.fa", **contigs: int | str) -> Store:
        records = {
            contig: "".join(rng.choice(list("ACGT"), what)) if isinstance(what, int) else what
            for contig, what in contigs.items()
        }
        return open_store(write_fasta(tmp_path / name, records))

    return make


def bases(regions: tuple[Region, ...]) -> int:
    return sum(map(len, regions))


def require_sound(split: Split, store: Store, length: int) -> None:
    """Sides lie in the genome, apart from each other, and each region holds a window."""
    assert not intersect(split.train, split.held_out)
    for region in split.train + split.held_out:
        assert len(region) >= length
        assert region.end <= store.lengths[region.contig]


def test_many_contigs_are_held_out_whole(genome: Genome) -> None:
    store = genome(**{f"c{i}": 1000 for i in range(20)})
    split, note = automatic_split(store, list(store.lengths), 100)
    require_sound(split, store, 100)
    assert [len(region) for region in split.valid] == [1000, 1000]
    assert {r.contig for r in split.train + split.valid} == set(store.lengths)
    assert "2 whole contigs" in note
    assert "10.0%" in note


def test_a_few_contigs_are_cut_into_blocks(genome: Genome) -> None:
    store = genome(a=40_000, b=20_000)
    split, note = automatic_split(store, ["a", "b"], 100)
    require_sound(split, store, 100)
    assert len(split.valid) == 10
    assert {region.contig for region in split.valid} == {"a", "b"}
    assert bases(split.valid) == pytest.approx(6000, rel=0.05)
    assert bases(split.train) + bases(split.valid) == 60_000
    assert "10 blocks of a, b" in note


def test_contigs_of_unequal_size_give_way_to_blocks(genome: Genome) -> None:
    store = genome(big=100_000, **{f"s{i}": 200 for i in range(12)})
    split, _ = automatic_split(store, list(store.lengths), 100)
    assert any(region.contig == "big" for region in split.valid)
    assert bases(split.valid) == pytest.approx(10_240, rel=0.2)


def test_long_windows_get_fewer_and_longer_blocks(genome: Genome) -> None:
    store = genome(a=100_000)
    split, _ = automatic_split(store, ["a"], 1500)
    assert len(split.valid) == 1
    assert bases(split.valid) == pytest.approx(10_000, rel=0.2)


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_the_fraction_is_met(genome: Genome, fraction: float, seed: int) -> None:
    for store in (genome(a=60_000, b=30_000), genome("m.fa", **{f"c{i}": 900 for i in range(99)})):
        split, _ = automatic_split(store, list(store.lengths), 50, fraction=fraction, seed=seed)
        require_sound(split, store, 50)
        assert bases(split.valid) / sum(store.lengths.values()) == pytest.approx(fraction, rel=0.35)


def test_equal_seeds_give_equal_splits_and_others_do_not(genome: Genome) -> None:
    store = genome(a=50_000)
    one, again, other = (automatic_split(store, ["a"], 64, seed=seed)[0] for seed in (5, 5, 6))
    assert one == again
    assert one != other


def test_long_runs_of_n_are_on_no_side_and_short_ones_stay(genome: Genome) -> None:
    sequence = "N" * 50_000 + "ACGT" * 2500 + "N" * 20 + "GATTACA" * 1000 + "N" * 3000
    store = genome(a=sequence)
    split, note = automatic_split(store, ["a"], 100)
    whole = merge(split.train + split.valid)
    assert whole == [Region("a", 50_000, 67_020)]
    assert sum(count_n(store, region) for region in whole) == 20
    assert bases(split.valid) == pytest.approx(1700, rel=0.1)
    assert "of what is not N" in note


def test_a_block_of_mostly_n_is_not_held_out(genome: Genome) -> None:
    store = genome(a="ACGT" * 250 + ("N" * 90 + "ACGTACGTAC") * 80 + "ACGT" * 250)
    for seed in range(5):
        split, _ = automatic_split(store, ["a"], 100, seed=seed)
        assert all(2 * count_n(store, region) <= len(region) for region in split.valid)


@pytest.mark.parametrize("length", [100, 499, 500])
def test_two_windows_are_enough_for_one_contig(genome: Genome, length: int) -> None:
    store = genome(a=1000)
    split, _ = automatic_split(store, ["a"], length)
    require_sound(split, store, length)


def test_bad_requests_name_the_cure(genome: Genome) -> None:
    store = genome(short=300, long=900)
    both = ["short", "long"]
    with pytest.raises(UsageError, match=r"longest, long, has 900: choose --length 450 or less"):
        automatic_split(store, both, 901)
    with pytest.raises(UsageError, match=r"nothing to train on.*choose --length 450 or less"):
        automatic_split(store, both, 451)
    empty = genome("n.fa", a="N" * 500)
    with pytest.raises(InputError, match=r"n\.fa: nothing but N in a"):
        automatic_split(empty, ["a"], 100)
    scattered = genome("s.fa", a=("ACGTACGTAC" + "N" * 40) * 20)
    with pytest.raises(UsageError, match="clear of runs of as many N"):
        automatic_split(scattered, ["a"], 20)


def test_hold_out_by_name(genome: Genome) -> None:
    store = genome(chr1=100, chr2=200, chrM=50)
    (split,) = hold_out([store], [["chr1", "chr2"]], ["chr2", "chrM", "chr2"])
    assert split.train == (Region("chr1", 0, 100),)
    assert split.valid == (Region("chr2", 0, 200), Region("chrM", 0, 50))
    with pytest.raises(InputError, match=r"`2` is not in genome\.fa; did you mean `chr2`"):
        hold_out([store], [list(store.lengths)], ["2"])
    with pytest.raises(UsageError, match="nothing to train on"):
        hold_out([store], [["chr1", "chr2"]], ["chr1", "chr2"])


def test_hold_out_from_each_genome_that_has_the_contig(genome: Genome) -> None:
    stores = [genome(a=100, b=100), genome("other.fa", b=70, c=80), genome("third.fa", d=10)]
    one, other, third = hold_out(stores, [list(store.lengths) for store in stores], ["b"])
    assert one == Split((Region("a", 0, 100),), (Region("b", 0, 100),))
    assert other == Split((Region("c", 0, 80),), (Region("b", 0, 70),))
    assert third == Split((Region("d", 0, 10),), ())


def test_a_bed_file_survives_writing_and_reading(genome: Genome, tmp_path: Path) -> None:
    stores = [genome(a=100, b=50), genome("other.fa", a=60)]
    splits = [
        Split((Region("a", 0, 40),), (Region("a", 40, 100),), (Region("b", 0, 50),)),
        Split((Region("a", 30, 60),), (Region("a", 0, 30),)),
    ]
    path = tmp_path / "split.bed"
    path.write_text(format_splits(splits, [store.source.name for store in stores]))
    assert read_splits(path, stores) == splits
    assert path.read_text().splitlines()[0] == "a\t0\t40\ttrain\tgenome.fa"
    assert format_splits(splits[1:], ["other.fa"]) == "a\t0\t30\tvalid\na\t30\t60\ttrain\n"


def test_folds_as_others_write_them(genome: Genome, tmp_path: Path) -> None:
    store = genome(chr1=1000)
    path = tmp_path / "sequences_human.bed"
    path.write_text(
        "# Basenji\nchr1\t0\t100\ttrain\nchr1\t50\t200\ttrain\nchr1\t200\t300\tvalid\n"
        "chr1\t300\t400\tVal\nchr1\t400\t500\ttest\n"
    )
    assert read_splits(path, [store]) == [
        Split((Region("chr1", 0, 200),), (Region("chr1", 200, 400),), (Region("chr1", 400, 500),))
    ]


BAD_BEDS = {
    "overlapping sides": (
        "c\t0\t60\ttrain\nc\t70\t90\ttrain\nc\t59\t65\tvalid\n",
        r"s\.bed: line 1 \(train\) and line 3 \(valid\) overlap at c:60",
    ),
    "overlap under a long interval": (
        "c\t80\t90\ttest\nc\t0\t85\tvalid\nc\t10\t20\tvalid\n",
        r"line 1 \(test\) and line 2 \(valid\) overlap at c:81",
    ),
    "unknown fold": ("c\t0\t10\tfold3\n", r"line 1 of .*s\.bed: fold 'fold3': write train"),
    "no fold": ("c\t0\t10\n", "no fourth column: write train, valid or test"),
    "unknown contig": (
        "chrc\t0\t10\ttrain\n",
        r"s\.bed: not in .*`chrc` \(1 line; did you mean `c`\?\)",
    ),
    "beyond the end": ("c\t0\t101\ttrain\n", r"s\.bed: .*line 1 \(to 101, and c has 100 bases\)"),
}


@pytest.mark.parametrize("case", BAD_BEDS)
def test_a_bad_bed_is_told_by_line(genome: Genome, tmp_path: Path, case: str) -> None:
    text, message = BAD_BEDS[case]
    path = tmp_path / "s.bed"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_splits(path, [genome(c=100)])


def test_an_interval_beyond_one_of_two_genomes(genome: Genome, tmp_path: Path) -> None:
    path = tmp_path / "s.bed"
    stores = [genome(c=100), genome("short.fa", c=50)]
    path.write_text("c\t0\t80\ttrain\n")
    with pytest.raises(InputError, match=r"lies behind c of short\.fa"):
        read_splits(path, stores)
    path.write_text("c\t0\t80\ttrain\tgenome.fa\n")
    assert read_splits(path, stores) == [Split((Region("c", 0, 80),), ()), Split((), ())]


def test_gaps_are_cut_where_they_are_as_long_as_a_window(genome: Genome) -> None:
    store = genome(a="A" * 10 + "N" * 5 + "C" * 10 + "N" * 4 + "G" * 10)
    assert cut_gaps(store, [Region("a", 2, 39)], 5) == [Region("a", 2, 10), Region("a", 15, 39)]
    assert cut_gaps(store, [Region("a", 12, 39)], 5) == [Region("a", 15, 39)]


@pytest.mark.real
def test_the_real_part_of_chromosome_17_is_what_is_split(shared_data: Path) -> None:
    store = open_store(shared_data / "hg38_chr17_to_43.6M.fa.gz")
    split, _ = automatic_split(store, ["chr17"], 1024)
    require_sound(split, store, 1024)
    assert min(region.start for region in split.train + split.valid) == 42_424_999
    assert bases(split.valid) == pytest.approx(117_500, rel=0.05)
