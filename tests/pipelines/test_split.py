from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dnamamba.cli import run
from dnamamba.data.region import Region
from dnamamba.data.splits import Split
from dnamamba.data.store import open_store
from dnamamba.errors import DnamambaError
from dnamamba.pipelines.split import COLUMNS, choose_splits, require_apart


@pytest.fixture
def genome(tmp_path: Path, write_fasta: Callable[..., Path]) -> Path:
    rng = np.random.default_rng(0)
    records = {f"chr{i}": "".join(rng.choice(list("ACGT"), 3000)) for i in range(1, 5)}
    return write_fasta(tmp_path / "genome.fa", {**records, "tiny": "ACGT" * 10})


@pytest.fixture
def twin(tmp_path: Path, genome: Path) -> Path:
    path = tmp_path / "twin.fa"
    path.write_text(genome.read_text())
    return path


def test_the_bed_goes_to_stdout_and_is_read_back(
    genome: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["split", str(genome), "--length", "100"]) == 0
    out, err = capsys.readouterr()
    path = tmp_path / "split.bed"
    assert run(["split", str(genome), "--length", "100", "-o", str(path)]) == 0
    assert capsys.readouterr().out == ""
    assert path.read_text() == out
    assert "held out 3 blocks of chr1" in err.replace("chr2,", "chr1").replace("chr3,", "chr1")
    assert run(["split", str(genome), "--length", "100", "--split", str(path)]) == 0
    assert capsys.readouterr().out == out


def test_the_audit_is_a_table(genome: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["split", str(genome), "--holdout", "chr2,chr4", "--length", "1k", "--audit"]) == 0
    out, err = capsys.readouterr()
    header, *lines = (line.split("\t") for line in out.splitlines())
    assert header == list(COLUMNS)
    train, valid = (dict(zip(header, line, strict=True)) for line in lines)
    assert (train["side"], train["regions"], train["bases"], train["n"]) == (
        *("train", "3", "6040"),
        "0",
    )
    assert (train["unreachable"], train["seen_mean"], train["seen_max"]) == ("40", "1", "1.49925")
    assert float(train["seen_min"]) == pytest.approx(6 / 4002, rel=1e-5)
    assert (valid["bases"], valid["reached_by_training"], valid["kmers_shared"]) == (
        *("6000", "0"),
        "0",
    )
    assert "one in 1 was looked at" in err
    assert "warning" not in err


def test_the_audit_warns_of_homologous_genomes(
    genome: Path, twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bed = tmp_path / "split.bed"
    bed.write_text("chr1\t0\t3000\tvalid\tgenome.fa\nchr1\t0\t3000\ttrain\ttwin.fa\n")
    saved = tmp_path / "saved.bed"
    command = ["split", str(genome), str(twin), "--split", str(bed), "--audit", "-o", str(saved)]
    assert run(command) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    (warning,) = (line for line in err.splitlines() if line.startswith("warning:"))
    assert "chr1 of genome.fa with chr1 of twin.fa 100 %" in warning
    assert "keep homologous contigs on one side" in warning
    assert set(saved.read_text().splitlines()) == set(bed.read_text().splitlines())


def test_held_out_bases_that_are_reached_are_named(genome: Path) -> None:
    store = open_store(genome)
    apart = Split((Region("chr1", 0, 200),), (Region("chr1", 200, 300),))
    overlapping = Split((Region("chr1", 0, 210),), (Region("chr1", 200, 300),))
    require_apart([store], [apart], 100)
    require_apart([store], [overlapping], 211)
    with pytest.raises(DnamambaError, match=r"reach held-out bases: chr1:201-210 of genome\.fa"):
        require_apart([store], [overlapping], 210)


def test_contigs_and_folds_together(genome: Path, tmp_path: Path) -> None:
    store = open_store(genome)
    bed = tmp_path / "split.bed"
    bed.write_text("chr1\t0\t500\ttrain\nchr2\t0\t500\ttrain\nchr1\t500\t900\ttest\n")
    splits, _ = choose_splits([store], length=100, split=bed, contigs=["chr1"])
    assert splits == [Split((Region("chr1", 0, 500),), (), (Region("chr1", 500, 900),))]


def test_a_contig_that_is_held_out_need_not_be_chosen(genome: Path) -> None:
    store = open_store(genome)
    splits, _ = choose_splits([store], length=100, holdout=["chr3"], contigs=["chr1"])
    assert splits == [Split((Region("chr1", 0, 3000),), (Region("chr3", 0, 3000),))]


def test_one_genome_may_be_held_out_as_a_whole(genome: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.fa"
    other.write_text(">x\n" + "ACGTT" * 100 + "\n")
    splits, _ = choose_splits([open_store(genome), open_store(other)], length=100, holdout=["x"])
    assert splits[0].valid == ()
    assert splits[1] == Split((), (Region("x", 0, 500),))


BAD = {
    "no such file": (["missing.fa"], 1, "missing.fa: no such file"),
    "unknown contig": (["{genome}", "--holdout", "Chr1"], 1, "did you mean `chr1`?"),
    "all held out": (
        ["{genome}", "--contigs", "chr1", "--holdout", "chr1"],
        *(2, "holding out chr1 would leave nothing to train on"),
    ),
    "window too long": (
        ["{genome}", "--length", "3001"],
        *(2, "genome.fa: no contig holds a window of 3,001 bases; the longest, chr1, has 3,000"),
    ),
    "window too long for a named hold-out": (
        ["{genome}", "--holdout", "chr1", "--length", "5k"],
        *(2, "the longest stretch, on chr2, has 3,000: choose --length 3000 or less"),
    ),
    "hold-out too short": (
        ["{genome}", "--holdout", "tiny"],
        *(2, "no window of 1,024 bases fits into what is held out"),
    ),
    "nothing to train on": (
        ["{genome}", "--contigs", "chr1", "--length", "2k"],
        *(2, "would leave nothing to train on: windows of 2,000 bases, and 3,000 bases to cut"),
    ),
    "nothing held out": (["{genome}", "--split", "{train}"], 2, "nothing is held out"),
    "overlapping sides": (
        ["{genome}", "--audit", "--split", "{overlap}"],
        *(1, "line 1 (train) and line 2 (valid) overlap at chr1:2,000"),
    ),
    "all N": (["{n}"], 1, "n.fa: nothing but N in a"),
    "both": (["{genome}", "--split", "{train}", "--holdout", "chr1"], 2, "give one of them"),
    "fraction": (["{genome}", "--fraction", "1"], 2, "--fraction"),
    "exists": (["{genome}", "-o", "{train}"], 2, "train.bed: exists; --force replaces it"),
    "two tables": (["{genome}", "--audit", "-o", "-"], 2, "write the BED to a file with -o"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_a_line(
    case: str, genome: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "train": "chr1\t0\t3000\ttrain\n",
        "overlap": "chr1\t0\t2000\ttrain\nchr1\t1999\t3000\tvalid\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.bed").write_text(text)
    (tmp_path / "n.fa").write_text(">a\n" + "N" * 5000 + "\n")
    places = {name: tmp_path / f"{name}.bed" for name in files}
    arguments, code, message = BAD[case]
    filled = [a.format(genome=genome, n=tmp_path / "n.fa", **places) for a in arguments]
    assert run(["split", *filled]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert (tmp_path / "train.bed").read_text() == files["train"]
