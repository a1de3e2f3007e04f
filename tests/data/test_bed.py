import gzip
import io
from pathlib import Path

import pytest

from dnamamba.data.bed import BedRecord, read_bed
from dnamamba.data.region import Region
from dnamamba.errors import InputError

LENGTHS = {"chr1": 1000, "chr2": 50}


def test_columns_and_lines_that_are_no_records(tmp_path: Path) -> None:
    path = tmp_path / "x.bed"
    path.write_bytes(
        b"track name=x\nbrowser position chr1\n# comment\n\n"
        b"chr1\t0\t10\r\n"
        b"chr1 5 20 train\n"
        b"chr2\t3\t50\tmy gene\t960\t-\tthick\t1\t0,0,0\n"
        b"chr2\t7\t7\t.\t.\t."
    )
    assert read_bed(path, LENGTHS, "x.fa") == [
        BedRecord(Region("chr1", 0, 10), "", "", (), 5),
        BedRecord(Region("chr1", 5, 20), "train", "", (), 6),
        BedRecord(Region("chr2", 3, 50, "-"), "my gene", "960", ("thick", "1", "0,0,0"), 7),
        BedRecord(Region("chr2", 7, 7), ".", ".", (), 8),
    ]


def test_gzip_and_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = gzip.compress(b"chr1\t0\t10\n")
    path = tmp_path / "x.bed"
    path.write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert (
        read_bed(path) == read_bed(Path("-")) == [BedRecord(Region("chr1", 0, 10), "", "", (), 1)]
    )


def test_no_lengths_no_check(tmp_path: Path) -> None:
    path = tmp_path / "x.bed"
    path.write_text("chrZ\t0\t10000\n")
    assert read_bed(path)[0].region == Region("chrZ", 0, 10_000)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chr1\t5", "not BED: contig, start and end are wanted"),
        ("chr1\t-5\t10", "'-5' to '10': whole numbers are wanted"),
        ("chr1\t1_0\t20", "whole numbers"),
        ("chr1\tstart\tend", "whole numbers"),
        ("chr1\t20\t10", "start 20 lies behind end 10"),
        ("chr2\t0\t51", "end 51 lies behind chr2 of x.fa, which ends at 50"),
        ("2\t0\t50", "`2` is not in x.fa; did you mean `chr2`?"),
        ("chr1\t0\t10\ta\t0\tplus", "strand 'plus' is none of + - ."),
    ],
)
def test_faults_name_file_and_line(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.bed"
    path.write_text(f"# head\nchr1\t0\t1\n{line}\n")
    with pytest.raises(InputError) as caught:
        read_bed(path, LENGTHS, "x.fa")
    assert str(caught.value).startswith(f"line 3 of {path}: ")
    assert message in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_bed(tmp_path / "nosuch.bed")
    path = tmp_path / "x.bed.gz"
    path.write_bytes(gzip.compress(b"chr1\t0\t10\n")[:-5])
    with pytest.raises(InputError, match=r"truncated gzip: .*x\.bed\.gz"):
        read_bed(path)
