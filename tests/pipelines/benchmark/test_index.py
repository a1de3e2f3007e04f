import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dnamamba import cli
from dnamamba.data.store import open_store
from dnamamba.pipelines.benchmark.index import COLUMNS, FORMATS, write_copies


@pytest.mark.parametrize("name", FORMATS)
def test_copies_hold_the_genome_under_new_names(
    name: str, tmp_path: Path, write_fasta: Callable[..., Path]
) -> None:
    records = {"chr1": "ACGTNacgt" * 30, "chr2": "TTT"}
    fasta = write_fasta(tmp_path / "x.fa", records)
    fasta.write_bytes(fasta.read_bytes().rstrip())
    path = tmp_path / FORMATS[name]
    write_copies(fasta, path, 2, name)
    one, two = open_store(fasta), open_store(path)
    assert list(two.lengths) == ["1_chr1", "1_chr2", "2_chr1", "2_chr2"]
    assert all((two.codes(f"2_{contig}") == one.codes(contig)).all() for contig in records)


def test_benchmark(
    tmp_path: Path, write_fasta: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    fasta = write_fasta(tmp_path / "x.fa", {"chr1": "ACGT" * 5000})
    arguments = ["benchmark", "index", "-q", "--copies", "2", "--format", "plain", str(fasta)]
    assert cli.run(arguments) == 0
    header, *rows = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert tuple(header) == COLUMNS
    windows = ["window, cold", "window, warm"] if hasattr(os, "posix_fadvise") else ["window, warm"]
    assert [row[0] for row in rows] == ["tokenise", "read", *windows]
    assert [row[2] for row in rows] == ["40000", "40000"] + ["20000"] * len(windows)
    assert all(float(cell) > 0 for row in rows for cell in row[3:])
    assert list(tmp_path.iterdir()) == [fasta]
