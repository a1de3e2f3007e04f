import gzip
import io
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnamamba.data.annotation import BedRecord, BedTable
from dnamamba.data.gtf import Feature, read_gtf
from dnamamba.data.region import Region
from dnamamba.errors import InputError

LENGTHS = {"chr1": 1000, "chr2": 500}


def line(type_: str, start: int, end: int, attributes: str, strand: str = "+") -> str:
    return f"chr1\tHAVANA\t{type_}\t{start}\t{end}\t.\t{strand}\t.\t{attributes}\n"


GENCODE = (
    "##description: evidence-based annotation\n"
    + line("gene", 101, 400, 'gene_id "E1"; gene_type "lncRNA"; gene_name "ONE"; level 2;')
    + line(
        "transcript",
        101,
        300,
        'gene_id "E1"; transcript_id "T1"; gene_type "lncRNA"; gene_name "ONE";',
    )
    + line(
        "exon",
        101,
        150,
        'gene_id "E1"; transcript_id "T1"; gene_type "lncRNA"; gene_name "ONE"; exon_number 1;',
    )
    + line("CDS", 110, 150, 'gene_id "E1"; transcript_id "T1";')
    + line(
        "exon",
        201,
        300,
        'gene_id "E1"; transcript_id "T1"; gene_type "lncRNA"; gene_name "ONE"; exon_number 2;',
    )
    + line(
        "transcript",
        101,
        400,
        'gene_id "E1"; transcript_id "T2"; gene_type "lncRNA"; gene_name "ONE";',
    )
    + line(
        "transcript",
        121,
        400,
        'gene_id "E1"; transcript_id "T3"; gene_type "lncRNA"; gene_name "ONE";',
    )
    + line("gene", 101, 401, 'gene_id "E2"; gene_type "protein_coding"; gene_name "TWO";', "-")
    + line(
        "transcript",
        101,
        401,
        'gene_id "E2"; transcript_id "T4"; gene_type "protein_coding"; gene_name "TWO";',
        "-",
    )
)
REFSEQ = (
    "#gtf-version 2.2\n"
    + line("gene", 101, 400, 'gene_id "ONE"; transcript_id ""; gene "ONE"; gene_biotype "lncRNA"; ')
    + line(
        "transcript",
        101,
        400,
        'gene_id "ONE"; transcript_id "NR_1.1"; gene "ONE"; product "x; gene_biotype y"; ',
    )
    + line("exon", 101, 150, 'gene_id "ONE"; transcript_id "NR_1.1"; gene "ONE"; exon_number "1"; ')
)
ENSEMBL_GFF3 = (
    "##gff-version 3\n##sequence-region chr1 1 1000\n"
    + line("biological_region", 1, 9, "external_name=x")
    + line("ncRNA_gene", 101, 400, "ID=gene:E1;Name=O%3BNE;biotype=lncRNA;gene_id=E1;version=2")
    + line(
        "lnc_RNA",
        101,
        400,
        "ID=transcript:T1;Parent=gene:E1;Name=O%3BNE-201;biotype=retained;transcript_id=T1",
    )
    + line("exon", 101, 150, "Parent=transcript:T1;Name=X1;exon_id=X1;rank=1")
    + "###\n##FASTA\n>chr1\nACGT\n"
)
REFSEQ_GFF3 = (
    "##gff-version 3\n"
    + line("exon", 101, 150, "ID=exon-NR_1.1-1;Parent=rna-NR_1.1,rna-other;gbkey=ncRNA")
    + line("lnc_RNA", 101, 400, "ID=rna-NR_1.1;Parent=gene-ONE;gbkey=ncRNA")
    + line("pseudogene", 101, 400, "ID=gene-ONE;Name=ONE;gbkey=Gene;gene_biotype=lncRNA")
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.gtf"


def read(path: Path, text: str, feature: Feature) -> BedTable:
    path.write_text(text)
    return read_gtf(path, feature, LENGTHS, "x.fa")


def test_genes(path: Path) -> None:
    table = read(path, GENCODE, "gene")
    assert list(table) == [
        BedRecord(Region("chr1", 100, 400), "ONE", "", ("E1", "ONE", "lncRNA"), 2),
        BedRecord(Region("chr1", 100, 401, "-"), "TWO", "", ("E2", "TWO", "protein_coding"), 9),
    ]
    assert list(table.columns) == ["name", "gene_id", "gene_name", "gene_type"]
    assert table.names == ["ONE", "TWO"]


def test_exons(path: Path) -> None:
    table = read(path, GENCODE, "exon")
    assert list(table) == [
        BedRecord(Region("chr1", 100, 150), "ONE", "", ("E1", "ONE", "lncRNA", "T1", "1"), 4),
        BedRecord(Region("chr1", 200, 300), "ONE", "", ("E1", "ONE", "lncRNA", "T1", "2"), 6),
    ]
    assert table.typed_columns()["exon_number"].tolist() == [1, 2]


def test_starts_of_transcription_are_given_once_for_each_gene(path: Path) -> None:
    table = read(path, GENCODE, "tss")
    assert list(table) == [
        BedRecord(Region("chr1", 100, 101), "ONE", "", ("E1", "ONE", "lncRNA", "T1"), 3),
        BedRecord(Region("chr1", 120, 121), "ONE", "", ("E1", "ONE", "lncRNA", "T3"), 8),
        BedRecord(
            Region("chr1", 400, 401, "-"), "TWO", "", ("E2", "TWO", "protein_coding", "T4"), 10
        ),
    ]


def test_two_genes_may_start_at_one_base(path: Path) -> None:
    text = "".join(
        line("transcript", 5, 9, f'gene_id "{gene}"; transcript_id "T";') for gene in "AB"
    )
    assert read(path, text, "tss").columns["gene_id"] == ["A", "B"]


def test_a_gene_without_transcripts_starts_itself(path: Path) -> None:
    text = (
        line("gene", 11, 20, 'gene_id "tRNA";')
        + line("transcript", 13, 20, 'gene_id "tRNA"; transcript_id "T1";')
        + line("gene", 31, 40, 'gene_id "thrA";', "-")
        + line("CDS", 31, 40, 'gene_id "thrA"; transcript_id "unassigned";', "-")
    )
    table = read(path, text, "tss")
    assert [record.region for record in table] == [
        Region("chr1", 12, 13),
        Region("chr1", 39, 40, "-"),
    ]
    assert table.columns["transcript_id"] == ["T1", ""]


@pytest.mark.parametrize(
    ("text", "name"), [(REFSEQ, "ONE"), (ENSEMBL_GFF3, "O;NE"), (REFSEQ_GFF3, "ONE")]
)
def test_other_spellings_and_parents(path: Path, text: str, name: str) -> None:
    gene_id = "E1" if text is ENSEMBL_GFF3 else "ONE"
    transcript_id = "T1" if text is ENSEMBL_GFF3 else "NR_1.1"
    number = "" if text is REFSEQ_GFF3 else "1"
    extra = (gene_id, name, "lncRNA", transcript_id, number)
    for feature, width, end in (("gene", 3, 400), ("tss", 4, 101), ("exon", 5, 150)):
        (record,) = read(path, text, feature)
        assert record.region == Region("chr1", 100, end)
        assert record.name == name
        assert record.extra == extra[:width]


def test_parts_of_transcripts_are_none(path: Path) -> None:
    text = (
        line("gene", 11, 90, "ID=g;Name=mir1")
        + line("primary_transcript", 11, 90, "ID=p;Parent=g")
        + line("miRNA", 31, 50, "ID=m;Parent=p")
        + line("exon", 31, 50, "Parent=m")
        + line("transcription_end_site", 90, 90, "Parent=g")
    )
    (record,) = read(path, text, "tss")
    assert record.region == Region("chr1", 10, 11)
    (record,) = read(path, text, "exon")
    assert record.name == "mir1"


def test_flybase(path: Path) -> None:
    both = 'gene_id "FBgn1"; gene_symbol "CG1"; '
    text = line("gene", 11, 90, both) + line("mRNA", 11, 90, both + 'transcript_id "FBtr1";')
    text += line("pseudogene", 21, 90, both + 'transcript_id "FBtr2";')
    assert read(path, text, "gene").names == ["CG1"]
    assert read(path, text, "tss").columns["transcript_id"] == ["FBtr1", "FBtr2"]


def test_transcripts_that_name_a_gene_without_a_line(path: Path) -> None:
    text = "".join(line("mRNA", 11, 90, f"ID=Transcript:{name};gene_id=G1") for name in "ab")
    table = read(path, text, "tss")
    assert table.columns["transcript_id"] == ["a"]
    assert table.names == ["G1"]


def test_lines_that_are_their_own_ancestors(path: Path) -> None:
    text = line("mRNA", 11, 90, "ID=a;Parent=b") + line("mRNA", 11, 90, "ID=b;Parent=a")
    text += line("exon", 11, 90, "Parent=a")
    assert read(path, text, "exon").columns["transcript_id"] == ["a"]


def test_quoted_values_hold_anything_but_quotes(path: Path) -> None:
    text = line("gene", 1, 9, 'note "a; gene_name b"; gene_id "G 1;x=y"; gene_name "it\'s; one";')
    (record,) = read(path, text, "gene")
    assert record.extra == ("G 1;x=y", "it's; one", "")


def test_bare_values_and_no_last_semicolon(path: Path) -> None:
    (record,) = read(path, line("gene", 1, 9, "gene_id G1; gene_name ONE"), "gene")
    assert record.extra == ("G1", "ONE", "")


def test_a_name_of_last_resort(path: Path) -> None:
    assert read(path, line("gene", 1, 9, 'gene_id "G1";'), "gene").names == ["G1"]
    assert read(path, line("mRNA", 1, 9, "ID=mRNA:T1"), "tss").names == ["T1"]


def test_crlf_gzip_and_stdin(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = list(read(path, GENCODE, "exon"))
    content = gzip.compress(GENCODE.replace("\n", "\r\n").encode())
    path.write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert list(read_gtf(path, "exon")) == list(read_gtf(Path("-"), "exon")) == wanted


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("chr1\t0\t10\n", "not GTF: nine columns parted by tabs are wanted: line 2"),
        (line("gene", 0, 10, "gene_id g"), "no whole numbers from 1 on: line 2 ('0' to '10')"),
        (line("gene", 20, 19, "gene_id g"), "start lies behind end: line 2 (20 to 19)"),
        (line("gene", 1, 9, "gene_id g", "plus"), "strand is none of + - . ?: line 2 ('plus')"),
        (line("gene", 1, 9, "g1"), "no gene_id among the attributes: line 2 ('g1')"),
        (line("gene", 1, 1001, "gene_id g"), "to be cut): line 2 (to 1,001, and chr1 has"),
        (line("gene", 1, 9, "gene_id g")[3:], "not in x.fa: `1` (1 line; did you mean `chr1`?)"),
    ],
)
def test_faults_name_file_and_line(path: Path, bad: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(path, line("gene", 1, 1000, "gene_id g") + bad, "gene")
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_faults_make_one_error(path: Path) -> None:
    bad = [line("exon", 1, 2000, "gene_id g"), line("exon", 5, 1, "gene_id g"), "x\n"]
    bad += [line("exon", 1, 9, "gene_id g").replace("chr1", name) for name in ("1", "2")]
    with pytest.raises(InputError) as caught:
        read(path, "".join(bad * 100), "exon")
    message = str(caught.value)
    assert message.count(" and 95 more") == 3
    assert "`1` (100 lines; did you mean `chr1`?), `2` (100 lines; did you mean" in message


def test_lines_of_other_features_need_not_fit(path: Path) -> None:
    text = GENCODE + line("exon", 1, 9000, "gene_id g")
    assert len(read(path, text, "gene")) == 2


def test_a_strand_that_no_start_can_do_without(path: Path) -> None:
    for strand in ".?":
        text = line("transcript", 5, 9, "gene_id g; transcript_id t", strand)
        assert read(path, text + line("exon", 5, 9, "gene_id g"), "exon").strands == ["+"]
        with pytest.raises(InputError, match=r"no start of transcription: line 1"):
            read(path, text, "tss")
    assert read(path, line("gene", 5, 9, "gene_id g", "?"), "gene").strands == ["."]


@pytest.mark.parametrize(
    ("text", "feature", "message"),
    [
        (
            REFSEQ.replace("\tgene\t", "\tx\t"),
            "gene",
            "x.gtf: no gene: it has x (1), transcript (1), exon (1); choose --feature exon or tss",
        ),
        (
            line("gene", 1, 9, "gene_id g") * 1200,
            "exon",
            "no exon: it has gene (1,200); choose --feature gene or tss",
        ),
        (line("CDS", 1, 9, "gene_id g"), "tss", "no tss: it has CDS (1)"),
        ("# nothing\n", "gene", "no gene: the file has no features"),
    ],
)
def test_a_file_without_the_feature(path: Path, text: str, feature: Feature, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(path, text, feature)
    assert str(caught.value).endswith(message)


spans = st.tuples(st.integers(1, 900), st.integers(0, 100), st.sampled_from("+-"))


@given(st.lists(spans, min_size=1, unique_by=lambda span: span[0]))
def test_coordinates_convert_exactly(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, str]]
) -> None:
    path = tmp_path_factory.mktemp("gtf") / "x.gtf"
    text = "".join(
        line(type_, start, start + more, f"gene_id g{start}; transcript_id t", strand)
        for start, more, strand in rows
        for type_ in ("gene", "transcript", "exon")
    )
    for feature in get_args(Feature):
        for record, (start, more, strand) in zip(read(path, text, feature), rows, strict=True):
            region = record.region
            assert region.strand == strand
            inside = range(start, start + more + 1)
            if feature == "tss":
                inside = inside[:1] if strand == "+" else inside[-1:]
            assert [at + 1 for at in range(region.start, region.end)] == list(inside)
            assert str(region).startswith(f"chr1:{inside[0]}-{inside[-1]}")
