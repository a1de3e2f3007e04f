import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dnamamba.alphabet import N
from dnamamba.data.region import Region, intersect
from dnamamba.data.tracks import LabelledWindow, Track, Tracks, describe, locus_text
from dnamamba.errors import InputError, UsageError
from dnamamba.pipelines.classify_data import choose_sides, open_sheet

Write = Callable[..., Path]


def bases(seed: int, length: int) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=length))


def sheet(folder: Path, rows: Sequence[Sequence[str]], header: str = "species\tfasta") -> Path:
    path = folder / "sheet.tsv"
    path.write_text("\n".join([header, *("\t".join(row) for row in rows)]) + "\n")
    return path


def loci(tracks: Sequence[Track]) -> list[Region]:
    return [locus for track in tracks for locus in track.loci(0, track.length)]


def sizes(species: Tracks) -> list[int]:
    return [sum(track.length for track in tracks) for tracks in species]


@pytest.fixture
def tagged(write_fasta: Write, tmp_path: Path) -> Path:
    """Two species of ten homologous records; the second one's are in another order."""
    for number, (name, order) in enumerate((("a", range(10)), ("b", reversed(range(10))))):
        records = {
            f"{name}{i} own:{i}-{i} ref:{1000 * i + 1}-{1000 * i + 900}": bases(
                100 * number + i, 900
            )
            for i in order
        }
        write_fasta(tmp_path / f"{name}.fa", records)
    return sheet(tmp_path, [["ape", "a.fa"], ["bear", "b.fa"]])


@pytest.mark.parametrize("fold", range(1, 6))
def test_homologous_records_go_to_one_side_together(tagged: Path, fold: int) -> None:
    sides = choose_sides(open_sheet(tagged), folds=5, fold=fold)
    assert sides.species == ("ape", "bear")
    assert sides.how == f"fold {fold} of 5, by locus"
    assert (sizes(sides.train), sizes(sides.valid), sizes(sides.test)) == (
        [5400, 5400],
        [1800, 1800],
        [1800, 1800],
    )
    for side in (sides.train, sides.valid, sides.test):
        assert loci(side[0]) == loci(side[1])
    train, valid, test = (loci(side[0]) for side in (sides.train, sides.valid, sides.test))
    assert not intersect(train, valid) + intersect(train, test) + intersect(valid, test)
    assert sides.longest() == (1800, "ape on the test side")


def test_every_locus_is_tested_once(tagged: Path) -> None:
    genomes = open_sheet(tagged)
    found = [
        locus
        for fold in range(1, 6)
        for locus in loci(choose_sides(genomes, folds=5, fold=fold).test[0])
    ]
    assert sorted(found) == [Region("ref", 1000 * i, 1000 * i + 900) for i in range(10)]


def test_a_bed_of_shared_coordinates(tagged: Path, tmp_path: Path) -> None:
    bed = tmp_path / "sides.bed"
    bed.write_text("ref\t0\t6000\ttrain\nref\t7000\t9900\ttest\n")
    sides = choose_sides(open_sheet(tagged), folds=5, fold=1, split=bed)
    assert sizes(sides.test) == [2700, 2700]
    assert sizes(sides.valid) == [900, 900], "a fifth of train, because the BED has none"
    assert sizes(sides.train) == [4500, 4500]
    assert sides.how == "by the regions of sides.bed"


def test_n_are_cut_out(write_fasta: Write, tmp_path: Path) -> None:
    for name in "ab":
        whole = bases(ord(name), 5000)
        write_fasta(tmp_path / f"{name}.fa", {"c": whole[:1000] + "N" * 500 + whole[1000:]})
    path = sheet(tmp_path, [["ape", "a.fa"], ["bear", "b.fa"]])
    sides = choose_sides(open_sheet(path), folds=5, fold=2)
    for side in (sides.train, sides.valid, sides.test):
        for tracks in side:
            assert all((track.codes(0, track.length) < N).all() for track in tracks)
    assert sum(sizes(sides.train) + sizes(sides.valid) + sizes(sides.test)) == 10_000


def test_the_order_of_bases_stands_in_with_a_warning(
    write_fasta: Write, tmp_path: Path, messages: list[str]
) -> None:
    for name, length in (("a", 5000), ("b", 7000)):
        sequence = bases(ord(name), length)
        write_fasta(tmp_path / f"{name}.fa", {"one": sequence[:2000], "two": sequence[2000:]})
    path = sheet(tmp_path, [["ape", "a.fa"], ["bear", "b.fa"]])
    sides = choose_sides(open_sheet(path), folds=5, fold=1)
    assert "which regions of the species are homologous is not known" in " ".join(messages)
    assert sides.how == "fold 1 of 5, by the order of bases"
    assert sizes(sides.test) == [1000, 1400]
    for tracks in (*sides.train, *sides.valid, *sides.test):
        for track in tracks:
            contigs = {region.contig for region in track.regions(0, track.length)}
            assert len(contigs) == 1, "windows do not run from contig to contig"


def test_a_shuffled_genome_is_found_by_its_kmers(
    write_fasta: Write, tmp_path: Path, messages: list[str]
) -> None:
    """The second species has the first one's sequence, nearly, in another order."""
    rng = random.Random(1)
    whole = bases(0, 40_960)
    close = "".join(rng.choice("ACGT") if rng.random() < 0.02 else base for base in whole)
    write_fasta(tmp_path / "a.fa", {"c": whole})
    write_fasta(tmp_path / "b.fa", {"c": close[20_480:] + close[:20_480]})
    path = sheet(tmp_path, [["ape", "a.fa"], ["bear", "b.fa"]])
    sides = choose_sides(open_sheet(path), folds=5, fold=1)
    assert "of the training bases left out" in messages[-1]
    assert 0.3 < sides.removed < 0.7
    test = loci(sides.test[0])[0]
    for tracks, shift in ((sides.train[0], 0), (sides.train[1], 20_480)):
        for track in tracks:
            for region in track.regions(0, track.length):
                start = (region.start + shift) % 40_960
                inside = test.start <= start * 10**9 // 40_960 < test.end
                assert not inside, "what is tested is not trained on"


def test_a_column_of_the_sheet(write_fasta: Write, tmp_path: Path) -> None:
    rows = []
    for number, (name, side) in enumerate(
        (name, side) for name in ("ape", "bear") for side in ("train", "test")
    ):
        write_fasta(tmp_path / f"{number}.fa", {"c": bases(number, 5000)})
        rows.append([name, f"{number}.fa", side])
    genomes = open_sheet(sheet(tmp_path, rows, "species\tfasta\tsplit"))
    sides = choose_sides(genomes, folds=5, fold=1)
    assert sides.how == "by the sheet's column split"
    assert sizes(sides.test) == [5000, 5000]
    assert sizes(sides.valid) == [1000, 1000]
    assert sizes(sides.train) == [4000, 4000]


def test_a_column_that_parts_homologous_records_is_refused(
    write_fasta: Write, tmp_path: Path
) -> None:
    placed = [("ape", "train", 1), ("ape", "test", 2001)]
    placed += [("bear", "train", 1), ("bear", "test", 500)]
    rows = []
    for number, (name, side, start) in enumerate(placed):
        records = {f"c x:{start}-{start + 999}": bases(number, 1000)}
        write_fasta(tmp_path / f"{number}.fa", records)
        rows.append([name, f"{number}.fa", side])
    genomes = open_sheet(sheet(tmp_path, rows, "species\tfasta\tsplit"))
    with pytest.raises(InputError, match="puts x:500-1000 on both sides, train and test"):
        choose_sides(genomes, folds=3, fold=1)


def test_a_table_of_synteny(write_fasta: Write, tmp_path: Path) -> None:
    for name in "ab":
        write_fasta(tmp_path / f"{name}.fa", {"c": bases(ord(name), 6000)})
    path = sheet(tmp_path, [["ape", "a.fa"], ["bear", "b.fa"]])
    table = tmp_path / "synteny.tsv"
    lines = ["species\tcontig\tstart\tend\tlocus"]
    lines += [f"ape\tc\t{i}\t{i + 1000}\tr:{i + 1}-{i + 1000}" for i in range(0, 6000, 1000)]
    lines += [
        f"bear\tc\t{5000 - i}\t{6000 - i}\tr:{i + 1}-{i + 1000}(-)" for i in range(0, 6000, 1000)
    ]
    table.write_text("\n".join(lines) + "\n")
    sides = choose_sides(open_sheet(path), folds=3, fold=1, synteny=table)
    (ape,), (bear,) = sides.test
    assert ape.regions(0, 2000) == [Region("c", 0, 1000), Region("c", 1000, 2000)]
    assert bear.regions(0, 2000) == [Region("c", 5000, 6000, "-"), Region("c", 4000, 5000, "-")]


def test_what_is_refused(write_fasta: Write, tmp_path: Path, tagged: Path) -> None:
    genomes = open_sheet(tagged)
    with pytest.raises(UsageError, match="give 3 folds or more, and one of them"):
        choose_sides(genomes, folds=5, fold=6)
    with pytest.raises(InputError, match=r"10 stretches .* cannot make 11 folds"):
        choose_sides(genomes, folds=11, fold=1)
    write_fasta(tmp_path / "n.fa", {"c": "N" * 500})
    path = sheet(tmp_path, [["ape", "a.fa"], ["bear", "n.fa"]])
    with pytest.raises(InputError, match=r"sheet.tsv:3: bear has no sequence: n.fa holds nothing"):
        open_sheet(path)
    rows = [["ape", "a.fa", "a0"], ["bear", "b.fa", "chr9"]]
    path = sheet(tmp_path, rows, "species\tfasta\tregion")
    with pytest.raises(InputError, match=r"sheet.tsv:3: `chr9` is not in b.fa"):
        open_sheet(path)
    write_fasta(tmp_path / "plain.fa", {"c": bases(1, 3000)})
    path = sheet(tmp_path, [["ape", "a.fa"], ["bear", "plain.fa"]])
    with pytest.raises(UsageError, match="--split: the genomes share no coordinates"):
        choose_sides(open_sheet(path), folds=3, fold=1, split=tmp_path / "any.bed")


def test_a_copy_under_another_name_is_refused(write_fasta: Write, tmp_path: Path) -> None:
    write_fasta(tmp_path / "a.fa", {"chr1": bases(1, 3000)})
    write_fasta(tmp_path / "copy.fa", {"other": bases(1, 3000).lower()})
    write_fasta(tmp_path / "c.fa", {"chr1": bases(2, 3000)})
    path = sheet(tmp_path, [["ape", "a.fa"], ["cow", "c.fa"], ["bear", "copy.fa"]])
    message = r"sheet.tsv:4: copy.fa holds the same bases for bear as a.fa for ape in line 2"
    with pytest.raises(InputError, match=message):
        open_sheet(path)


@pytest.mark.parametrize("text", ["", ">nothing\n", ">x\nMKLV!\n"])
def test_a_faulty_genome_is_named_with_its_species_and_line(
    text: str, write_fasta: Write, tmp_path: Path
) -> None:
    write_fasta(tmp_path / "a.fa", {"chr1": bases(1, 3000)})
    (tmp_path / "b.fa").write_text(text)
    with pytest.raises(InputError, match=r"sheet.tsv:3: bear: .*b.fa"):
        open_sheet(sheet(tmp_path, [["ape", "a.fa"], ["bear", "b.fa"]]))


def test_places_are_told_as_a_reader_knows_them(write_fasta: Write, tmp_path: Path) -> None:
    """Where nothing but the order of bases is known, pieces of a contig are one region again."""
    for number, name in enumerate("ab"):
        write_fasta(tmp_path / f"{name}.fa", {"chr1": bases(number, 20_000)})
    genomes = open_sheet(sheet(tmp_path, [["ape", "a.fa"], ["bear", "b.fa"]]))
    test = choose_sides(genomes, folds=5, fold=1).test
    window = LabelledWindow(1, 0, 0, 1000)
    assert describe(test, window) == "b.fa chr1:1-1000"
    assert locus_text(test, window) == "from 0 to 5 % of the genome"
