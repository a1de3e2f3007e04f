import gzip
import io
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dnamamba import cli
from dnamamba.alphabet import encode
from dnamamba.data.bgzf import BgzfWriter
from dnamamba.data.genome import Genome
from dnamamba.data.variants import make_variant
from dnamamba.inference import score as library
from dnamamba.models import pretrained
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from tests.pipelines.runs import one_line, table

HEADER = (
    "##fileformat=VCFv4.2\n"
    '##INFO=<ID=AF,Number=A,Type=Float,Description="Frequency">\n'
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tone\n"
)
Score = Callable[..., Path]
Refused = Callable[..., str]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two contigs, the second with N in it."""
    rng = random.Random(1)
    path = tmp_path_factory.mktemp("score") / "small.fa"
    first = "".join(rng.choices("ACGTacgt", k=400))
    second = "".join(rng.choices("ACGT", k=150)) + "N" * 20 + "".join(rng.choices("ACGT", k=80))
    path.write_text(f">chr1\n{first}\n>chr2\n{second}\n")
    return path


@pytest.fixture(scope="session")
def lines(small: Path) -> list[str]:
    """Records of every kind, in no order, with INFO and a sample."""
    genome = Genome(small)

    def line(contig: str, position: int, size: int, alts: str, info: str = ".") -> str:
        ref = genome.sequence(f"{contig}:{position}-{position + size - 1}")
        alts = ",".join(alt.replace("@", ref[:1]) for alt in alts.split(","))
        return f"{contig}\t{position}\tv{position}\t{ref}\t{alts}\t29.50\tPASS\t{info}\tGT\t0/1\n"

    return [
        line("chr1", 200, 1, "@AC,<DEL>,*", "AF=0.1000,0,0;DB"),
        line("chr1", 1, 1, "@C"),
        line("chr1", 400, 1, "@C", "DB"),
        line("chr1", 97, 4, "@", "AF=1"),
        line("chr1", 60, 1, "@[chr2:5["),
        line("chr2", 148, 5, "@", "AF=1"),
        line("chr2", 150, 1, "@T"),
        line("chr2", 171, 1, "@GG"),
        line("chr2", 100, 1, "."),
        line("chr2", 100, 1, "@"),
    ]


SKIPPED = {
    0: ".,symbolic,star",
    4: "breakend",
    5: "n_in_ref",
    8: "no_alt",
    9: "identical",
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def to_file(text: str) -> Path:
        path = tmp_path / "in.vcf"
        path.write_text(text)
        return path

    return to_file


@pytest.fixture
def vcf(write: Callable[[str], Path], lines: list[str]) -> Path:
    return write(HEADER + "".join(lines))


@pytest.fixture
def score(small: Path, backbone: Path, tmp_path: Path) -> Score:
    """Score variants into a file."""

    def run(variants: Path | str, *more: str | Path, name: str = "out.vcf", code: int = 0) -> Path:
        output = tmp_path / name
        call = ["score", small, variants, "-m", backbone, "--context", "64", "-o", output]
        assert cli.run(list(map(str, [*call, "--device", "cpu", "-t", "1", *more]))) == code
        return output

    return run


@pytest.fixture
def refused(
    score: Score, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Refused:
    """Score with a fault, which leaves nothing and is told before a model is read."""

    def faulty(variants: Path | str, *more: str | Path, name: str = "x.vcf", code: int = 1) -> str:
        monkeypatch.setattr(pretrained, "load", None)
        output = score(variants, *more, name=name, code=code)
        assert not output.exists()
        return one_line(capsys)

    return faulty


def info_of(path: Path) -> list[dict[str, str]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    cells = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return [dict(entry.partition("=")[::2] for entry in record[7].split(";")) for record in cells]


def test_a_vcf_comes_back_but_for_info_and_header(
    score: Score, vcf: Path, lines: list[str]
) -> None:
    found = score(vcf).read_text().splitlines(keepends=True)
    head, columns = HEADER.splitlines(keepends=True)[:-1], HEADER.splitlines(keepends=True)[-1]
    assert found[:2] == head
    assert [line[: len("##INFO=<ID=DNAMAMBA_LLR")] for line in found[2:5]] == [
        "##INFO=<ID=DNAMAMBA_LLR"
    ] * 3
    assert all("in nats" in line for line in found[2:5])
    assert found[5].startswith("##INFO=<ID=DNAMAMBA_SKIP,Number=A,Type=String")
    assert found[6] == (
        "##dnamamba_score=version 0.1.0; model small; context 64; horizon all; strands both; "
        "precision fp32\n"
    )
    assert found[7] == columns
    assert len(found[8:]) == len(lines)
    for ours, theirs in zip(found[8:], lines, strict=True):
        mine, given = ours.split("\t"), theirs.split("\t")
        assert [*mine[:7], *mine[8:]] == [*given[:7], *given[8:]]
        assert mine[7].startswith("DNAMAMBA_LLR=" if given[7] == "." else f"{given[7]};DNAMAMBA_")


def test_every_allele_has_a_score_or_a_reason(
    score: Score, vcf: Path, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for row, info in enumerate(info_of(score(vcf))):
        alts = lines[row].split("\t")[4].split(",")
        reasons = info.get("DNAMAMBA_SKIP", ",".join("." * len(alts))).split(",")
        assert info.get("DNAMAMBA_SKIP") == SKIPPED.get(row)
        for key in ("DNAMAMBA_LLR", "DNAMAMBA_LLR_FWD", "DNAMAMBA_LLR_REV"):
            values = info[key].split(",")
            assert len(values) == len(alts)
            for value, reason in zip(values, reasons, strict=True):
                assert (value == ".") == (reason != ".")
                if value != ".":
                    float(value)
    err = capsys.readouterr().err
    assert (
        "10 records, 12 alleles: 6 scored, 6 skipped (breakend 1, identical 1, n_in_ref 1, "
        "no_alt 1, star 1, symbolic 1)"
    ) in err
    assert "variants a second, with small" in err


def test_a_table_says_the_same_as_a_vcf(
    score: Score, vcf: Path, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    info = info_of(score(vcf))
    rows = table(score(vcf, name="out.tsv").read_text())
    assert list(rows[0]) == [
        *("chrom", "pos", "id", "ref", "alt", "llr", "llr_forward", "llr_reverse", "note"),
    ]
    assert len(rows) == 12
    values = [value for record in info for value in record["DNAMAMBA_LLR"].split(",")]
    assert [row["llr"] or "." for row in rows] == values
    assert [row["alt"] for row in rows[:3]] == lines[0].split("\t")[4].split(",")
    assert [row["note"] for row in rows[:4]] == ["", "symbolic", "star", ""]
    for row in rows:
        if row["llr"]:
            mean = (float(row["llr_forward"]) + float(row["llr_reverse"])) / 2
            assert float(row["llr"]) == pytest.approx(mean, rel=1e-4)
    capsys.readouterr()
    packed = score(vcf, name="out.tsv.gz")
    assert gzip.decompress(packed.read_bytes()).decode().count("\n") == 13


def test_a_table_goes_to_stdout(
    small: Path, backbone: Path, vcf: Path, score: Score, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = score(vcf, name="out.tsv").read_text()
    capsys.readouterr()
    call = ["score", small, vcf, "-m", backbone, "--context", "64", "--device", "cpu", "-t", "1"]
    assert cli.run(list(map(str, call))) == 0
    assert capsys.readouterr().out == wanted


def test_scores_are_those_of_the_library(
    score: Score, vcf: Path, lines: list[str], small: Path, backbone: Path
) -> None:
    info = info_of(score(vcf))[:4]
    variants = []
    for line in lines[:4]:
        contig, position, _, *alleles = line.split("\t")[:5]
        ref, alt = (encode(text.split(",")[0].upper()).tobytes() for text in alleles)
        variants.append(make_variant(contig, int(position) - 1, ref, alt))
    found = library.score(pretrained.load(backbone), Genome(small), variants, context=64)  # type: ignore[arg-type]
    for record, strands in zip(info, found, strict=True):
        keys = ("DNAMAMBA_LLR_FWD", "DNAMAMBA_LLR_REV")
        written = [float(record[key].split(",")[0]) for key in keys]
        np.testing.assert_allclose(written, strands, atol=1e-5, rtol=1e-5)


def test_one_strand_alone(score: Score, vcf: Path) -> None:
    both, one = info_of(score(vcf)), info_of(score(vcf, "--strands", "forward", name="f.vcf"))
    for here, there in zip(both, one, strict=True):
        assert there["DNAMAMBA_LLR"] == there["DNAMAMBA_LLR_FWD"] == here["DNAMAMBA_LLR_FWD"]
        assert set(there["DNAMAMBA_LLR_REV"]) <= {".", ","}


def test_the_same_input_gives_the_same_bytes(score: Score, vcf: Path) -> None:
    first = score(vcf, name="a.vcf.gz").read_bytes()
    assert first == score(vcf, name="b.vcf.gz").read_bytes()
    assert first.endswith(b"\x1b\0\3\0\0\0\0\0\0\0\0\0")
    plain = score(vcf).read_bytes()
    assert gzip.decompress(first) == plain


def test_gzip_and_stdin_are_read(
    score: Score, vcf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = score(vcf).read_text()
    packed = tmp_path / "in.txt"
    packed.write_bytes(gzip.compress(vcf.read_bytes()))
    assert score(packed, name="gz.vcf").read_text() == plain
    handle = io.BytesIO()
    with BgzfWriter(handle) as out:
        out.write(vcf.read_bytes())
    handle.seek(0)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=handle))
    assert score("-", name="stdin.vcf").read_text() == plain


def test_order_is_that_of_the_file(
    score: Score, write: Callable[[str], Path], lines: list[str]
) -> None:
    here = info_of(score(write(HEADER + "".join(lines))))
    there = info_of(score(write(HEADER + "".join(reversed(lines))), name="back.vcf"))
    for one, other in zip(here, reversed(there), strict=True):
        assert one.keys() == other.keys()
        for a, b in zip(
            one["DNAMAMBA_LLR"].split(","), other["DNAMAMBA_LLR"].split(","), strict=True
        ):
            assert a == b == "." or float(a) == pytest.approx(float(b), abs=1e-5)


def test_a_vcf_without_records(score: Score, write: Callable[[str], Path]) -> None:
    found = score(write(HEADER)).read_text().splitlines()
    assert found[-1] == HEADER.splitlines()[-1]
    assert len(found) == 8


def test_a_horizon_is_held_against_the_whole_window(
    score: Score, vcf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = score(vcf, "--horizon", "5").read_text()
    assert "horizon 5 against 6 variants read to the window's end: median difference" in text
    assert "Pearson" in text
    assert "largest 0," not in text
    assert "horizon 5 against 6 variants" in capsys.readouterr().err
    far = score(vcf, "--horizon", "1000", name="far.vcf").read_text()
    assert "median difference 0 nats, largest 0, Pearson 1.0000, Spearman 1.0000" in far


def test_a_masked_model(
    score: Score, refused: Refused, vcf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        d_model=16, n_layer=2, objective="masked", bidirectional=True, symmetry="shared"
    )
    pretrained.save(LanguageModel(config), tmp_path / "masked", "")
    found = score(vcf, "-m", tmp_path / "masked", "--flank", "2")
    assert "; context 64; flank 2; strands both" in found.read_text()
    for record in info_of(found):
        assert record["DNAMAMBA_LLR_FWD"] == record["DNAMAMBA_LLR_REV"]
    message = refused(vcf, "-m", tmp_path / "masked", "--horizon", "all", code=2)
    assert "--horizon: a masked model reads each window whole" in message


def test_another_ref_is_refused_or_skipped(
    score: Score, refused: Refused, write: Callable[[str], Path], lines: list[str],
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    wrong = lines[2].split("\t")
    wrong[3] = {"A": "C"}.get(wrong[3].upper(), "A")
    path = write(HEADER + lines[0] + "\t".join(wrong) + lines[1])
    message = refused(path)
    assert "REF of 1 of 3 records is not what small.fa has (is it another assembly?): " in message
    assert f"line 5 (chr1:400 {wrong[3]}, genome " in message
    assert message.endswith("--skip-mismatches scores the others")
    monkeypatch.undo()
    found = info_of(score(path, "--skip-mismatches"))
    assert found[1]["DNAMAMBA_SKIP"] == "mismatch"
    assert found[2]["DNAMAMBA_LLR"] != "."
    assert "skipped (mismatch 1, star 1, symbolic 1)" in capsys.readouterr().err


def test_contigs_by_another_name_are_refused(
    refused: Refused, write: Callable[[str], Path], lines: list[str]
) -> None:
    bare = [line.removeprefix("chr") for line in lines]
    message = refused(write(HEADER + "".join(bare)))
    assert "not in small.fa: `1` (5 records; did you mean `chr1`?), `2` (5 records" in message
    assert "bcftools annotate --rename-chrs" in message


def test_what_has_scores_is_refused(score: Score, refused: Refused, vcf: Path) -> None:
    scored = score(vcf)
    message = refused(scored)
    assert "has DNAMAMBA_LLR, DNAMAMBA_LLR_FWD, DNAMAMBA_LLR_REV, DNAMAMBA_SKIP already" in message
    assert "bcftools annotate -x INFO/DNAMAMBA_LLR," in message


@pytest.mark.parametrize(
    ("more", "name", "message"),
    [
        ((), "out.bcf", "out.bcf: name it .vcf, .vcf.gz, .vcf.bgz, .tsv, .tsv.gz"),
        (("--context", "32"), "x.vcf", "--context 32: 64 to 1,048,576 bases"),
        (("--horizon", "some"), "x.vcf", "--horizon some: give a number of bases, or all"),
        (("--flank", "3"), "x.vcf", "--flank: is for masked models"),
        (("--device", "abacus"), "x.vcf", "--device abacus"),
    ],
)
def test_wrong_usage_is_refused(
    refused: Refused, vcf: Path, more: tuple[str, ...], name: str, message: str
) -> None:
    assert message in refused(vcf, *more, name=name, code=2)


def test_an_output_that_is_there_is_refused(
    score: Score, vcf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.vcf").write_text("precious")
    assert score(vcf, code=2).read_text() == "precious"
    assert "out.vcf: exists; --force replaces it" in one_line(capsys)
    scored = score(vcf, "--force").read_text()
    assert scored.startswith("##fileformat")
    assert score(vcf, "--force", name=vcf.name).read_text() == scored


def test_a_truncated_vcf_leaves_nothing(refused: Refused, tmp_path: Path, vcf: Path) -> None:
    handle = io.BytesIO()
    with BgzfWriter(handle) as out:
        out.write(vcf.read_bytes())
    path = tmp_path / "cut.vcf.gz"
    path.write_bytes(handle.getvalue()[:-28])
    assert "truncated BGZF" in refused(path)
    path.write_bytes(handle.getvalue()[:-100])
    assert "cut.vcf.gz" in refused(path)


def test_help_says_what_a_score_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["score", "-h"]) == 0
    out = capsys.readouterr().out
    assert "natural logarithm" in out
    assert "[all up to --context 16384, else 4096]" in " ".join(out.split())


@pytest.mark.real
@pytest.mark.slow
def test_records_of_clinvar_come_out(shared_data: Path, tmp_path: Path, backbone: Path) -> None:
    (tmp_path / "hg38.fa.gz").write_bytes((shared_data / "hg38_chr17_to_43.6M.fa.gz").read_bytes())
    text = gzip.decompress((shared_data / "clinvar_BRCA1_GRCh38.vcf.gz").read_bytes()).decode()
    some = tmp_path / "some.vcf"
    some.write_text("".join(text.splitlines(keepends=True)[:306]))
    call = [
        *(sys.executable, "-m", "dnamamba", "score", tmp_path / "hg38.fa.gz", some),
        *("-m", backbone, "--context", "256", "--horizon", "16", "-o", tmp_path / "out.vcf"),
    ]
    subprocess.run(list(map(str, call)), check=True)
    assert len(info_of(tmp_path / "out.vcf")) == 300
