from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnamamba.data.annotation import BedRecord, BedTable, TableBuilder
from dnamamba.data.region import Region
from dnamamba.errors import InputError

LENGTHS = {"chr1": 100, "chr2": 50, "chrM": 20}


def build(columns: dict[str, Sequence[str]], name: str = "name", score: str = "score") -> BedTable:
    builder = TableBuilder(Path("x.bed"), None, "")
    for number, cells in enumerate(zip(*columns.values(), strict=True), start=1):
        builder.add(number, "chr1", number, number + 5, "-", cells)
    return builder.table(list(columns), name, score)


def test_a_row_is_a_record() -> None:
    table = build({"name": ["a", "b"], "score": ["1", "2"], "strand": "--", "p": ["x", "y"]})
    assert len(table) == 2
    assert table[1] == BedRecord(Region("chr1", 2, 7, "-"), "b", "2", ("y",), 2)
    assert [record.name for record in table] == table.names == ["a", "b"]


def test_no_rows_and_no_names() -> None:
    empty = build({"name": [], "x": []})
    assert list(empty) == []
    assert empty.starts.dtype == np.int64
    assert {label: values.shape for label, values in empty.typed_columns().items()} == {"x": (0,)}
    assert build({"x": ["1"]})[0] == BedRecord(Region("chr1", 1, 6, "-"), "", "", ("1",), 1)


COLUMNS = {
    "whole": (["0", "-7", "12345678901"], np.int64, [0, -7, 12345678901]),
    "decimal": (
        ["1", "-.5", "+2.", "1e-300", "3E4", "-Inf"],
        float,
        [1, -0.5, 2, 1e-300, 3e4, -np.inf],
    ),
    "with gaps": (["1", ".", "", "NA", "nan"], float, [1] + [np.nan] * 4),
    "nothing but gaps": ([".", ""], object, [".", ""]),
    "leading zeros": (["007", "8"], object, ["007", "8"]),
    "too long": (["1" * 20], float, [float("1" * 20)]),
    "a word": (["1", "x"], object, ["1", "x"]),
    "as Python writes numbers": (["1_000"], object, ["1_000"]),
    "digits of other scripts": (["\u0661"], object, ["\u0661"]),
    "gene_id": (["1", "2"], object, ["1", "2"]),
    "geneID": (["1", "2"], object, ["1", "2"]),
    "id": (["1", "2"], object, ["1", "2"]),
    "geneName": (["1", "2"], object, ["1", "2"]),
    "item_rgb": (["0", "0"], object, ["0", "0"]),
    "lipid": (["1", "2"], np.int64, [1, 2]),
}


@pytest.mark.parametrize("label", COLUMNS)
def test_columns_are_numbers_where_each_cell_is_one(label: str) -> None:
    cells, dtype, wanted = COLUMNS[label]
    table = build({"name": cells, "strand": cells, label: cells})
    ((found, values),) = table.typed_columns().items()
    assert found == label
    assert values.dtype == dtype
    np.testing.assert_array_equal(values, np.array(wanted, dtype=dtype))


@given(st.lists(st.integers(-(10**17), 10**17)))
def test_whole_numbers_survive(numbers: list[int]) -> None:
    assert (
        build({"x": [str(number) for number in numbers]}).typed_columns()["x"].tolist() == numbers
    )


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_decimal_numbers_survive(numbers: list[float]) -> None:
    values = build({"x": [repr(number) for number in numbers]}).typed_columns()["x"]
    assert values.dtype == np.float64
    assert values.tolist() == numbers


def fail(places: list[tuple[str, int]], lengths: dict[str, int] = LENGTHS) -> str:
    builder = TableBuilder(Path("x.bed"), lengths, "x.fa")
    for number, (contig, end) in enumerate(places, start=1):
        builder.add(number, contig, 0, end, "+", ())
    with pytest.raises(InputError) as caught:
        builder.table((), "")
    return str(caught.value)


def test_all_unknown_contigs_are_named_once() -> None:
    places = [("1", 9), ("MT", 9), ("1", 9), ("CHR2", 9), ("scaffold", 9)]
    assert fail(places * 1000) == (
        "x.bed: not in x.fa: `1` (2,000 lines; did you mean `chr1`?), `MT` (1,000 lines; did you "
        "mean `chrM`?), `CHR2` (1,000 lines; did you mean `chr2`?), `scaffold` (1,000 lines)"
    )


def test_other_contigs_of_the_same_assembly_are_no_misspellings() -> None:
    assert fail([("chr20", 9), ("chr2", 9), ("chr21", 9)], {"chr20": 9, "chr22": 9}) == (
        "x.bed: not in x.fa: `chr2` (1 line), `chr21` (1 line); it holds `chr20`, `chr22`; "
        "grep -w ^chr20 keeps the lines of chr20"
    )
    assert fail([("chr1", 9), ("MT", 9)]) == (
        "x.bed: not in x.fa: `MT` (1 line; did you mean `chrM`?)"
    )


def test_names_unlike_any() -> None:
    assert fail([("scaffold", 9)]) == (
        "x.bed: not in x.fa: `scaffold` (1 line); it holds `chr1`, `chr2`, `chrM`"
    )


def test_regions_off_the_end_are_counted_and_the_first_named() -> None:
    assert fail([("chr2", 50), *[("chr2", 1051)] * 1000, ("3", 1)]) == (
        "x.bed: behind a contig's end in x.fa (another assembly's, or to be cut): "
        + ", ".join(f"line {number} (to 1,051, and chr2 has 50 bases)" for number in range(2, 7))
        + " and 995 more; not in x.fa: `3` (1 line); it holds `chr1`, `chr2`, `chrM`; "
        "grep -w ^chr2 keeps the lines of chr2"
    )


def test_thousands_of_unknown_contigs_take_no_time() -> None:
    lengths = {f"scaffold_{number:05}": 9 for number in range(5000)}
    assert fail([(f"contig{number}", 1) for number in range(5000)], lengths).count("contig") == 5000
