import gzip
import io
from pathlib import Path

import pytest

from dnamamba.data.fasta import BLOCK
from dnamamba.data.lines import read_lines
from dnamamba.errors import InputError


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("is_last_ended", [True, False])
def test_lines_however_they_end(tmp_path: Path, end: bytes, is_last_ended: bool) -> None:
    path = tmp_path / "x.bed"
    path.write_bytes(b"\xef\xbb\xbfa\tb" + end + end + b"  c \t" + end + b" " + end + b"d")
    if is_last_ended:
        path.write_bytes(path.read_bytes() + end)
    assert list(read_lines(path)) == [(1, "a\tb"), (3, "  c \t"), (5, "d")]


def test_lines_over_blocks_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bed"
    for size in range(BLOCK - 3, BLOCK + 1):
        path.write_bytes(b"x" * size + b"\r\n" + b"y" * BLOCK + b"\r\nz\n")
        assert [(number, len(line)) for number, line in read_lines(path)] == [
            (1, size),
            (2, BLOCK),
            (3, 1),
        ]


def test_gzip_stdin_and_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = gzip.compress(b"a\nb\n")
    path = tmp_path / "x.bed"
    path.write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert list(read_lines(path)) == list(read_lines(Path("-"))) == [(1, "a"), (2, "b")]
    path.write_bytes(b"")
    assert list(read_lines(path)) == []


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        list(read_lines(tmp_path / "nosuch.bed"))
    path = tmp_path / "x.bed"
    path.write_bytes(gzip.compress(b"chr1\t0\t10\n")[:-5])
    with pytest.raises(InputError, match=r"truncated gzip: .*x\.bed"):
        list(read_lines(path))
    path.write_bytes("chr1\t0\t10\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"x\.bed: line 1: binary; plain text is wanted"):
        list(read_lines(path))
