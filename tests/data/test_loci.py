from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from dnamamba.data.loci import (
    ORDER,
    SCALE,
    Piece,
    cut_folds,
    in_regions,
    pieces_by_order,
    read_synteny,
    tagged_pieces,
    without_n,
)
from dnamamba.data.region import Region
from dnamamba.data.store import Store, open_store
from dnamamba.errors import InputError

Write = Callable[[Path, Mapping[str, str]], Path]


def genome(write_fasta: Write, path: Path, records: Mapping[str, str]) -> Store:
    return open_store(write_fasta(path, records))


def whole(store: Store) -> list[Region]:
    return [Region(contig, 0, length) for contig, length in store.lengths.items()]


def test_the_reference_that_all_records_carry_is_found(write_fasta: Write, tmp_path: Path) -> None:
    human = genome(
        write_fasta,
        tmp_path / "human.fa",
        {"h2 Hs.1:501-504 ref1:101-104 split=train": "ACGT", "h1 Hs.1:1-3 ref1:11-13": "ACG"},
    )
    chimp = genome(
        write_fasta,
        tmp_path / "chimp.fa",
        {"c1 Pt.1:1-3 ref1:11-13": "ACC", "c2 Pt.1:7-10 ref2:1-4": "ACGA"},
    )
    stores = [human, chimp]
    assert tagged_pieces(stores, [whole(store) for store in stores]) == [
        [
            Piece(Region("h1", 0, 3), Region("ref1", 10, 13)),
            Piece(Region("h2", 0, 4), Region("ref1", 100, 104)),
        ],
        [
            Piece(Region("c1", 0, 3), Region("ref1", 10, 13)),
            Piece(Region("c2", 0, 4), Region("ref2", 0, 4)),
        ],
    ]
    with pytest.raises(InputError, match="h1:1-2 is a part of a record that carries ref1:11-13"):
        tagged_pieces(stores, [[Region("h1", 0, 2)], whole(chimp)])


def test_without_common_tags_nothing_is_known(write_fasta: Write, tmp_path: Path) -> None:
    for name, records in (
        ("none", {"a": "ACGT", "b": "ACGT"}),
        ("own", {"a Hs.1:1-4": "ACGT", "b Hs.1:5-8": "ACGT"}),
    ):
        one = genome(write_fasta, tmp_path / f"{name}1.fa", records)
        other = genome(write_fasta, tmp_path / f"{name}2.fa", {"c Pt.1:1-4": "ACGT"})
        assert tagged_pieces([one, other], [whole(one), whole(other)]) is None


@pytest.mark.real
def test_the_apes_share_coordinates_of_hg19(shared_data: Path, tmp_path: Path) -> None:
    stores = []
    for name in ("human", "chimpanzee", "gorilla", "orangutan"):
        link = tmp_path / f"{name}.fa.gz"
        link.symlink_to(shared_data / f"ape_chr22_{name}.fa.gz")
        stores.append(open_store(link))
    pieces = tagged_pieces(stores, [whole(store) for store in stores])
    assert pieces is not None
    assert [len(found) for found in pieces] == [6086] * 4
    assert {piece.locus.contig for found in pieces for piece in found} == {"hg19_chr22"}
    folds = cut_folds(pieces, 5)
    assert [len(fold) for fold in folds] == [1] * 5
    for found in pieces:
        parts = [in_regions(found, fold) for fold in folds]
        assert sum(map(len, parts)) == 6086
        sizes = [sum(len(piece.region) for piece in part) for part in parts]
        assert max(sizes) < 1.02 * min(sizes)


def test_synteny(write_fasta: Write, tmp_path: Path) -> None:
    one = genome(write_fasta, tmp_path / "one.fa", {"a": "ACGTACGT"})
    two = genome(write_fasta, tmp_path / "two.fa", {"b": "ACGTACGT"})
    table = tmp_path / "synteny.tsv"
    header = "species\tcontig\tstart\tend\tlocus\n"
    table.write_text(f"{header}x\ta\t4\t8\tr:101-104\nx\tb\t0\t4\tr:11-14(-)\ny\tb\t4\t8\tr:1-4\n")
    assert read_synteny(table, {"x": [one, two], "y": [two]}) == {
        "x": [
            (1, Piece(Region("b", 0, 4, "-"), Region("r", 10, 14))),
            (0, Piece(Region("a", 4, 8), Region("r", 100, 104))),
        ],
        "y": [(0, Piece(Region("b", 4, 8), Region("r", 0, 4)))],
    }
    for line, message in (
        ("z\ta\t0\t4\tr:1-4", ":2: species 'z' is not one of x"),
        ("x\tc\t0\t4\tr:1-4", ":2: `c` is not in one.fa"),
        ("x\ta\t4\t4\tr:1-4", ":2: start before end"),
        ("x\ta\t0\t4\tr", "a locus NAME:START-END"),
        ("x\ta\t0\t9\tr:1-9", "a of one.fa ends at 8"),
    ):
        table.write_text(f"{header}{line}\n")
        with pytest.raises(InputError, match=message):
            read_synteny(table, {"x": [one]})
    table.write_text("species\tcontig\n")
    with pytest.raises(InputError, match="no column `start`"):
        read_synteny(table, {"x": [one]})


def test_pieces_by_order_cover_everything_once() -> None:
    regions = [Region("a", 10, 70), Region("b", 0, 40, "-")]
    pieces = pieces_by_order(regions, 4)
    assert [str(piece.region) for piece in pieces] == [
        "a:11-35",
        "a:36-60",
        "a:61-70",
        "b:1-15(-)",
        "b:16-40(-)",
    ]
    assert {piece.locus.contig for piece in pieces} == {ORDER}
    ends = [piece.locus.end for piece in pieces]
    assert [piece.locus.start for piece in pieces] == [0, *ends[:-1]]
    assert ends[-1] == SCALE


def piece(start: int, end: int, contig: str = "r") -> Piece:
    return Piece(Region("x", 0, end - start), Region(contig, start, end))


def test_folds_are_contiguous_and_cut_no_locus_of_any_genome() -> None:
    one = [piece(0, 10), piece(20, 30), piece(40, 50), piece(60, 70)]
    other = [piece(5, 25), piece(40, 50), piece(0, 10, "s")]
    assert cut_folds([one, other], 3) == [
        [Region("r", 0, 30)],
        [Region("r", 40, 50)],
        [Region("r", 60, 70), Region("s", 0, 10)],
    ]
    assert in_regions(one, [Region("r", 40, 70)]) == one[2:]
    assert in_regions(other, [Region("s", 0, 5)]) == other[2:]


def test_no_fold_is_empty() -> None:
    large = [piece(0, 1000), piece(1000, 1001), piece(1001, 1002), piece(1002, 1003)]
    assert cut_folds([large], 4) == [[one.locus] for one in large]
    small_first = [piece(0, 1), piece(1, 2), piece(2, 3), piece(3, 1003)]
    assert all(cut_folds([small_first], 4))
    with pytest.raises(InputError, match="4 stretches of homologous sequence cannot make 5 folds"):
        cut_folds([large], 5)


def test_n_are_cut_out(write_fasta: Write, tmp_path: Path) -> None:
    store = genome(write_fasta, tmp_path / "x.fa", {"a": "NNACGNNNTTN", "b": "NN", "c": "ACGT"})
    locus = Region("r", 100, 122)
    for strand, wanted in (
        ("+", ["a:3-5 r:105-110", "a:9-10 r:117-120"]),
        ("-", ["a:9-10(-) r:103-106", "a:3-5(-) r:113-118"]),
    ):
        pieces = [Piece(Region("a", 0, 11, strand), locus), Piece(Region("b", 0, 2), locus)]
        found = without_n(store, pieces)
        assert [f"{piece.region} {piece.locus}" for piece in found] == wanted
    inside = Piece(Region("a", 3, 9), Region("r", 3, 9))
    assert [str(piece.region) for piece in without_n(store, [inside])] == ["a:4-5", "a:9-9"]
    whole_piece = Piece(Region("c", 0, 4), locus)
    assert without_n(store, [whole_piece]) == [whole_piece]
