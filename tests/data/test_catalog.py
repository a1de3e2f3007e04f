import re
from pathlib import Path

import pytest

from dnamamba.data.catalog import (
    ASSEMBLIES,
    SOURCES,
    check_chromosomes,
    choose_contigs,
    find_sources,
    recognise,
)
from dnamamba.data.store import open_store
from dnamamba.errors import InputError, UsageError

GRCH38, GRCH37, CHM13 = ASSEMBLIES
LABELS = list(GRCH38.lengths)


def ucsc(assembly: dict[str, int]) -> dict[str, int]:
    return {f"chr{label}": length for label, length in assembly.items()}


def renamed(lengths: dict[str, int], names: list[str]) -> dict[str, int]:
    return dict(zip(names, lengths.values(), strict=True))


CHM13_GENBANK = [*(f"CP{68277 - i:06d}.2" for i in range(23)), "CP086569.2"]
GRCH38_REFSEQ = [
    f"NC_{i:06d}.{version}"
    for i, version in enumerate(
        [
            11,
            12,
            12,
            12,
            10,
            12,
            14,
            11,
            12,
            11,
            10,
            12,
            11,
            9,
            10,
            10,
            11,
            10,
            10,
            11,
            9,
            11,
            11,
            10,
        ],
        start=1,
    )
]


def test_lengths_add_up() -> None:
    """The totals that UCSC and NCBI print for the 24 chromosomes."""
    assert [sum(assembly.lengths.values()) for assembly in ASSEMBLIES] == [
        3_088_269_832,
        3_095_677_412,
        3_117_275_501,
    ]


@pytest.mark.parametrize(
    ("lengths", "name"),
    [
        (ucsc(dict(GRCH38.lengths)), "GRCh38"),
        (ucsc(dict(GRCH37.lengths)), "GRCh37"),
        (ucsc(dict(CHM13.lengths)), "T2T-CHM13v2.0"),
        (dict(GRCH37.lengths) | {"MT": 16_569, "GL000207.1": 4_262}, "GRCh37"),
        (renamed(dict(GRCH38.lengths), GRCH38_REFSEQ), "GRCh38"),
        (renamed(dict(GRCH38.lengths), [f"CM{663 + i:06d}.2" for i in range(24)]), "GRCh38"),
        (renamed(dict(GRCH37.lengths), [f"CM{663 + i:06d}.1" for i in range(24)]), "GRCh37"),
        (renamed(dict(CHM13.lengths), CHM13_GENBANK), "T2T-CHM13v2.0"),
        (
            renamed(dict(CHM13.lengths), [f"NC_{60925 + i:06d}.1" for i in range(24)]),
            "T2T-CHM13v2.0",
        ),
        ({"20": 63_025_520}, "GRCh37"),
        ({"chr17": 43_600_000}, None),
        (ucsc(dict(GRCH38.lengths)) | {"chr1": 248_956_421}, None),
        ({"chrM": 16_569}, None),
        ({"2L": 23_000_000}, None),
    ],
)
def test_recognise(lengths: dict[str, int], name: str | None) -> None:
    found = recognise(lengths)
    assert (found.name if found else None) == name


def test_primary_chromosomes_by_default() -> None:
    others = {
        "chrM": 16_569,
        "chr1_KI270706v1_random": 175_055,
        "chrUn_KI270302v1": 2_274,
        "chr6_GL000250v2_alt": 4_672_374,
        "chrEBV": 171_823,
        "HLA-A*01:01:01:01": 3_503,
    }
    chosen, note = choose_contigs(others | ucsc(dict(GRCH38.lengths)), None, "hg38.fa")
    assert chosen == [f"chr{label}" for label in LABELS]
    assert note == (
        "hg38.fa: taking the primary chromosomes of GRCh38 (24 contigs); left out 6 others of "
        "5,041,598 bases (chrM, chr1_KI270706v1_random, ...); --contigs '*' takes all"
    )


APE = ["1", "2A", "2B", *map(str, range(3, 23)), "X", "Y"]


@pytest.mark.parametrize(
    ("primary", "others"),
    [
        ([f"chr{label}" for label in APE], ["chrM", "chr1_NW_015973833v1_random", "chrUn_NW_1v1"]),
        ([f"chr{i}" for i in [*range(1, 24), "X", "Y"]], ["chrM"]),
        (
            [f"chr{i}_mat_hsa{i}" for i in range(1, 24)] + ["chrX_mat_hsaX"],
            ["chrM", "random_utig1"],
        ),
        ([f"NC_0{72398 + i}.2" for i in range(25)], ["NC_001643.1", "NW_026622763.1"]),
        ([f"CM0{54434 + i}.2" for i in range(25)], ["JARQZF010000001.1"]),
    ],
)
def test_apes_by_the_names_of_their_chromosomes(primary: list[str], others: list[str]) -> None:
    lengths = dict.fromkeys(primary, 100_000_000) | dict.fromkeys(others, 16_000)
    chosen, note = choose_contigs(lengths, None, "ape.fa")
    assert chosen == primary
    assert "by its name" in note
    assert f"left out {len(others)} others" in note


@pytest.mark.parametrize(
    "lengths",
    [
        {"U00096.3": 4_641_652},
        {"chr2L": 23_513_712, "chr2R": 25_286_936, "chrUn_CP007071v1": 19_956},
        {"human_mt": 16_569, "chimpanzee_mt": 16_554},
        {"chr20": 64_444_167, "chr21": 46_709_983},
    ],
)
def test_all_contigs_elsewhere(lengths: dict[str, int]) -> None:
    assert choose_contigs(lengths, None, "x.fa") == (list(lengths), "")


GENOME = {"chr1": 5, "chr2": 5, "chr20": 5, "HLA-A*01": 5, "HLA-A*01x": 5}


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (["chr20", "chr1"], ["chr1", "chr20"]),
        (["chr2*"], ["chr2", "chr20"]),
        (["chr?", "chr1"], ["chr1", "chr2"]),
        (["HLA-A*01"], ["HLA-A*01"]),
        (["*"], list(GENOME)),
    ],
)
def test_names_and_globs_in_the_genomes_order(patterns: list[str], chosen: list[str]) -> None:
    assert choose_contigs(GENOME, patterns, "x.fa") == (chosen, "")


def test_a_pattern_that_matches_nothing() -> None:
    with pytest.raises(UsageError, match=r"`20` is not in x\.fa; did you mean `chr20`\?"):
        choose_contigs(GENOME, ["chr1", "20"], "x.fa")
    with pytest.raises(UsageError, match="no name given"):
        choose_contigs(GENOME, [], "x.fa")


def test_sources() -> None:
    assert len({source.url for source in SOURCES}) == len(SOURCES) == 7
    for source in SOURCES:
        assert source.url.startswith("https://")
        assert re.fullmatch(r"GCA_[0-9]{9}\.[0-9]+", source.accession)
        assert re.fullmatch(r"[0-9a-f]{32}", source.md5 or "0" * 32)
    recognised = {assembly.name: assembly.accession for assembly in ASSEMBLIES}
    for source in find_sources(["human"]):
        assert recognised[source.name] == source.accession
    assert find_sources(["mPonPyg2-v2.0"])[0].url == (
        "https://ftp.ncbi.nlm.nih.gov/genomes/all/GCA/028/885/625/"
        "GCA_028885625.2_NHGRI_mPonPyg2-v2.0_pri/GCA_028885625.2_NHGRI_mPonPyg2-v2.0_pri_genomic.fna.gz"
    )


def test_great_apes_are_one_assembly_a_species() -> None:
    species = [source.species for source in find_sources(["great-apes"])]
    assert len(species) == len(set(species)) == 6


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["grch38"], ["GRCh38"]),
        (["GCA_028858775.2", "GCA_028858775", "mPanTro3"], ["mPanTro3-v2.0"]),
        (["mGorGor1-v2.0", "human"], ["mGorGor1-v2.0", "GRCh38", "T2T-CHM13v2.0"]),
        (["human", "great-apes"], [source.name for source in SOURCES]),
    ],
)
def test_find_sources(names: list[str], found: list[str]) -> None:
    assert [source.name for source in find_sources(names)] == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mPanTro4", "mPanTro4: not in the catalogue; did you mean `mpantro3`?"),
        ("great-ape", "did you mean `great-apes`?"),
        ("GCA_028858775.3", "it pins GCA_028858775.2"),
        ("zebrafish", "not in the catalogue; `dnamamba fetch` lists it"),
    ],
)
def test_a_source_that_is_unknown(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        find_sources(["human", name])


def test_chromosomes_of_what_was_fetched() -> None:
    grch38, ape = find_sources(["GRCh38", "mPanTro3-v2.0"])
    lengths = ucsc(dict(GRCH38.lengths))
    assert check_chromosomes(grch38, lengths | {"chrEBV": 171_823})
    assert not check_chromosomes(ape, lengths)
    with pytest.raises(InputError, match="chromosome 2 of GRCh38 has 242,193,529 bases, and here"):
        check_chromosomes(grch38, lengths | {"chr2": 5})
    del lengths["chrY"]
    with pytest.raises(InputError, match=r"chromosome Y of GRCh38 .* here it is missing"):
        check_chromosomes(grch38, lengths)


@pytest.mark.real
def test_real_chromosome(shared_data: Path) -> None:
    lengths = open_store(shared_data / "human_chr20_GRCh37.fa.gz").lengths
    found = recognise(lengths)
    assert found is not None
    assert found.name == "GRCh37"
    assert choose_contigs(lengths, None, "chr20.fa") == (["20"], "")
