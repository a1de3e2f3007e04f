import gzip
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from Bio import bgzf

from dnamamba.data.bgzf import BgzfWriter
from dnamamba.data.vcf import Record, open_vcf
from dnamamba.errors import InputError

COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
HEADER = f'##fileformat=VCFv4.2\n##INFO=<ID=AF,Number=A,Type=Float,Description="x">\n{COLUMNS}\n'
LINES = (
    "chr1\t5\trs1\tA\tC,G\t29.50\tPASS\tAF=0.1000,0.20;DB\n"
    "chr1\t3\t.\tn\t<DEL>\t.\t.\t.\n"
    "chr2\t7\t.\tGT\t.\t.\t.\tEND=8;\n"
)
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "x.vcf"
        path.write_bytes(text.encode())
        return path

    return to_file


def packed(text: str) -> bytes:
    handle = io.BytesIO()
    with BgzfWriter(handle) as out:
        out.write(text.encode())
    return handle.getvalue()


def records(path: Path) -> list[Record]:
    with open_vcf(path) as vcf:
        return list(vcf.records())


def annotated(path: Path, header: list[str], entries: list[str]) -> str:
    with open_vcf(path) as vcf:
        return b"".join(vcf.annotated(header, entries)).decode()


def test_records_are_what_lines_say(write: Write) -> None:
    assert records(write(HEADER + LINES)) == [
        Record(4, "chr1", 5, "rs1", "A", ("C", "G"), "AF=0.1000,0.20;DB"),
        Record(5, "chr1", 3, ".", "n", ("<DEL>",), "."),
        Record(6, "chr2", 7, ".", "GT", (".",), "END=8;"),
    ]
    assert records(write(HEADER)) == []


@pytest.mark.parametrize("name", ["x.vcf", "x.vcf.gz", "x.txt"])
@pytest.mark.parametrize("pack", [packed, lambda text: gzip.compress(text.encode())])
def test_compression_is_known_by_content(
    tmp_path: Path, name: str, pack: Callable[[str], bytes]
) -> None:
    path = tmp_path / name
    path.write_bytes(pack(HEADER + LINES))
    assert len(records(path)) == 3
    assert annotated(path, [], ["A=1"] * 3).startswith(HEADER)


def test_stdin_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = SimpleNamespace(buffer=io.BytesIO(packed(HEADER + LINES)))
    monkeypatch.setattr("sys.stdin", stdin)
    with open_vcf(Path("-")) as vcf:
        assert vcf.source == "stdin"
        assert list(vcf.records()) == list(vcf.records())


def test_lines_come_back_byte_for_byte_but_for_info(write: Write) -> None:
    samples = "\tGT:DP\t0|1:7\t./.:.\n"
    lines = [line + samples for line in LINES.splitlines()]
    header = HEADER.replace("INFO\n", "INFO\tFORMAT\tone\ttwo\n")
    path = write(header + "".join(lines))
    added = ["LLR=1,2", "LLR=.", "LLR=3"]
    first, second, third = lines
    wanted = [
        first.replace(";DB", ";DB;LLR=1,2"),
        second.replace("\t.\t.\t.\tGT", "\t.\t.\tLLR=.\tGT"),
        third.replace("END=8;", "END=8;LLR=3"),
    ]
    columns = header.splitlines(keepends=True)[-1]
    ours = header.replace(columns, "##one\n##two\n" + columns)
    assert annotated(path, ["##one", "##two"], added) == ours + "".join(wanted)


def test_ends_of_lines_stay(write: Write) -> None:
    text = (HEADER + LINES + "\n").replace("\n", "\r\n").removesuffix("\r\n\r\n")
    found = annotated(write(text), ["##one"], ["A=1", "A=2", "A=3"])
    removed = found.replace("##one\r\n", "").replace(";A=1", "").replace("\tA=2", "\t.")
    assert removed.replace(";A=3", ";") == text
    assert records(write(text))[2] == Record(6, "chr2", 7, ".", "GT", (".",), "END=8;")


def test_values_are_those_of_an_allele() -> None:
    info = "AF=0.1,0.2;DB;MC=a,b;X=1;Y=.;AFX=7"
    record = Record(1, "a", 1, ".", "A", ("C", "G"), info)
    assert [record.value("AF", number) for number in (0, 1)] == ["0.1", "0.2"]
    assert [record.value(key, 1) for key in ("DB", "MC", "X", "Y", "Z")] == [
        *("", "b", "1"),
        *(None, None),
    ]
    alone = record._replace(alts=("C",))
    assert (alone.value("AF", 0), alone.value("MC", 0)) == ("0.1,0.2", "a,b")


def test_lines_longer_than_a_block(write: Write) -> None:
    long = "chr1\t5\t.\tA\t" + "C" * 2**20 + "\t.\t.\tX=" + "y" * 2**20 + "\n"
    path = write(HEADER + long + long)
    assert [len(record.alts[0]) for record in records(path)] == [2**20] * 2
    wanted = HEADER + 2 * long.replace("\n", ";A=1\n")
    assert annotated(path, [], ["A=1", "A=1"]) == wanted


def test_keys_of_the_header(write: Write) -> None:
    with open_vcf(write(HEADER + LINES)) as vcf:
        assert vcf.defined() == {"AF"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">chr1\nACGT\n", "no VCF: it begins with '>chr1"),
        ("##fileformat=VCFv4.2\n", "no VCF: it has no line that begins with #CHROM"),
        ("##x\nchr1\t5\t.\tA\tC\t.\t.\t.\n", "line 2: a record before the line of columns"),
        ("##x\n" + COLUMNS.replace("\t", " ") + "\n", "line 2: the columns are not #CHROM POS"),
        (HEADER + "chr1\t5\t.\tA\tC\n", "line 4: 5 columns, and 8 or more are wanted"),
        (HEADER + "chr1 5 . A C . . .\n", "line 4: 1 columns"),
        (HEADER + LINES + LINES.replace("\t7\t", "\t7.0\t"), "line 9: POS '7.0' is no whole"),
        (HEADER + LINES.replace("\t5\t", "\t-5\t"), "line 4: POS '-5'"),
    ],
)
def test_what_is_no_vcf_is_refused(write: Write, text: str, message: str) -> None:
    path = write(text)
    with pytest.raises(InputError) as caught:
        records(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_an_empty_file_is_no_vcf(write: Write) -> None:
    with pytest.raises(InputError, match="no VCF"):
        records(write(""))


def test_bcf_is_refused_with_what_to_type(tmp_path: Path) -> None:
    path = tmp_path / "x.bcf"
    path.write_bytes(packed("BCF\2\2..."))
    with pytest.raises(InputError, match=r"is BCF; bcftools view -Oz -o X.vcf.gz .*x.bcf"):
        records(path)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.vcf: no such file"):
        records(tmp_path / "gone.vcf")


def long_text() -> str:
    return HEADER + "".join(f"chr1\t{n}\t.\tA\tC\t.\t.\tN={n * 7919}\n" for n in range(1, 20000))


@pytest.mark.parametrize("pack", [packed, lambda text: gzip.compress(text.encode())])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_truncated_file_is_refused(
    tmp_path: Path, pack: Callable[[str], bytes], share: float
) -> None:
    path = tmp_path / "x.vcf.gz"
    whole = pack(long_text())
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"truncated (BGZF|gzip).*x\.vcf\.gz|x\.vcf\.gz.*trunc"):
        records(path)


@pytest.mark.parametrize("lines", [3, 20000])
def test_bgzf_that_lacks_only_its_end_mark_is_refused(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "x.vcf.gz"
    text = "".join(long_text().splitlines(keepends=True)[: 3 + lines])
    with bgzf.BgzfWriter(path) as out:
        out.write(text)
    assert len(records(path)) == min(lines, 19999)
    path.write_bytes(path.read_bytes()[:-28])
    with pytest.raises(InputError, match=r"x.vcf.gz: truncated BGZF, without the mark"):
        records(path)
