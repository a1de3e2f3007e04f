import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from Bio import bgzf

from dnamamba.alphabet import decode
from dnamamba.data.fasta import BLOCK
from dnamamba.data.records import Record, read_records
from dnamamba.errors import InputError

TEXT = b">a first one\nACGTN\r\nacgt\n>empty\n\n>b\nRYTTU"
WANTED = [("a", "first one", "ACGTNacgt"), ("empty", "", ""), ("b", "", "NNTTT")]


def texts(records: Iterator[Record]) -> list[tuple[str, str, str]]:
    return [(record.name, record.description, decode(record.codes)) for record in records]


@pytest.mark.parametrize("kind", ["plain", "gzip", "bgzf"])
def test_records_of_a_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.fa"
    if kind == "bgzf":
        with bgzf.BgzfWriter(path, "wb") as out:
            out.write(TEXT)
    else:
        path.write_bytes(TEXT if kind == "plain" else gzip.compress(TEXT))
    assert texts(read_records(path)) == WANTED
    assert {record.codes.dtype for record in read_records(path)} == {np.dtype(np.uint8)}


class Stdin:
    def __init__(self, text: bytes) -> None:
        self.buffer = io.BytesIO(text)


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_stdin(squeeze: type[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(squeeze(TEXT)))
    assert texts(read_records(Path("-"))) == WANTED


def test_a_record_in_many_pieces(tmp_path: Path) -> None:
    path = tmp_path / "x.fa"
    bases = b"ACGGTCA" * (BLOCK // 3)
    path.write_bytes(b">a\nTT\n>b\n" + bases + b"\n>c\nGG\n")
    assert [len(record.codes) for record in read_records(path)] == [2, len(bases), 2]


def test_a_record_comes_before_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.fa"
    path.write_bytes(b">a\nACGT\n>b\n" + b"ACGT\n" * BLOCK + b"ACGL\n")
    records = read_records(path)
    assert next(records).name == "a"
    with pytest.raises(InputError, match=r"\(contig b\): 'L' is not a nucleotide code; is this a"):
        next(records)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "holds no FASTA record"),
        (b"@read\nACGT\n", "looks like FASTQ"),
        (gzip.compress(b">a\nACGT\n")[:-4], "truncated gzip"),
    ],
)
def test_what_is_not_fasta_is_named(
    text: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.fa"
    path.write_bytes(text)
    with pytest.raises(InputError, match=message) as caught:
        list(read_records(path))
    assert str(path) in str(caught.value)
    monkeypatch.setattr("sys.stdin", Stdin(text))
    with pytest.raises(InputError, match=f"stdin.*{message}|{message}.*stdin"):
        list(read_records(Path("-")))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.fa: no such file"):
        list(read_records(tmp_path / "none.fa"))
