import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnamamba.data.region import parse_region
from dnamamba.errors import UsageError
from dnamamba.inference.embeddings.table import Categorical, Table, make_table, slices
from tests.inference.embeddings.samples import table


def named(*names: str) -> list[str]:
    return make_table({}, {}, ["0"], names).names.tolist()


def column(name: str, texts: list[str]) -> object:
    rows = [str(index) for index in range(len(texts))]
    return make_table({name: np.array(texts, dtype=object)}, {}, ["0"], rows).obs[name]


def test_rows_are_named_as_samtools_does() -> None:
    names = make_table(table(4), {}, ["0"]).names.tolist()
    assert names == ["chr1:1-50", "chr10:101-150(-)", "chr2:201-250", "chr1:301-350"]
    region = parse_region(names[1], {"chr10": 1000}, "g.fa")
    assert (region.start, region.end, region.strand) == (100, 150, "-")


def test_names_that_come_again() -> None:
    assert named("a", "b", "a", "a") == ["a", "b", "a-1", "a-2"]
    assert named("a", "a", "a-1", "a-1") == ["a", "a-2", "a-1", "a-1-1"]


@given(st.lists(st.sampled_from(["a", "b", "a-1", "a-1-1", "b-2"])))
def test_names_are_unique_and_the_first_keeps_its_own(names: list[str]) -> None:
    told = named(*names)
    assert len(set(told)) == len(names)
    assert all(new.startswith(name) for name, new in zip(names, told, strict=True))
    assert all(told[names.index(name)] == name for name in names)


def test_text_of_few_values_is_categorical() -> None:
    few = column("type", ["b", "b", "a", "a", "b"])
    assert isinstance(few, Categorical)
    assert few.categories.tolist() == ["a", "b"]
    assert few.codes.tolist() == [1, 1, 0, 0, 1]
    assert few[1:3].tolist() == ["b", "a"]
    assert not isinstance(column("type", ["b", "a", "a", "b"]), Categorical)
    for name in ("chrom", "strand"):
        assert isinstance(column(name, ["b", "a"]), Categorical)


def test_categories_are_sorted_as_people_do() -> None:
    texts = ["chr10", "chrX", "chr1", "chr2", "chr001", "chr01", "1", "", "chr²"]
    told = column("chrom", texts)
    assert isinstance(told, Categorical)
    wanted = ["", "1", "chr001", "chr01", "chr1", "chr2", "chr10", "chrX", "chr²"]
    assert told.categories.tolist() == wanted


@pytest.mark.parametrize(("count", "dtype"), [(128, "int8"), (129, "int16"), (40_000, "int32")])
def test_codes_are_as_small_as_they_can_be(count: int, dtype: str) -> None:
    told = column("chrom", [str(index) for index in range(count)])
    assert isinstance(told, Categorical)
    assert told.codes.dtype == dtype
    assert told[count - 1 : count].tolist() == [str(count - 1)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": ["0", "0"]}, "'0' names two columns"),
        ({"dims": ["gc"]}, "'gc' names two columns"),
        ({"names": ["a\0", "b"]}, "names: text without a zero byte"),
        ({"obs": {"gc": np.zeros(3)}}, r"column 'gc' has shape \(3,\) for 2 rows"),
        ({"obs": {"gc": np.zeros((2, 2))}}, "column 'gc' has shape"),
        ({"obs": {"gc": np.array([None, "a"])}}, "column 'gc': text"),
        ({"about": {"a": {"b/c": 1}}}, "about.a.b/c: 1 cannot be stored"),
        ({"about": {"a": ["b", 1]}}, "about.a: .* cannot be stored"),
        ({"about": {"a": np.zeros(2)}}, "about.a: .* cannot be stored"),
    ],
)
def test_what_cannot_be_stored(changes: dict[str, object], message: str) -> None:
    given = {"obs": {"gc": np.zeros(2)}, "about": {}, "dims": ["0"], "names": ["a", "b"]}
    with pytest.raises(UsageError, match=message):
        make_table(**{**given, **changes})  # type: ignore[arg-type]


def test_shape() -> None:
    told = make_table(table(4), {}, ["0", "1"])
    assert isinstance(told, Table)
    assert told.shape == (4, 2)


@given(st.integers(0, 50), st.integers(0, 20), st.integers(1, 100))
def test_slices_cover_all_rows(rows: int, row_bytes: int, size: int) -> None:
    parts = list(slices(rows, row_bytes, size))
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(rows))
    assert all(
        part.stop - part.start == 1 or (part.stop - part.start) * row_bytes <= size
        for part in parts
    )
