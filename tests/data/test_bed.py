import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnamamba.data.annotation import BedRecord, BedTable
from dnamamba.data.bed import read_bed
from dnamamba.data.region import Region
from dnamamba.errors import InputError

LENGTHS = {"chr1": 1000, "chr2": 50}
BED12 = "chr1\t5\t90\tx\t960\t-\t7\t80\t255,0,0\t2\t10,20,\t0,65,"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.bed"


def read(path: Path, text: str) -> BedTable:
    path.write_text(text)
    return read_bed(path, LENGTHS, "x.fa")


def test_lines_that_are_no_records(path: Path) -> None:
    path.write_bytes(
        b"track name=x\nbrowser position chr1\n# comment\n\n"
        b"chr2\t3\t50\tmy gene\t960\t-\tthick\t1\r\n"
        b"# comment\n"
        b"chr1 0 10 x . + a b\n"
        b"chr2\t7\t7\t.\t.\t.\t\t"
    )
    assert list(read_bed(path, LENGTHS, "x.fa")) == [
        BedRecord(Region("chr2", 3, 50, "-"), "my gene", "960", ("thick", "1"), 5),
        BedRecord(Region("chr1", 0, 10), "x", ".", ("a", "b"), 7),
        BedRecord(Region("chr2", 7, 7), ".", ".", ("", ""), 8),
    ]


@pytest.mark.parametrize("width", range(3, 13))
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_three_to_twelve_columns(path: Path, width: int, end: str) -> None:
    lines = ["\t".join(line.split("\t")[:width]) for line in (BED12, BED12.replace("5", "4"))]
    table = read(path, end.join(lines))
    labels = ["name", "score", "strand", "thick_start", "thick_end", "item_rgb"]
    blocks = ["block_count", "block_sizes", "block_starts"]
    labels += blocks if width == 12 else ["column_10", "column_11"]
    assert list(table.columns) == labels[: width - 3]
    assert [cells[0] for cells in table.columns.values()] == BED12.split("\t")[3:width]
    assert table[0].region == Region("chr1", 5, 90, "-" if width > 5 else "+")
    assert table.strands == ["-" if width > 5 else "."] * 2
    assert table.starts.tolist() == [5, 4]


def test_an_unsorted_file_keeps_its_order(path: Path) -> None:
    table = read(path, "chr2\t3\t5\nchr1\t7\t9\nchr2\t0\t9\nchr1\t1\t2\n")
    assert table.contigs == ["chr2", "chr1", "chr2", "chr1"]
    assert table.starts.tolist() == [3, 7, 0, 1]
    assert table.lines.tolist() == [1, 2, 3, 4]


def test_gzip_and_stdin(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = gzip.compress(b"chr1\t0\t10\n")
    path.write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    wanted = [BedRecord(Region("chr1", 0, 10), "", "", (), 1)]
    assert list(read_bed(path)) == list(read_bed(Path("-"))) == wanted


def test_no_lengths_no_check(path: Path) -> None:
    path.write_text("chrZ\t0\t10000\n")
    assert read_bed(path)[0].region == Region("chrZ", 0, 10_000)


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "#chrom\tstart\tend\tname\n"])
def test_no_regions(path: Path, text: str) -> None:
    assert len(read(path, text)) == 0


@pytest.mark.parametrize(
    "start",
    [
        "chrom\tchromStart\tchromEnd\t",
        "\n# made by hand\n#chrom\tstart\tend\t",
        "# chr  Start  Stop ",
        "track name=x\nContig txStart txEnd ",
    ],
)
def test_a_header_names_columns(path: Path, start: str) -> None:
    text = f"{start}log2FC\tstrand\tName\tthickStart\tP-value\n"
    text = text if "\t" in start else text.replace("\t", " ")
    table = read(path, text + "chr1\t0\t10\t1.5\t-\tx\t3\t0.1\nchr1\t0\t10\tNA\t+\ty\t.\t1\n")
    assert list(table.columns) == ["log2FC", "strand", "name", "thick_start", "p_value"]
    assert table.names == ["x", "y"]
    assert table.strands == ["-", "+"]
    assert table[0].region == Region("chr1", 0, 10, "-")
    assert list(table.typed_columns()) == ["log2FC", "thick_start", "p_value"]


def test_a_sixth_column_that_a_header_calls_something_else(path: Path) -> None:
    table = read(path, "chrom\tstart\tend\tgene\tFDR\tcluster\nchr1\t0\t10\tBRCA2\t0.1\tT cell\n")
    assert table.strands == ["."]
    assert table[0] == BedRecord(Region("chr1", 0, 10), "BRCA2", "0.1", ("T cell",), 2)


def test_names_are_not_what_a_header_calls_a_score(path: Path) -> None:
    table = read(path, "chrom\tstart\tend\tscore\n\nchr1\t0\t10\t7\n")
    assert (table.names, table.scores) == ([], ["7"])


def test_a_comment_with_other_columns_is_no_header(path: Path) -> None:
    table = read(path, "#chrom\tstart\tend\tvalue\nchr1\t0\t10\tx\t5\t-\n")
    assert list(table.columns) == ["name", "score", "strand"]


def test_unnamed_columns_are_counted(path: Path) -> None:
    table = read(path, "#chrom\tstart\tend\t\tx\nchr1\t0\t10\ta\tb\n")
    assert list(table.columns) == ["column_4", "x"]


def test_a_header_that_names_two_columns_alike(path: Path) -> None:
    for labels in ("x\tx", "start\tx", "thickStart\tthick_start"):
        with pytest.raises(InputError, match=r"x\.bed: header: two columns are called `"):
            read(path, f"chrom\tstart\tend\t{labels}\nchr1\t0\t10\ta\tb\n")


SIXTH = {
    "narrowPeak": (".narrowPeak", "8\t2.5\t-1\t17", "signal_value p_value q_value peak"),
    "broadPeak": (".broadPeak.gz", "8\t2.5\t-1", "signal_value p_value q_value"),
    "peaks of another name": (".bed", "8\t2.5\t-1\t17", "column_7 column_8 column_9 column_10"),
    "BED9 and more": (
        ".bed",
        "5\t90\t0\t17\t0.3\tx",
        "thick_start thick_end item_rgb column_10 column_11 column_12",
    ),
    "BED12 and more": (
        ".bed",
        BED12.split("\t", 6)[6] + "\tx\ty",
        "thick_start thick_end item_rgb block_count block_sizes block_starts column_13 column_14",
    ),
    "no colour": (".bed", "5\t90\tT cell", "column_7 column_8 column_9"),
    "not inside": (".bed", "5\t91", "column_7 column_8"),
    "no number": (".bed", "five\t9", "column_7 column_8"),
}


@pytest.mark.parametrize("case", SIXTH)
def test_columns_after_the_sixth(tmp_path: Path, case: str) -> None:
    suffix, cells, labels = SIXTH[case]
    table = read(tmp_path / f"x{suffix}", f"chr1\t5\t90\ta\t0\t.\t{cells}\n")
    assert list(table.columns) == ["name", "score", "strand", *labels.split()]


def test_values_of_a_bed_graph_are_no_names(tmp_path: Path) -> None:
    table = read(tmp_path / "x.bedGraph", "chr1\t0\t10\t0.5\n")
    assert table.names == []
    assert table.typed_columns()["value"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chr1\t5", "not BED: contig, start and end are wanted, parted by tabs: line 3"),
        ("chr1\t-5\t10", "no whole numbers from 0 on: line 3 ('-5' to '10')"),
        ("chr1\t1_0\t20", "no whole numbers from 0 on: line 3 ('1_0' to '20')"),
        ("chr1\tstart\tend", "no whole numbers from 0 on: line 3 ('start' to 'end')"),
        (f"chr1\t1\t{'9' * 5000}", "no whole numbers from 0 on: line 3"),
        ("chr1\t20\t10", "start lies behind end: line 3 (20 to 10)"),
        ("chr2\t0\t51", "behind a contig's end in x.fa (another assembly's, or to be cut): line 3"),
        ("2\t0\t50", "not in x.fa: `2` (1 line; did you mean `chr2`?)"),
        ("chr1\t0\t10\ta", "not 3 columns, as in lines before: line 3 (4 columns)"),
        ("chr1\t0\t10\t", "not 3 columns, as in lines before: line 3 (4 columns)"),
    ],
)
def test_faults_name_file_and_line(path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(path, f"# head\nchr1\t0\t1\n{line}\n")
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 150


def test_a_sixth_column_that_is_no_strand(path: Path) -> None:
    with pytest.raises(InputError, match=r"none of \+ - \. \(a header can say what column 6 is\)"):
        read(path, "chr1\t0\t10\ta\t0\tplus\n")
    with pytest.raises(InputError, match=r"none of \+ - \.: line 2 \('plus'\)"):
        read(path, "chrom\tstart\tend\tstrand\nchr1\t0\t10\tplus\n")


def test_fewer_columns_than_the_header(path: Path) -> None:
    with pytest.raises(InputError, match=r"not 4 columns, as in the header: line 2 \(3 columns\)"):
        read(path, "chrom\tstart\tend\tname\nchr1\t0\t10\nchr1\t0\t10\ta\n")


def test_a_first_line_at_fault_sets_no_width(path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(path, "my list of peaks\nchr1\t0\t10\n")
    assert str(caught.value).endswith("from 0 on: line 1 ('list' to 'of')")


def test_a_thousand_faults_make_one_line(path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(path, "chr1\t0\t1\n" + "chr1\t5\t3\nchr2\t0\t51\nchr9\t0\t5\nchr8\t0\t5\n" * 1000)
    message = str(caught.value)
    assert "start lies behind end: line 2 (5 to 3), line 6 (5 to 3), " in message
    assert message.count(" and 995 more") == 2
    assert "`chr9` (1,000 lines" in message
    assert "`chr8` (1,000 lines" in message
    assert len(message) < 800


places = st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 25), st.integers(0, 25))


@given(st.lists(places))
def test_coordinates_survive(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, int]]
) -> None:
    path = tmp_path_factory.mktemp("bed") / "x.bed"
    table = read(path, "".join(f"{contig}\t{at}\t{at + size}\n" for contig, at, size in rows))
    assert [record.region for record in table] == [
        Region(contig, at, at + size) for contig, at, size in rows
    ]


def test_contigs_that_are_not_wanted_are_passed_over(path: Path) -> None:
    path.write_text("chr1\t0\t9\nchrY\t0\t9\nchr2\t0\t99\n")
    table = read_bed(path, LENGTHS, "x.fa", ["chr1"])
    assert [record.region for record in table] == [Region("chr1", 0, 9)]
    with pytest.raises(InputError, match=r"`chrY` \(1 line\)"):
        read_bed(path, LENGTHS, "x.fa")
