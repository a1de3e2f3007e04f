"""DNA letters as store codes, and their complements.

A store code is one byte: A 0, C 1, G 2, T 3, N 4, plus `SOFT_MASK` where the letter is lower case.
U is read as T; every other IUPAC ambiguity code is N. A letter that is none of these is `INVALID`.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.errors import InputError

Codes = NDArray[np.uint8]

A, C, G, T, N = range(5)
SOFT_MASK: Final = 8
BASE: Final = 7
"""`codes & BASE` is the base without its soft mask."""
INVALID: Final = 255

LETTERS: Final = "ACGTN"
_AMBIGUOUS: Final = "NRYSWKMBDHV"


def _encode_table() -> Codes:
    table = np.full(256, INVALID, dtype=np.uint8)
    for letters, code in (("A", A), ("C", C), ("G", G), ("TU", T), (_AMBIGUOUS, N)):
        for letter in letters:
            table[ord(letter)] = code
            table[ord(letter.lower())] = code | SOFT_MASK
    return table


def _decode_table() -> Codes:
    table = np.full(256, ord("?"), dtype=np.uint8)
    for code, letter in enumerate(LETTERS):
        table[code] = ord(letter)
        table[code | SOFT_MASK] = ord(letter.lower())
    return table


def _complement_table() -> Codes:
    table = np.arange(256, dtype=np.uint8)
    for code in (A, C, G, T):
        table[code] = 3 - code
        table[code | SOFT_MASK] = (3 - code) | SOFT_MASK
    return table


ENCODE: Final = _encode_table()
"""(256,) uint8: from an ASCII letter to its store code."""
DECODE: Final = _decode_table()
"""(256,) uint8: from a store code to its ASCII letter."""
COMPLEMENT: Final = _complement_table()
"""(256,) uint8: from a store code to its complement's; N and the soft mask stay."""

for _table in (ENCODE, DECODE, COMPLEMENT):
    _table.flags.writeable = False


def encode(sequence: str | bytes) -> Codes:
    """Turn letters into store codes.

    Parameters
    ----------
    sequence
        DNA, upper or lower case, IUPAC codes allowed, no white space.

    Returns
    -------
    (length,) uint8 store codes.

    Raises
    ------
    InputError
        At the first character that is not a nucleotide code, with its 1-based position.
    """
    raw = sequence.encode("latin-1", "replace") if isinstance(sequence, str) else sequence
    codes = ENCODE[np.frombuffer(raw, dtype=np.uint8)]
    invalid = np.flatnonzero(codes == INVALID)
    if invalid.size:
        at = int(invalid[0])
        raise InputError(f"{chr(raw[at])!r} at position {at + 1:,} is not a nucleotide code")
    return codes


def decode(codes: Codes) -> str:
    """Turn (length,) store codes into letters; soft-masked bases are lower case."""
    return DECODE[codes].tobytes().decode("ascii")


def reverse_complement(codes: Codes) -> Codes:
    """Read (..., length) store codes on the other strand; a copy."""
    return COMPLEMENT[codes[..., ::-1]]
