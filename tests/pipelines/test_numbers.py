import click
import pytest

from dnamamba.errors import UsageError
from dnamamba.pipelines.numbers import Count, Counts, Names, read_shape


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1024", 1024),
        ("1,024", 1024),
        ("131_072", 131_072),
        ("1k", 1000),
        ("2.5M", 2_500_000),
        ("1g", 10**9),
        ("16Ki", 16_384),
        ("1Mi", 2**20),
    ],
)
def test_counts_are_read_as_people_write_them(text: str, count: int) -> None:
    assert Count().convert(text, None, None) == count


def test_several_counts() -> None:
    assert Counts().convert("4096, 1Mi", None, None) == (4096, 2**20)
    with pytest.raises(click.BadParameter, match="'many'"):
        Counts().convert("1k,many", None, None)


@pytest.mark.parametrize("text", ["", "many", "0", "-3", "1.5", "1e6", "5i", "3T", "k"])
def test_what_is_no_count_is_refused_by_name(text: str) -> None:
    with pytest.raises(click.BadParameter, match=repr(text)):
        Count().convert(text, None, None)


def test_names_are_parted_by_commas() -> None:
    assert Names().convert("chr8, chr20", None, None) == ("chr8", "chr20")
    with pytest.raises(click.BadParameter):
        Names().convert(" ,", None, None)


def test_shapes() -> None:
    axes = "BATCHxLENGTHxCHANNELS"
    assert read_shape("8x16,384x256", axes, "") == (8, 16384, 256)
    assert read_shape("1x1Mix1k", axes, "") == (1, 2**20, 1000)
    assert read_shape("8x131,072", "BATCHxLENGTH", "") == (8, 131072)
    for wrong in ("", "8", "1x2", "1x2x3x4", "1x2x", "0x2x3", "1xax3", "1x2.5x3", "-1x2x3"):
        with pytest.raises(UsageError, match=r"BATCHxLENGTHxCHANNELS is wanted, such as 1x2x3"):
            read_shape(wrong, axes, "1x2x3")
