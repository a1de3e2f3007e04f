import gzip
import io
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from Bio import bgzf
from hypothesis import given
from hypothesis import strategies as st

from dnamamba.alphabet import encode
from dnamamba.data.fasta import BLOCK, Header, compression, decompress, parse_fasta, read_ahead
from dnamamba.errors import InputError


def parse(text: bytes, cut: int = 1 << 20) -> dict[str, bytes]:
    blocks = [text[at : at + cut] for at in range(0, len(text), cut)]
    records: dict[str, bytes] = {}
    name = ""
    for item in parse_fasta(blocks, "x.fa"):
        if isinstance(item, Header):
            name = item.name
            records[name] = b""
        else:
            assert item, "pieces are never empty"
            records[name] += item
    return records


letters = st.text("ACGTacgtNnRYSWKMBDHVUu", max_size=40)
records = st.dictionaries(st.text("chrXY0123_.|:-", min_size=1, max_size=8), letters, max_size=5)


@given(
    records.filter(bool),
    st.integers(1, 9),
    st.sampled_from(["\n", "\r\n", "\n\n", " \n", "\t\r\n"]),
    st.sampled_from(["", "\n", "\r\n\n"]),
    st.sampled_from(["", " a description > of it", "\tlen=5"]),
    st.sampled_from(["", "\ufeff", "\n\n"]),
    st.integers(1, 60),
)
def test_any_layout_cut_anywhere(
    genome: dict[str, str],
    width: int,
    newline: str,
    last: str,
    description: str,
    first: str,
    cut: int,
) -> None:
    lines = []
    for name, sequence in genome.items():
        lines.append(f">{name}{description}")
        lines += [sequence[at : at + width] for at in range(0, len(sequence), width)]
    text = (first + newline.join(lines) + last).encode()
    cut = max(cut, 3) if first == "\ufeff" else cut  # a byte order mark is never cut
    expected = {name: encode(sequence).tobytes() for name, sequence in genome.items()}
    assert parse(text, cut) == expected


def test_headers_know_their_line_and_description() -> None:
    items = list(parse_fasta([b">a first one\nAC\n\nGT\n>", b"b\r\n>c\tx y \n"], "x.fa"))
    headers = [item for item in items if isinstance(item, Header)]
    assert headers == [Header("a", "first one", 1), Header("b", "", 5), Header("c", "x y", 6)]


def fault(text: bytes, cut: int = 1 << 20) -> str:
    with pytest.raises(InputError) as caught:
        parse(text, cut)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "x.fa: is empty"),
        (b" \n\n", "x.fa: holds no FASTA record"),
        (b"@read1\nACGT\n+\nIIII\n", "looks like FASTQ"),
        (b"<!DOCTYPE html>\n<html>", "looks like HTML"),
        (b"PK\x03\x04\x14\x00", "zip archive"),
        (b"\x43\x27\x41\x1a\0\0\0\0", "2bit"),
        (b"LOCUS       NC_012920", "GenBank"),
        (b"##gff-version 3\n", "VCF or GFF"),
        (b"\x89HDF\r\n", "a binary file"),
        (b"chr1\t5\t10\n", "it begins with"),
    ],
)
def test_what_is_not_fasta(text: bytes, message: str) -> None:
    assert message in fault(text)


@pytest.mark.parametrize("cut", [1, 4, 1000])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b">a\nACGT\nACGLT\n", "line 3 of x.fa (contig a): 'L' is not a nucleotide code; is this"),
        (b">a\nACGT\n>b\nAC-T\n", "line 4 of x.fa (contig b): '-' is not a nucleotide code; is"),
        (b">a\nACGT\nAC>T\n", "line 3 of x.fa (contig a): '>' is not a nucleotide code"),
        (b">a\nAC\xe9T\n", "line 2 of x.fa (contig a): '\xe9' is not"),
        (b">a\nAC\n> b\nAC\n", "line 3 of x.fa: a '>' with no name"),
        (b">\nAC\n", "line 1 of x.fa: a '>' with no name"),
        (b">a\nAC\n>b\nAC\n>a c\nA", "two records are named 'a', on lines 1 and 5"),
        (b">a\rACGT\rACGT\r>b\rAC\r", "line 1 of x.fa: lines end in CR alone"),
    ],
)
def test_faults_name_their_place(text: bytes, message: str, cut: int) -> None:
    assert message in fault(text, cut)


class Dribble(io.BytesIO):
    """Reads a few bytes at a time, as a pipe does."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 1000))


def compressed(text: bytes, kind: str, tmp_path: Path) -> bytes:
    if kind == "plain":
        return text
    if kind == "bgzf":
        path = tmp_path / "x.gz"
        with bgzf.BgzfWriter(path, "wb") as out:
            out.write(text)
        return path.read_bytes()
    half = len(text) // 2
    members = {"gzip": [text], "members": [text[:half], text[half:]], "padded": [text]}[kind]
    return b"".join(map(gzip.compress, members)) + (bytes(512) if kind == "padded" else b"")


@pytest.mark.parametrize("size", [0, 5, BLOCK, BLOCK + 1, 3 * BLOCK])
@pytest.mark.parametrize("kind", ["plain", "gzip", "members", "padded", "bgzf"])
def test_decompress(kind: str, size: int, tmp_path: Path) -> None:
    text = (b"ACGTTGCANN" * (size // 10 + 1))[:size]
    data = compressed(text, kind, tmp_path)
    assert b"".join(decompress(io.BytesIO(data), "x.gz")) == text
    assert compression(data[:18]) == {"plain": "plain", "bgzf": "bgzf"}.get(kind, "gzip")


def test_decompress_reads_a_stream_that_dribbles(tmp_path: Path) -> None:
    text = bytes(range(256)) * 100
    for kind in ("plain", "gzip", "bgzf"):
        stream = Dribble(compressed(text, kind, tmp_path))
        assert b"".join(decompress(stream, "x.gz")) == text


@pytest.mark.parametrize("kind", ["gzip", "bgzf"])
@pytest.mark.parametrize("lost", [1, 8, 9, 40, 300])
def test_truncated_gzip(kind: str, lost: int, tmp_path: Path) -> None:
    text = b">a\n" + b"ACGTTGCATTACNGATC" * 40_000
    data = compressed(text, kind, tmp_path)
    with pytest.raises(InputError, match=r"truncated gzip: x\.fa\.gz; download it again"):
        list(decompress(io.BytesIO(data[:-lost]), "x.fa.gz"))


def test_bgzf_cut_between_blocks_is_told(tmp_path: Path, messages: list[str]) -> None:
    data = compressed(b"ACGT" * 1000, "bgzf", tmp_path)
    list(decompress(io.BytesIO(data), "x.fa.gz"))
    assert not messages
    list(decompress(io.BytesIO(data[:-28]), "x.fa.gz"))
    assert messages == ["x.fa.gz: no BGZF end-of-file mark; is the file complete?"]


@pytest.mark.parametrize("damage", ["checksum", "garbage"])
def test_corrupt_gzip(damage: str) -> None:
    data = bytearray(gzip.compress(b"ACGT" * 1000))
    if damage == "checksum":
        data[-8] ^= 1
    else:
        data += b"garbage"
    with pytest.raises(InputError, match=r"corrupt gzip \(.*\); download it again"):
        list(decompress(io.BytesIO(bytes(data)), "x.fa.gz"))


def test_a_gzip_bomb_is_read_in_pieces() -> None:
    bomb = zlib.compressobj(9, wbits=31)
    million = bytes(1_000_000)
    data = b"".join(bomb.compress(million) for _ in range(100)) + bomb.flush()
    tracemalloc.start()
    try:
        assert sum(map(len, decompress(io.BytesIO(data), "x.gz"))) == 100_000_000
        assert tracemalloc.get_traced_memory()[1] < 10 * BLOCK
    finally:
        tracemalloc.stop()


def test_read_ahead_yields_all_and_passes_errors_on() -> None:
    assert list(read_ahead(iter([b"a", b"", b"b"]))) == [b"a", b"", b"b"]

    def failing() -> Iterator[bytes]:
        yield b"a"
        raise InputError("truncated")

    blocks = read_ahead(failing())
    assert next(blocks) == b"a"
    with pytest.raises(InputError, match="truncated"):
        next(blocks)


def test_read_ahead_can_be_left_early() -> None:
    blocks = read_ahead(iter([b"a", b"b", b"c"]))
    assert next(blocks) == b"a"
    blocks.close()  # type: ignore[attr-defined]
