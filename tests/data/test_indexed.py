import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from Bio import bgzf

from dnamamba.alphabet import decode
from dnamamba.data.indexed import open_indexed
from dnamamba.data.region import Region
from dnamamba.errors import InputError

GENOME = {"chr1 the first": "ACGTacgtNNRYacGTAC", "chr2": "TTTTTTTT", "chr3": ""}
PLACE = Region("chr1", 3, 6)


@pytest.fixture
def fasta(tmp_path: Path, write_fasta: Callable[..., Path]) -> Path:
    (tmp_path / "genomes").mkdir()
    return write_fasta(tmp_path / "genomes" / "x.fa", GENOME, width=5)


def compress(fasta: Path) -> Path:
    path = fasta.with_name(f"{fasta.name}.gz")
    with bgzf.BgzfWriter(path, "wb") as out:
        out.write(fasta.read_bytes())
    return path


def sequence(path: Path, region: Region = PLACE) -> str:
    return decode(open_indexed(path).fetch(region))


def test_bgzf_blocks_of_64_kib(tmp_path: Path) -> None:
    """Where a read begins at a block's first byte; Biopython's blocks are full."""
    fasta = tmp_path / "x.fa"
    bases = np.random.default_rng(0).choice(list("ACGT"), 300_000)
    fasta.write_text(">a\n" + "".join(bases) + "\n")
    genome = open_indexed(compress(fasta))
    for start in range(65_536 - 5, 65_536 + 5):
        assert decode(genome.fetch(Region("a", start, start + 70_000))) == "".join(
            bases[start : start + 70_000]
        )


@pytest.mark.parametrize("kind", ["plain", "bgzf"])
def test_a_stale_index_is_made_again(fasta: Path, kind: str, messages: list[str]) -> None:
    path = fasta if kind == "plain" else compress(fasta)
    assert open_indexed(path).lengths["chr2"] == 8
    fai = path.with_name(f"{path.name}.fai")
    before = fai.read_text()
    fasta.write_text(">chr2\nGGGGGGGGGGGG\nCC\n")
    if kind == "bgzf":
        compress(fasta)
    os.utime(path, ns=(fai.stat().st_mtime_ns,) * 2)  # as a copy that keeps times would
    genome = open_indexed(path)
    assert decode(genome.fetch(Region("chr2", 0, 14))) == "GGGGGGGGGGGGCC"
    assert f"{fai} is not the index of this {path.name}: making it again" in messages
    assert fai.read_text() != before
    assert not [file for file in path.parent.iterdir() if file.name.startswith(".")]


def test_an_older_index_is_made_again(fasta: Path) -> None:
    open_indexed(fasta)
    fai = fasta.with_name("x.fa.fai")
    first = fai.stat().st_mtime_ns
    os.utime(fai, ns=(0, 0))
    open_indexed(fasta)
    assert fai.stat().st_mtime_ns >= first


def test_an_index_that_is_another_programs_is_used(fasta: Path) -> None:
    open_indexed(fasta)
    fai = fasta.with_name("x.fa.fai")
    before = fai.stat().st_ino
    assert open_indexed(fasta).lengths["chr1"] == 18
    assert fai.stat().st_ino == before


@pytest.mark.parametrize("kind", ["plain", "bgzf"])
def test_a_read_only_folder_sends_the_index_to_the_cache(
    fasta: Path, cache: Path, kind: str
) -> None:
    path = fasta if kind == "plain" else compress(fasta)
    fasta.parent.chmod(0o555)
    try:
        before = set(fasta.parent.iterdir())
        assert sequence(path) == "Tac"
        assert set(fasta.parent.iterdir()) == before
        assert len(list((cache / "dnamamba").iterdir())) == (1 if kind == "plain" else 2)
    finally:
        fasta.parent.chmod(0o755)


def test_a_change_under_an_open_genome_is_told(fasta: Path) -> None:
    genome = open_indexed(fasta)
    fasta.write_text(">chr1\nA\n")
    with pytest.raises(InputError, match="changed since it was opened"):
        genome.fetch(PLACE)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.fa.gz", gzip.compress(b">a\nACGT\n"), r"plain gzip has no random access; dnamamba ind"),
        ("x.fa.gz", b">a\nACGT\n", r"x\.fa\.gz: is not gzip at all; rename it"),
        ("x.fa", b">a\nACGT\nACGTACGT\n>b\nAC\n", "lines of one width"),
        ("x.fa", b">a\nACGT\nAC\nACGT\n", "lines of one width"),
        ("x.fa", b">a\nACGT\n\nACGT\n", "lines of one width"),
        ("x.fa", b">a\nACGT\n>a\nACGT\n", "names that differ"),
        ("x.fa", b"", "no index can be made"),
        ("x.fa", b"hello\n", "no index can be made"),
    ],
)
def test_what_random_access_cannot_read(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_indexed(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_letter_that_is_no_base(tmp_path: Path) -> None:
    path = tmp_path / "x.fa"
    path.write_text(">a\nACGT\nAC T\n")
    with pytest.raises(InputError, match=r"x\.fa, in a:1-8: ' ' at position 7"):
        open_indexed(path).fetch(Region("a", 0, 8))


def test_a_corrupt_block(fasta: Path) -> None:
    path = compress(fasta)
    opened = open_indexed(path).fetch(PLACE)
    assert decode(opened) == "Tac"
    data = bytearray(path.read_bytes())
    data[-28 - 8] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"corrupt gzip|no index can be made"):
        open_indexed(path).fetch(PLACE)
