import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnamamba.alphabet import encode
from dnamamba.data.known import Known

LETTERS = st.text("ACGTacgtNn", max_size=60)


@given(LETTERS, st.data())
def test_known_bases_are_the_sequence_without_n(text: str, data: st.DataObject) -> None:
    known = Known(encode(text))
    bases = text.upper().replace("N", "")
    assert len(known) == len(bases)
    end = data.draw(st.integers(0, len(bases)))
    start = data.draw(st.integers(0, end))
    assert known.fetch(start, end).tolist() == encode(bases[start:end]).tolist()


@given(LETTERS)
def test_places_are_counted_at_every_position(text: str) -> None:
    known = Known(encode(text))
    positions = range(len(text) + 1)
    wanted = [len(text[:position].upper().replace("N", "")) for position in positions]
    assert known.before(positions).tolist() == wanted


@given(LETTERS)
def test_known_bases_have_positions(text: str) -> None:
    known = Known(encode(text))
    wanted = [position for position, letter in enumerate(text) if letter not in "Nn"]
    assert known.positions(np.arange(len(known))).tolist() == wanted


@given(LETTERS, st.data())
def test_a_span_holds_its_bases_and_ends_with_them(text: str, data: st.DataObject) -> None:
    known = Known(encode(text))
    if not len(known):
        return
    start = data.draw(st.integers(0, len(known) - 1))
    end = data.draw(st.integers(start + 1, len(known)))
    first, last = known.span(start, end)
    assert text[first].upper() != "N" != text[last - 1].upper()
    assert known.before([first, last]).tolist() == [start, end]


def test_gaps_that_are_given_are_not_looked_for() -> None:
    codes = encode("ACNNGT")
    given_gaps = Known(codes, np.array([[2, 4]]))
    assert given_gaps.fetch(0, 4).tolist() == encode("ACGT").tolist()
    assert given_gaps.before(4) == 2


@pytest.mark.parametrize("text", ["", "NNN"])
def test_nothing_known_is_empty(text: str) -> None:
    known = Known(encode(text))
    assert len(known) == 0
    assert known.fetch(0, 0).size == 0
    assert known.before([0, len(text)]).tolist() == [0, 0]
