from collections.abc import Callable
from pathlib import Path

import pytest

from dnamamba import cli
from dnamamba.pipelines.index import COLUMNS


@pytest.fixture
def genomes(tmp_path: Path, write_fasta: Callable[..., Path]) -> list[str]:
    first = write_fasta(tmp_path / "a.fa", {"chr1": "ACGTnnNA", "chr2": "AC"})
    second = write_fasta(tmp_path / "b.fa", {"x": "N"})
    return [str(first), str(second)]


def table(text: str) -> list[dict[str, str]]:
    header, *rows = (line.split("\t") for line in text.splitlines())
    assert tuple(header) == COLUMNS
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_index(genomes: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["index", *genomes]) == 0
    captured = capsys.readouterr()
    first, second = table(captured.out)
    assert float(first.pop("seconds")) > 0
    assert first == {
        "genome": genomes[0],
        "store": f"{genomes[0]}.dnamamba",
        "contigs": "2",
        "bases": "10",
        "n": "3",
        "soft_masked": "2",
        "state": "built",
    }
    assert (second["genome"], second["n"]) == (genomes[1], "1")
    assert "tokenising a.fa into" in captured.err
    assert cli.run(["index", *genomes]) == 0
    assert [row["state"] for row in table(capsys.readouterr().out)] == ["fresh", "fresh"]
    assert cli.run(["index", "-q", "--force", genomes[0]]) == 0
    captured = capsys.readouterr()
    assert [row["state"] for row in table(captured.out)] == ["built"]
    assert captured.err == ""


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (None, 1, "nosuch.fa: no such file"),
        (b"", 1, "is empty"),
        (b"@read\nACGT\n", 1, "looks like FASTQ"),
        (b">a\nMKLV\n", 1, "(contig a): 'L' is not a nucleotide code; is this a protein?"),
    ],
)
def test_bad_input(
    content: bytes | None,
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "nosuch.fa"
    if content is not None:
        path.write_bytes(content)
    assert cli.run(["index", "-q", str(path)]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("dnamamba: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == ([] if content is None else [path])


def test_no_genome_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["index"]) == 2
    assert "Missing argument 'GENOME...'" in capsys.readouterr().err
