import gzip
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dnamamba import cli
from dnamamba.data import download
from dnamamba.data.catalog import SOURCES, Source, find_sources
from dnamamba.data.genome import Genome
from dnamamba.data.tasks import TASKS
from dnamamba.pipelines import fetch as module
from dnamamba.pipelines.fetch import COLUMNS
from tests.data.serving import Fault, Server, serving

CHIMPANZEE, BONOBO = find_sources(["mPanTro3-v2.0", "mPanPan1-v2.0"])
(GRCH38,) = find_sources(["GRCh38"])
BASES = "".join(random.Random(0).choices("ACGTacgt", k=9_000))
FASTA = gzip.compress(f">CM1.2 chromosome 1\n{BASES}\n>CM2.2\nNACGT\n".encode())


def at(source: Source) -> str:
    return urlsplit(source.url).path


def listed(source: Source, data: bytes) -> tuple[str, bytes]:
    """The archive's list of checksums, and where it lies."""
    folder, _, name = at(source).rpartition("/")
    line = f"{hashlib.md5(data).hexdigest()}  ./{name}\n"
    return f"{folder}/md5checksums.txt", line.encode()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download.time, "sleep", lambda _seconds: None)
    with serving() as server:
        for source in (CHIMPANZEE, BONOBO):
            path, text = listed(source, FASTA)
            server.files |= {at(source): FASTA, path: text}
        yield server


@pytest.fixture
def run(server: Server, tmp_path: Path) -> Callable[..., int]:
    def run(*arguments: str) -> int:
        output = str(tmp_path / "genomes")
        return cli.run(["fetch", *arguments, "-o", output, "--url", server.url])

    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "genomes" / "mPanTro3-v2.0.fa.gz"


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_catalogue_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["fetch"]) == 0
    header, *rows = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert tuple(header) == COLUMNS
    assert len(rows) == len(SOURCES) + len(TASKS)
    assert rows[0][:5] == [
        "GRCh38",
        "Homo sapiens",
        "GCA_000001405.15",
        "872949833",
        "md5:a08035b6a6e31780e96a34008ff21bd6",
    ]
    assert rows[2][2:5] == ["GCA_028858775.2", "NA", "md5checksums.txt"]
    assert rows[7] == [
        "genomic-benchmarks/demo_coding_vs_intergenomic_seqs",
        "Homo sapiens",
        "main",
        "NA",
        "sha256 of the hub",
        "https://huggingface.co/datasets/katarinagresova/Genomic_Benchmarks_demo_coding_vs_intergenomic_seqs",
    ]


def test_fetch(
    run: Callable[..., int], server: Server, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults[at(CHIMPANZEE)] = ["503", "drop", "drop"]
    assert run("GCA_028858775", "mPanPan1-v2.0") == 0
    captured = capsys.readouterr()
    bonobo = path.with_name("mPanPan1-v2.0.fa.gz")
    assert captured.out == f"{path}\n{bonobo}\n"
    assert f"{path}: 9,005 bases in 2 contigs; MD5 as in the archive's md5checksums.txt (none is "
    assert "lengths of chromosomes are not pinned" in captured.err
    assert names(path.parent) == sorted(
        [path.name, f"{path.name}.json", bonobo.name, f"{bonobo.name}.json"]
    )
    record = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (record["md5"], record["size"]) == (hashlib.md5(FASTA).hexdigest(), len(FASTA))
    assert (record["accession"], record["bases"]) == ("GCA_028858775.2", 9_005)
    assert Genome(path, store=False).sequence("CM1.2:8,901-9,000") == BASES[8_900:]
    assert Genome(path).sequence("CM2.2") == "NACGT"


def test_what_is_there_is_not_fetched_again(
    run: Callable[..., int], server: Server, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("mPanTro3-v2.0") == 0
    before, written = path.read_bytes(), path.stat().st_mtime_ns
    server.asked.clear()
    assert run("mPanTro3-v2.0") == 0
    assert server.asked == []
    assert path.stat().st_mtime_ns == written
    captured = capsys.readouterr()
    assert captured.out == f"{path}\n" * 2
    assert "is there, as it was fetched and verified" in captured.err
    assert run("mPanTro3-v2.0", "--force", "-q") == 0
    assert len(server.asked) == 2
    assert path.read_bytes() == before
    assert capsys.readouterr().err == ""


def test_a_file_in_the_way_is_kept(
    run: Callable[..., int], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path.parent.mkdir()
    path.write_text("mine")
    assert run("mPanTro3-v2.0") == 2
    assert "exists, and is not as it was fetched; --force" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert run("mPanTro3-v2.0", "--force") == 0
    with path.open("ab") as handle:
        handle.write(b"\0")
    assert run("mPanTro3-v2.0") == 2


def broken(data: bytes) -> bytes:
    return data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]


WRONG = gzip.compress(b">CM1.2\nACGT\n")


@pytest.mark.parametrize(
    ("served", "faults", "message"),
    [
        (WRONG, [], f"its MD5 is {hashlib.md5(WRONG).hexdigest()}, and "),
        (broken(FASTA), [], "corrupt gzip"),
        (FASTA, ["cut"], "truncated gzip"),
        (FASTA, ["cut without length"], "truncated gzip"),
        (b"<html>busy</html>", [], "looks like HTML"),
    ],
    ids=("wrong", "broken", "cut", "cut without length", "html"),
)
def test_what_is_not_the_assembly_is_removed(
    served: bytes,
    faults: list[Fault],
    message: str,
    run: Callable[..., int],
    server: Server,
    path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.files[at(CHIMPANZEE)] = served
    server.faults[at(CHIMPANZEE)] = faults
    assert run("mPanTro3-v2.0", "-q") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"dnamamba: error: {server.url}{at(CHIMPANZEE)}: what came is ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert names(path.parent) == []
    server.files[at(CHIMPANZEE)] = FASTA
    assert run("mPanTro3-v2.0") == 0


def test_a_pinned_size_and_checksum(
    run: Callable[..., int],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No list is asked for, and the known lengths of chromosomes are compared."""
    server.files[at(GRCH38)] = FASTA
    assert run("GRCh38", "-q") == 1
    assert f"the server's file has {len(FASTA):,} bytes, and 872,949,833" in capsys.readouterr().err
    md5 = hashlib.md5(FASTA).hexdigest()
    small = Source(GRCH38.name, "", GRCH38.accession, GRCH38.url, size=len(FASTA), md5=md5)
    monkeypatch.setattr(module, "find_sources", lambda _names: [small])
    assert run("GRCh38", "-q") == 1
    assert "chromosome 1 of GRCh38 has 248,956,422 bases, and here" in capsys.readouterr().err
    assert {asked for asked, _ in server.asked} == {at(GRCH38)}


def test_interrupted_and_gone_on_with(
    run: Callable[..., int],
    server: Server,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    server.faults[at(CHIMPANZEE)] = ["drop"]
    with monkeypatch.context() as patch:
        patch.setattr(download.time, "sleep", interrupt)
        assert run("mPanTro3-v2.0") == 130
    part = path.with_name(f"{path.name}.part")
    assert f"{part}: kept; the same command goes on with it" in capsys.readouterr().err
    assert part.read_bytes() == FASTA[: len(FASTA) // 2]
    path.with_name(f".{path.name}.123.tmp").write_text("of a process that was killed")
    assert run("mPanTro3-v2.0") == 0
    assert server.ranges(at(CHIMPANZEE)) == [None, f"bytes={len(FASTA) // 2}-"]
    assert names(path.parent) == [path.name, f"{path.name}.json"]


def test_killed_while_recompressing(
    run: Callable[..., int], server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole download is kept, and only the list of checksums is asked for again."""

    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "recompress", kill)
        assert run("mPanTro3-v2.0") == 130
    assert run("mPanTro3-v2.0") == 0
    assert server.ranges(at(CHIMPANZEE)) == [None]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nosuch"], 2, "nosuch: not in the catalogue"),
        (["mGorGor1-v2.0"], 1, "md5checksums.txt: 404 Not Found; try another address with --url"),
        (["GRCh38"], 1, "analysis_set.fna.gz: 404 Not Found"),
        (["GRCh38", "--url", "ftp://x"], 2, "--url ftp://x: give an address that begins with"),
        (["GRCh38", "--url", "localhost:80"], 2, "give an address that begins with"),
    ],
)
def test_faults_in_one_line(
    arguments: list[str],
    code: int,
    message: str,
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ["fetch", "-q", "-o", str(tmp_path / "genomes"), "--url", server.url, *arguments]
    assert cli.run(line) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("dnamamba: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
