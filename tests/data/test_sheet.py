from pathlib import Path

import pytest

from dnamamba.data.sheet import Row, read_sheet
from dnamamba.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.fa", "b.fa"):
        (tmp_path / name).write_text(">x\nACGT\n")
    return tmp_path


def sheet(folder: Path, text: str) -> Path:
    path = folder / "sheet.tsv"
    path.write_text(text)
    return path


def test_tsv_and_csv(folder: Path) -> None:
    text = "# apes\nSpecies\tfasta\tsplit\tnote\nhuman\ta.fa\ttrain\tx\n\nchimp\tb.fa\t\t\n"
    wanted = [
        Row("human", folder / "a.fa", "train", None, 3),
        Row("chimp", folder / "b.fa", None, None, 5),
    ]
    assert read_sheet(sheet(folder, text)) == wanted
    assert read_sheet(sheet(folder, text.replace("\t", ","))) == wanted


def test_one_fasta_may_hold_several_species(folder: Path) -> None:
    text = 'species,fasta,region\nhuman,a.fa,chr1\nchimp,a.fa,"chr2:1,000-2,000"\n'
    assert [row.region for row in read_sheet(sheet(folder, text))] == ["chr1", "chr2:1,000-2,000"]


def test_a_species_may_have_several_fastas(folder: Path) -> None:
    text = "fasta,species\na.fa,human\nb.fa,human\nsheet.tsv,chimp\n"
    assert len(read_sheet(sheet(folder, text))) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty; a header with species and fasta"),
        ("species,path\nhuman,a.fa\n", "no column `fasta`; the header is species, path"),
        (
            "species;fasta\nhuman;a.fa\n",
            "tabs or commas part columns, and its first line has neither",
        ),
        (">chr1\nACGT\n", "it is a FASTA; a table is wanted"),
        ("species,fasta\nhuman,a.fa\nhuman,a.fa\n", ":3: the same sequence as line 2"),
        ("species,fasta\n,a.fa\n", ":2: the column `species` is empty"),
        ("species,fasta\nhuman\n", ":2: the column `fasta` is empty"),
        ("species,fasta\nUnsure,a.fa\n", ":2: species 'Unsure': a call of none"),
        ('species,fasta\n"a\tb",a.fa\n', "choose another name"),
        ("species,fasta,split\nhuman,a.fa,dev\n", ":2: split 'dev' is not one of train, valid"),
        (
            "species,fasta\nhuman,a.fa\nchimp,c.fa\n",
            ":3: there is no file .*c.fa; paths are relative",
        ),
        ("species,fasta\nhuman,a.fa\n", "1 species; two or more are wanted"),
        ("species,fasta\nhuman,a.fa\nchimp,a.fa\n", ":3: a.fa is chimp here and human in line 2"),
        ("species,fasta,region\nhuman,a.fa,x\nchimp,a.fa,\n", ":3: a.fa is chimp here and human"),
        ("species,fasta,region\nhuman,a.fa,\nchimp,a.fa,x\n", ":3: a.fa is chimp here and human"),
        ("species,fasta,region\nhuman,a.fa,x\nchimp,a.fa,x\n", ":3: a.fa is chimp here and human"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_sheet(sheet(folder, text))


def test_what_is_no_sheet_is_said(folder: Path) -> None:
    path = folder / "sheet.xlsx"
    path.write_bytes(b"PK\x03\x04\xff\xfe\x80")
    with pytest.raises(InputError, match="not a text file; a TSV or CSV is wanted"):
        read_sheet(path)
    with pytest.raises(InputError):
        read_sheet(folder / "none.tsv")
