import gzip
import hashlib
import random
from pathlib import Path

import pytest
from Bio import bgzf

from dnamamba.data.bgzf import BgzfWriter, recompress
from dnamamba.data.genome import Genome
from dnamamba.errors import InputError


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [0, 1, 0xFF00 - 1, 0xFF00, 0xFF00 + 1, 1_500_000])
def test_any_reader_reads_it(size: int, threads: int, tmp_path: Path) -> None:
    """Random bytes: they cannot be compressed, and must fit into blocks all the same."""
    text = random.Random(size).randbytes(size)
    path = tmp_path / "x.gz"
    with path.open("wb") as handle, BgzfWriter(handle, threads=threads) as writer:
        for start in range(0, size, 7001):
            writer.write(text[start : start + 7001])
    assert gzip.decompress(path.read_bytes()) == text
    with path.open("rb") as handle:
        blocks = [length for _, _, _, length in bgzf.BgzfBlocks(handle)]
    assert sum(blocks) == size
    assert blocks[-1] == 0
    assert path.read_bytes().endswith(
        bytes.fromhex("1f8b08040000000000ff0600424302001b0003") + bytes(9)
    )


def test_no_end_mark_where_the_writing_failed(tmp_path: Path) -> None:
    def fail() -> None:
        with path.open("wb") as handle, BgzfWriter(handle) as writer:
            writer.write(b"ACGT")
            raise RuntimeError

    path = tmp_path / "x.gz"
    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("kind", ["plain", "gzip", "bgzf"])
def test_recompress(kind: str, tmp_path: Path) -> None:
    letters = random.Random(1).choices("ACGTacgtN", k=200_000)
    lines = "\n".join("".join(letters[i : i + 80]) for i in range(0, len(letters), 80))
    text = f">one first\n{lines}\n>two\nACGT\n>none\n".encode()
    source, target = tmp_path / "x.part", tmp_path / "x.fa.gz"
    if kind == "bgzf":
        with source.open("wb") as handle, BgzfWriter(handle) as writer:
            writer.write(text)
    else:
        source.write_bytes(gzip.compress(text) if kind == "gzip" else text)
    contents = recompress(source, target, threads=2)
    assert contents.lengths == {"one": 200_000, "two": 4, "none": 0}
    assert contents.md5 == hashlib.md5(source.read_bytes()).hexdigest()
    assert gzip.decompress(target.read_bytes()) == text
    genome = Genome(target, store=False)
    assert genome.sequence("one:100001-100080") == "".join(letters[100_000:100_080]).translate(
        str.maketrans("n", "N")
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b">a\nACGT\n" * 9)[:-9], "truncated gzip"),
        (gzip.compress(b">a\nACGT\n")[:-8] + bytes(8), "corrupt gzip"),
        (b"<html>", "looks like HTML"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_whole_fasta(data: bytes, message: str, tmp_path: Path) -> None:
    source = tmp_path / "x.part"
    source.write_bytes(data)
    with pytest.raises(InputError, match=message):
        recompress(source, tmp_path / "x.fa.gz")
