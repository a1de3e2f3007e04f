from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnamamba.alphabet import Codes, encode
from dnamamba.data.region import Region
from dnamamba.data.variants import (
    Alleles,
    Reason,
    Variant,
    make_variant,
    read_alleles,
    window_of,
)
from dnamamba.data.vcf import Record
from dnamamba.errors import InputError

A, C, G, T = (bytes([code]) for code in range(4))


class Genome:
    def __init__(self, contigs: Mapping[str, str]) -> None:
        self.contigs = {name: encode(bases) for name, bases in contigs.items()}
        self.lengths = {name: len(bases) for name, bases in contigs.items()}

    def fetch(self, region: Region) -> Codes:
        assert region.end <= self.lengths[region.contig]
        return self.contigs[region.contig][region.start : region.end]


#               1234567890123456
GENOME = Genome({"chr1": "ACGTacgtNNACGRTT", "chr2": "GGG"})


def read(*records: tuple[str, int, str, str]) -> Alleles:
    made = [
        Record(line, contig, position, ".", ref, tuple(alt.split(",")))
        for line, (contig, position, ref, alt) in enumerate(records, 10)
    ]
    return read_alleles(made, GENOME, "x.vcf", "x.fa")


@pytest.mark.parametrize(
    ("position", "ref", "alt", "variant"),
    [
        (1, "A", "C", Variant("chr1", 0, 1, C)),
        (16, "T", "A", Variant("chr1", 15, 16, A)),
        (2, "CGT", "CTT", Variant("chr1", 2, 3, T)),
        (2, "CG", "TA", Variant("chr1", 1, 3, T + A)),
        (2, "C", "CGG", Variant("chr1", 2, 2, G + G)),
        (2, "CGT", "C", Variant("chr1", 2, 4, b"")),
        (1, "AC", "C", Variant("chr1", 0, 1, b"")),
        (16, "T", "TC", Variant("chr1", 16, 16, C)),
        (5, "A", "g", Variant("chr1", 4, 5, G)),
        (5, "acg", "aTg", Variant("chr1", 5, 6, T)),
    ],
)
def test_what_alleles_share_is_cut_off(position: int, ref: str, alt: str, variant: Variant) -> None:
    found = read(("chr1", position, ref, alt))
    assert found.variants == [variant]
    assert found.reasons == [None]
    assert found.mismatched == 0


@pytest.mark.parametrize(
    ("position", "ref", "alt", "reason"),
    [
        (1, "A", "<DEL>", "symbolic"),
        (1, "A", "<*>", "symbolic"),
        (1, "A", "A[chr2:1[", "breakend"),
        (1, "A", "]chr2:1]A", "breakend"),
        (1, "A", "A.", "breakend"),
        (1, "A", ".A", "breakend"),
        (0, "N", ".[chr2:1[", "breakend"),
        (17, "N", "]chr2:3].", "breakend"),
        (1, "A", "*", "star"),
        (1, "A", ".", "no_alt"),
        (1, "A", "ANNA", "ambiguous"),
        (1, "A", "R", "ambiguous"),
        (1, "A", "a", "identical"),
        (8, "TN", "T", "n_in_ref"),
        (8, "N", "C", "n_in_ref"),
        (8, "TA", "T", "n_in_ref"),
        (14, "A", "C", "n_in_ref"),
        (1, "C", "A", "mismatch"),
        (1, "C", "<DEL>", "mismatch"),
        (0, "A", "C", "mismatch"),
        (16, "TA", "T", "mismatch"),
        (10**9, "A", "T", "mismatch"),
    ],
)
def test_what_cannot_be_scored_says_why(position: int, ref: str, alt: str, reason: Reason) -> None:
    found = read(("chr1", position, ref, alt))
    assert found.variants == []
    assert found.reasons == [reason]
    assert found.mismatched == (reason == "mismatch")


def test_each_allele_of_a_record_is_by_itself() -> None:
    found = read(("chr1", 3, "G", "A,*,GG,<DUP>,G"), ("chr2", 1, "G", "C"), ("chr1", 1, "A", "T"))
    assert found.reasons == [None, "star", None, "symbolic", "identical", None, None]
    assert [variant.contig for variant in found.variants] == ["chr1", "chr1", "chr2", "chr1"]
    assert found.records == 3
    assert found.skipped() == {"star": 1, "symbolic": 1, "identical": 1}


def test_all_contigs_that_the_genome_lacks_are_named() -> None:
    with pytest.raises(InputError) as caught:
        read(("1", 1, "C", "A"), ("chr1", 1, "A", "C"), ("1", 2, "C", "A"), ("X", 1, "A", "C"))
    assert str(caught.value) == (
        "x.vcf: not in x.fa: `1` (2 records; did you mean `chr1`?), `X` (1 record); "
        "bcftools annotate --rename-chrs renames contigs"
    )
    with pytest.raises(InputError, match=r"`NC_1` \(1 record\); it holds `chr1`, `chr2`"):
        read(("NC_1", 1, "A", "C"))


def test_mismatches_are_counted_and_the_first_are_shown() -> None:
    records = [("chr2", 1, "G", "C"), *[("chr1", 1, "CCCCC" * 9, "A")] * 12, ("chr1", 99, "A", "T")]
    found = read(*records)
    said = found.describe_mismatches("x.vcf", "x.fa")
    assert found.mismatched == 13
    assert said.startswith("x.vcf: REF of 13 of 14 records is not what x.fa has")
    assert "line 11 (chr1:1 CCCCCCCCCCCCCCCCCCCC..., genome ACGTACGTNNACGNTT), line 12" in said
    assert said.endswith(" and 3 more")
    assert "genome no base" in read(("chr1", 99, "A", "T")).mismatches[0]


@pytest.mark.parametrize(
    ("ref", "alt", "column"), [("A-", "A", "REF"), ("", "A", "REF"), (".", "A", "REF")]
)
def test_ref_that_is_no_sequence_is_refused(ref: str, alt: str, column: str) -> None:
    with pytest.raises(InputError, match=rf"x.vcf: line 10: {column} .* is no allele of letters"):
        read(("chr1", 1, ref, alt))


@pytest.mark.parametrize("alt", ["C,,G", "C,-", "C,é"])
def test_alt_that_is_no_sequence_is_refused(alt: str) -> None:
    with pytest.raises(InputError, match=r"x.vcf: line 10: ALT .* is no allele of letters"):
        read(("chr1", 1, "A", alt))


CODES = st.binary(max_size=8).map(lambda raw: bytes(byte % 4 for byte in raw))


@given(CODES, CODES)
def test_a_variant_makes_one_allele_of_the_other(ref: bytes, alt: bytes) -> None:
    variant = make_variant("x", 100, ref, alt)
    if variant is None:
        assert ref == alt
        return
    start, end = variant.start - 100, variant.end - 100
    assert ref[:start] + variant.alt + ref[end:] == alt
    inside = ref[start:end]
    if inside and variant.alt:
        assert inside[0] != variant.alt[0]
        assert inside[-1] != variant.alt[-1]


@given(st.integers(1, 5000), st.integers(64, 600), st.data())
def test_windows_hold_what_lies_around(length: int, context: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, length))
    end = data.draw(st.integers(start, length))
    first, last = window_of(Variant("x", start, end, b""), length, context)
    quarter = context // 4
    assert 0 <= first <= max(0, start - quarter)
    assert min(length, end + quarter) <= last <= length
    assert last - first <= context + (end - start)
    assert start - first < quarter + context // 2


def test_windows_lie_on_a_grid() -> None:
    found = [window_of(Variant("x", at, at + 1, b"\0"), 1000, 100) for at in range(0, 1000, 10)]
    assert np.unique(found, axis=0).tolist() == [
        [max(0, cell - 25), min(1000, cell + 75)] for cell in range(0, 1000, 50)
    ]
