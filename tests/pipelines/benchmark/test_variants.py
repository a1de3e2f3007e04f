"""`dnamamba benchmark variants`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dnamamba import cli
from dnamamba.data.store import Store, open_store
from dnamamba.data.variants import Variant
from dnamamba.errors import InputError, UsageError
from dnamamba.pipelines.benchmark.labelled_variants import (
    Condition,
    Labelled,
    baseline,
    kind_of,
)
from dnamamba.pipelines.benchmark.variants import COLUMNS, LOCUS, benchmark_variants
from tests.pipelines.runs import one_line, table

HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
GENOME = "ACGT" * 700
"""Every C is one of a CpG."""


@pytest.fixture
def genome(tmp_path: Path, write_fasta: Callable[..., Path]) -> Path:
    return write_fasta(tmp_path / "g.fa", {"one": GENOME, "two": "CATG"})


@pytest.fixture
def store(genome: Path) -> Store:
    return open_store(genome)


def write_vcf(path: Path, *lines: str) -> Path:
    path.write_text(HEADER + "".join(f"one\t{line}\n" for line in lines))
    return path


def run(genome: Path, vcf: Path, model: Path, *more: str) -> int:
    command = ["benchmark", "variants", genome, vcf, "-m", model, "--context", "64", "-t", "1"]
    labels = ["--positive", "L=bad", "--negative", "L=good", "--device", "cpu"]
    return cli.run([*map(str, command), *labels, *more])


def test_rows_of_each_kind_group_and_predictor(
    genome: Path, tmp_path: Path, backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Transversions are bad but for one, transitions at CpG good; some have no label."""
    lines = [
        f"{2 + 4 * at}\t.\tC\tA,T\t.\t.\tL=bad,good;MC={'ab'[at % 2]}" for at in range(300, 320)
    ]
    lines += ["6\t.\tC\tG\t.\t.\tL=good", "10\t.\tC\tG\t.\t.\tL=other", "14\t.\tC\t*\t.\t.\tL=bad"]
    lines += ["17\t.\tAC\tA\t.\t.\tL=bad"]
    vcf = write_vcf(tmp_path / "x.vcf", *lines)
    assert run(genome, vcf, backbone, "--by", "MC") == 0
    captured = capsys.readouterr()
    said = "44 alleles: 21 positive, 21 negative; left out: neither label 1, star 1"
    assert said in captured.err
    assert tuple(captured.out.splitlines()[0].split("\t")) == COLUMNS
    rows = table(captured.out)
    predictors = ("baseline", f"{backbone.name}, untrained", backbone.name)
    groups = [("substitution", group) for group in ("all", "a", "b", "none")]
    assert [(row["kind"], row["group"], row["predictor"]) for row in rows] == [
        (*group, name) for group in [*groups, ("deletion", "all")] for name in predictors
    ]
    first = rows[0]
    assert (first["positive"], first["negative"], first["loci"]) == ("20", "21", "2")
    assert float(first["auroc"]) == pytest.approx((20 * 20 + 10) / (20 * 21))
    assert first["gain"] == ""
    for row in rows[1:3]:
        assert float(row["low"]) <= float(row["auroc"]) <= float(row["high"])
        gain = float(row["auroc"]) - float(first["auroc"])
        assert float(row["gain"]) == pytest.approx(gain, abs=1e-5)
    assert {row["auroc"] for row in rows[9:]} == {""}, "too few of one label"
    assert (rows[12]["positive"], rows[12]["negative"]) == ("1", "0")


def test_scores_are_those_of_dnamamba_score(
    genome: Path, tmp_path: Path, backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    lines = [
        f"{place + 1}\t.\t{GENOME[place]}\t{'A' if GENOME[place] != 'A' else 'C'}\t.\t.\tL={label}"
        for place, label in zip(
            random.choice(2000, 40, replace=False), ["bad", "good"] * 20, strict=True
        )
    ]
    vcf = write_vcf(tmp_path / "x.vcf", *lines)
    assert run(genome, vcf, backbone, "-q") == 0
    found = table(capsys.readouterr().out)[-1]
    command = ["score", genome, vcf, "-m", backbone, "--context", "64", "--device", "cpu", "-q"]
    assert cli.run([*map(str, command), "-t", "1"]) == 0
    scores = [float(row["llr"]) for row in table(capsys.readouterr().out)]
    bad, good = scores[::2], scores[1::2]
    wanted = np.mean([(one < other) + (one == other) / 2 for one in bad for other in good])
    assert float(found["auroc"]) == pytest.approx(wanted, abs=1e-5)


def test_the_baseline_knows_cpg(store: Store) -> None:
    codes = {letter: bytes([code]) for code, letter in enumerate("ACGT")}

    def at(contig: str, place: int, alt: str) -> float:
        return baseline(Variant(contig, place, place + 1, codes[alt]), store)

    assert [at("one", 1, alt) for alt in "TAG"] == [0, 2, 2]
    assert [at("one", 2, alt) for alt in "ACT"] == [0, 2, 2]
    assert (at("one", 0, "G"), at("one", 3, "C")) == (1, 1)
    assert (at("two", 0, "T"), at("two", 3, "A")) == (1, 1), "at either end, and no CpG"
    assert baseline(Variant("one", 5, 5, b"\0\1\2"), store) == 3
    assert baseline(Variant("one", 5, 9, b"\3"), store) == 3


def test_kinds() -> None:
    kinds = [
        kind_of(Variant("one", 5, end, alt))
        for end, alt in ((6, b"\0"), (5, b"\0"), (7, b""), (7, b"\0\1"), (8, b"\0"))
    ]
    assert kinds == ["substitution", "insertion", "deletion", "other", "other"]


def test_loci_are_kilobases() -> None:
    """Alleles of one kilobase are drawn together, of whatever contig by its own count."""
    places = [(contig, place) for contig in "ab" for place in (0, LOCUS - 1, LOCUS)] * 5
    variants = [Variant(contig, place, place + 1, b"\0") for contig, place in places]
    labelled = Labelled(variants, np.arange(30) % 2 == 0, ["none"] * 30)
    (row,) = benchmark_variants(labelled, {"baseline": np.arange(30.0)}, 0)
    assert (row.loci, row.positive, row.negative) == (4, 15, 15)


def test_conditions() -> None:
    assert Condition.read("MC=a,b").holds("b")
    assert not Condition.read("MC=a,b").holds("a,b")
    assert not Condition.read("MC=a").holds(None)
    below = Condition.read("AF<0.01")
    assert [below.holds(text) for text in ("0.001", "1e-3", "0.01", None)] == [
        *(True, True),
        *(False, False),
    ]
    assert Condition.read("AF > 0.5").holds("0.6")
    with pytest.raises(InputError, match=r"AF='rare' is no number to compare with 0\.01"):
        below.holds("rare")
    for text in ("AF", "AF<rare", "<1", "", "AF!1"):
        with pytest.raises(UsageError, match="is no condition on INFO"):
            Condition.read(text)


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["2\t.\tC\tA\t.\t.\tL=good"], "no allele that can be scored is positive: see --positive"),
        (["2\t.\tC\tA\t.\t.\tL=bad"], "no allele that can be scored is negative: see --negative"),
        (["2\t.\tG\tA\t.\t.\tL=bad"], "REF of 1 of 1 records is not what"),
    ],
)
def test_what_is_refused(
    lines: list[str],
    fault: str,
    genome: Path,
    tmp_path: Path,
    backbone: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(genome, write_vcf(tmp_path / "x.vcf", *lines), backbone) != 0
    assert fault in one_line(capsys)


def test_an_allele_has_one_label(
    genome: Path, tmp_path: Path, backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vcf = write_vcf(tmp_path / "x.vcf", "2\t.\tC\tA\t.\t.\tL=bad;M=1")
    assert run(genome, vcf, backbone, "--negative", "M>0") != 0
    assert "line 3: allele 1 is positive and negative, too" in one_line(capsys)
