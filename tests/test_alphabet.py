import numpy as np
import pytest
from Bio.Data.IUPACData import ambiguous_dna_complement, ambiguous_dna_values
from hypothesis import given
from hypothesis import strategies as st

from dnamamba.alphabet import (
    BASE,
    COMPLEMENT,
    DECODE,
    ENCODE,
    INVALID,
    SOFT_MASK,
    N,
    decode,
    encode,
    reverse_complement,
)
from dnamamba.errors import InputError

IUPAC = sorted(set(ambiguous_dna_values) - {"X"})


def test_codes() -> None:
    assert encode("ACGTN").tolist() == [0, 1, 2, 3, 4]
    assert encode("acgtn").tolist() == [8, 9, 10, 11, 12]
    assert encode("Uu").tolist() == [3, 11]
    assert encode(b"").dtype == np.uint8


@pytest.mark.parametrize("letter", IUPAC)
def test_every_iupac_code_is_a_base_or_n(letter: str) -> None:
    (code,) = encode(letter)
    (masked,) = encode(letter.lower())
    assert code == ("ACGT".index(letter) if letter in "ACGT" else N)
    assert masked == code | SOFT_MASK
    assert masked & BASE == code


def test_what_is_no_nucleotide() -> None:
    letters = {chr(byte) for byte in np.flatnonzero(ENCODE != INVALID)}
    assert letters == {letter for one in [*IUPAC, "U"] for letter in (one, one.lower())}


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("ACGE", "'E' at position 4"),
        (b"AC\n", r"'\\n' at position 3"),
        ("A" * 1999 + "-", "'-' at position 2,000"),
        ("A\u20ac", r"'\?' at position 2"),
    ],
)
def test_an_invalid_letter_is_placed(sequence: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"{message} is not a nucleotide code"):
        encode(sequence)


def test_complement_is_that_of_iupac() -> None:
    for letter in "ACGTN":
        expected = ambiguous_dna_complement[letter]
        assert decode(COMPLEMENT[encode(letter)]) == expected
        assert decode(COMPLEMENT[encode(letter.lower())]) == expected.lower()
    np.testing.assert_array_equal(COMPLEMENT[COMPLEMENT], np.arange(256))


@given(st.text("ACGTNacgtn"))
def test_there_and_back(sequence: str) -> None:
    codes = encode(sequence)
    assert decode(codes) == sequence
    np.testing.assert_array_equal(reverse_complement(reverse_complement(codes)), codes)
    flipped = str.maketrans("ACGTacgt", "TGCAtgca")
    assert decode(reverse_complement(codes)) == sequence[::-1].translate(flipped)


def test_reverse_complement_of_a_batch() -> None:
    batch = np.stack([encode("AACG"), encode("gTTN")])
    assert [decode(row) for row in reverse_complement(batch)] == ["CGTT", "NAAc"]


@pytest.mark.parametrize("table", [ENCODE, DECODE, COMPLEMENT])
def test_tables_cannot_be_written(table: np.ndarray) -> None:
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 1
