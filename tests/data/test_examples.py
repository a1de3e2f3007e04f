import gzip
from pathlib import Path

import pytest

from dnamamba.alphabet import decode, encode
from dnamamba.data.examples import are_new, read_examples
from dnamamba.errors import InputError


def write(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "sequence,label\nACGT,a\nnnACg,b\n",
        "id\tlabel\tsequence\r\n1\ta\tACGT\r\n2\tb\tnnACg\r\n",
        '\ufefflabel,note,sequence\na,"x,y",ACGT\n\nb,,nnACg',
    ],
)
def test_columns_are_found_by_name(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    zipped = tmp_path / "table.csv.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    for each in (path, zipped):
        examples = read_examples(each)
        assert [decode(codes) for codes in examples.sequences] == ["ACGT", "nnACg"]
        assert examples.labels == ["a", "b"]
        assert len(examples) == 2


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty; a header with the columns' names is wanted"),
        ("seq,label\nA,b\n", "no column `sequence`; the header is seq, label"),
        ("sequence,lab\nA,b\n", "no column `label`"),
        ("sequence,label\nA,b\n\nAC\n", "line 4: 1 columns; the header has 2"),
        ("sequence,label\nA,b\n,b\n", "line 3: the column `sequence` is empty"),
        ("sequence,label\nA,\n", "line 2: the column `label` is empty"),
        (
            "sequence,label\nA,b\nACGX!,b\n",
            "line 3: no DNA: 'X' at position 4 is not a nucleotide code",
        ),
        (
            "sequence,label\nACGT,b\nQ,\n,b\nZ,b\n",
            "line 4: the column `sequence` is empty; line 3: the column `label` is empty; "
            "lines 3, 5: no DNA, the first: 'Q' at position 1",
        ),
    ],
)
def test_faults_are_told_with_their_line(text: str, fault: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=fault) as caught:
        read_examples(path)
    assert str(path) in str(caught.value)


def test_a_sequence_is_known_on_either_strand() -> None:
    train = [encode("ACGTT"), encode("AAA")]
    tested = [encode(text) for text in ("AACGT", "TTT", "ACGT", "acgtT", "AAAA")]
    assert are_new(tested, train).tolist() == [False, False, True, False, True]
