import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.alphabet import SOFT_MASK, Codes, N, encode, reverse_complement
from dnamamba.data import sketch as module
from dnamamba.data.sketch import K, contains, sketch


def draw_codes(length: int, seed: int) -> Codes:
    letters = np.random.default_rng(seed).choice(list("ACGTacgtN"), length, p=[*[0.12] * 8, 0.04])
    return encode("".join(letters))


sequences = st.builds(draw_codes, st.integers(0, 150), st.integers(0, 2**32))


@settings(deadline=None, max_examples=30)
@given(st.lists(sequences, max_size=4))
def test_all_kmers_are_counted_as_the_definition_says(many: list[Codes]) -> None:
    counts: dict[bytes, int] = {}
    for codes in many:
        for at in range(len(codes) - K + 1):
            kmer = codes[at : at + K] & 7
            if N not in kmer:
                key = min(kmer.tobytes(), reverse_complement(kmer).tobytes())
                counts[key] = counts.get(key, 0) + 1
    hashes, times = sketch(many, 1)
    assert sorted(times) == sorted(counts.values())
    assert np.all(hashes[1:] > hashes[:-1])
    flipped, same_times = sketch([reverse_complement(codes) | SOFT_MASK for codes in many], 1)
    np.testing.assert_array_equal(flipped, hashes)
    np.testing.assert_array_equal(same_times, times)


def test_blocks_change_nothing_and_a_scale_takes_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes = np.random.default_rng(0).integers(0, 4, 200_000).astype(np.uint8)
    whole, _ = sketch([codes], 10)
    assert len(whole) == pytest.approx(20_000, abs=600)
    monkeypatch.setattr(module, "_BLOCK", 999)
    np.testing.assert_array_equal(sketch([codes], 10)[0], whole)
    assert np.isin(sketch([codes], 100)[0], whole).all()


def test_only_those_asked_for() -> None:
    codes = np.random.default_rng(1).integers(0, 4, 5000).astype(np.uint8)
    some, _ = sketch([codes[:1000]], 1)
    found, _ = sketch([codes], 1, among=some)
    np.testing.assert_array_equal(found, some)
    assert contains(some[:0], some).sum() == 0
