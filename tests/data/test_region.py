import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnamamba.data.region import (
    Region,
    intersect,
    merge,
    parse_region,
    require_contig,
    subtract,
)
from dnamamba.errors import InputError, UsageError

LENGTHS = {"chr1": 5_000, "chr2": 300, "chrM": 16_569, "HLA-A*01:01:01:01": 100, "a:1-20": 90}


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("chr1", Region("chr1", 0, 5_000)),
        ("chr1:1,000-2,000", Region("chr1", 999, 2_000)),
        ("chr1:1000-2000(-)", Region("chr1", 999, 2_000, "-")),
        ("chr2(-)", Region("chr2", 0, 300, "-")),
        ("chr1:17", Region("chr1", 16, 5_000)),
        ("chr1:17-", Region("chr1", 16, 5_000)),
        ("chr1:-17", Region("chr1", 0, 17)),
        ("chr1:5,000-5,000", Region("chr1", 4_999, 5_000)),
        ("HLA-A*01:01:01:01", Region("HLA-A*01:01:01:01", 0, 100)),
        ("HLA-A*01:01:01:01:5-8", Region("HLA-A*01:01:01:01", 4, 8)),
        ("a:1-20", Region("a:1-20", 0, 90)),
        ("a:1-20:1-20", Region("a:1-20", 0, 20)),
    ],
)
def test_samtools_text(text: str, region: Region) -> None:
    assert parse_region(text, LENGTHS, "x.fa") == region


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1", "`1` is not in x.fa; did you mean `chr1`?"),
        ("CHR1:1-5", "`CHR1` is not in x.fa; did you mean `chr1`?"),
        ("MT", "did you mean `chrM`?"),
        ("chr11", "did you mean `chr1`?"),
        ("scaffold_99", "it holds `chr1`, `chr2`"),
        ("chr1:0-5", "chr1 of x.fa is 1-5,000"),
        ("chr1:1-5,001", "chr1 of x.fa is 1-5,000"),
        ("chr1:5001", "chr1 of x.fa is 1-5,000"),
        ("chr1:20-10", "start lies behind the end"),
        ("chr1:1000..2000", "'1000..2000' is not a range"),
        ("chr1:1-2-3", "'1-2-3' is not a range"),
        ("chr1:-", "'-' is not a range"),
        ("chr1:", "'' is not a range"),
        ("chr1:1e3-2e3", "is not a range"),
        ("chr1:\u0661-\u0662", "is not a range"),
        ("", "`` is not in x.fa"),
    ],
)
def test_what_is_no_region(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_region(text, LENGTHS, "x.fa")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_chr_prefix_is_suggested_both_ways() -> None:
    with pytest.raises(InputError, match="did you mean `20`"):
        require_contig("chr20", {"20": 5, "21": 5}, "x.fa")
    with pytest.raises(InputError, match="did you mean `MT`"):
        require_contig("chrM", {"20": 5, "MT": 5}, "x.fa")
    assert require_contig("20", {"20": 5}, "x.fa") == "20"


@pytest.mark.parametrize(("start", "end", "strand"), [(-1, 4, "+"), (5, 4, "+"), (0, 4, ".")])
def test_a_region_that_cannot_be(start: int, end: int, strand: str) -> None:
    with pytest.raises(UsageError, match="chr1"):
        Region("chr1", start, end, strand)


regions = st.builds(
    lambda contig, start, length, strand: Region(contig, start, start + length, strand),
    st.sampled_from(["chr1", "chr2"]),
    st.integers(0, 40),
    st.integers(0, 12),
    st.sampled_from("+-"),
)
sets = st.lists(regions, max_size=8)


def bases(items: list[Region]) -> set[tuple[str, int]]:
    return {(item.contig, at) for item in items for at in range(item.start, item.end)}


@given(regions)
def test_text_and_back(region: Region) -> None:
    if len(region):
        assert parse_region(str(region), {"chr1": 60, "chr2": 60}, "x.fa") == region


@given(sets, sets)
def test_sets_of_regions_are_sets_of_bases(a: list[Region], b: list[Region]) -> None:
    assert bases(merge(a)) == bases(a)
    assert bases(intersect(a, b)) == bases(a) & bases(b)
    assert bases(subtract(a, b)) == bases(a) - bases(b)
    for result in (merge(a), intersect(a, b), subtract(a, b)):
        assert result == merge(result), "sorted, disjoint, none empty, none touching"


def test_touching_regions_are_joined() -> None:
    assert merge([Region("chr1", 5, 9), Region("chr1", 0, 5)]) == [Region("chr1", 0, 9)]
