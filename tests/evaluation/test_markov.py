import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.alphabet import ENCODE, SOFT_MASK, Codes, N, encode, reverse_complement
from dnamamba.errors import UsageError
from dnamamba.evaluation import markov
from dnamamba.evaluation.markov import Markov


def draw_codes(length: int, seed: int) -> Codes:
    letters = np.random.default_rng(seed).choice(list("ACGTacgtN"), length, p=[*[0.12] * 8, 0.04])
    return encode("".join(letters))


sequences = st.builds(draw_codes, st.integers(0, 120), st.integers(0, 2**32))


def brute_force(train: list[Codes], codes: Codes, order: int) -> list[float]:
    """The definition, base by base, with a dictionary of k-mers."""
    counts: Counter[tuple[int, ...]] = Counter()
    for one in train:
        for strand in (one & 7, reverse_complement(one) & 7):
            for size in range(1, order + 2):
                counts.update(
                    kmer
                    for at in range(len(strand) - size + 1)
                    if N not in (kmer := tuple(strand[at : at + size].tolist()))
                )

    def probability(context: tuple[int, ...], base: int) -> float:
        shorter = probability(context[1:], base) if context else 0.25
        total = sum(counts[*context, other] for other in range(4))
        return (counts[*context, base] + 16 * shorter) / (total + 16)

    bases = (codes & 7).tolist()
    bits = []
    for at, base in enumerate(bases):
        context = bases[max(0, at - order) : at]
        while N in context:
            context = context[context.index(N) + 1 :]
        bits.append(np.nan if base == N else -np.log2(probability(tuple(context), base)))
    return bits


@settings(deadline=None, max_examples=40)
@given(train=st.lists(sequences, max_size=3), codes=sequences, order=st.integers(0, 5))
def test_bits_equal_the_definition(train: list[Codes], codes: Codes, order: int) -> None:
    bits = Markov.fit(train, order).bits(codes)
    assert bits.shape == (order + 1, len(codes))
    assert bits.dtype == np.float32
    for k in range(order + 1):
        np.testing.assert_allclose(bits[k], brute_force(train, codes, k), rtol=1e-5)


@settings(deadline=None, max_examples=20)
@given(train=st.lists(sequences, max_size=3), context=sequences, order=st.integers(0, 6))
def test_probabilities_sum_to_one(train: list[Codes], context: Codes, order: int) -> None:
    model = Markov.fit(train, order)
    chances = [np.exp2(-model.bits(np.append(context, np.uint8(b)))[:, -1]) for b in range(4)]
    np.testing.assert_allclose(np.sum(chances, axis=0), 1, rtol=1e-5)


def test_tables_of_all_contexts_and_of_those_seen_agree() -> None:
    codes = np.random.default_rng(3).integers(0, 4, 2000).astype(np.uint8)
    seen = Markov.fit([codes], 8)
    padding = np.full(40_000, N, dtype=np.uint8)  # counts as length, holds no k-mer
    full = Markov.fit([codes, padding], 8)
    np.testing.assert_allclose(seen.bits(codes), full.bits(codes), rtol=1e-5)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    train = [rng.choice([0, 1, 2, 3, 4], size, p=[0.3, 0.2, 0.2, 0.28, 0.02]) for size in (300, 5)]
    train = [codes.astype(np.uint8) for codes in train]
    whole = Markov.fit(train, 7)
    expected = whole.bits(train[0])
    monkeypatch.setattr(markov, "_BLOCK", block)
    blocked = Markov.fit(train, 7)
    np.testing.assert_array_equal(blocked.bits(train[0]), expected)


def test_strands_and_soft_mask_make_no_difference() -> None:
    codes = np.random.default_rng(1).integers(0, 4, 500).astype(np.uint8)
    forward = Markov.fit([codes], 3)
    reverse = Markov.fit([reverse_complement(codes) | SOFT_MASK], 3)
    np.testing.assert_array_equal(forward.bits(codes), reverse.bits(codes))
    np.testing.assert_array_equal(forward.bits(codes), forward.bits(codes | SOFT_MASK))


def test_a_read_only_view_is_left_alone() -> None:
    codes = encode("ACGTNNACGGT")
    codes.flags.writeable = False
    Markov.fit([codes], 2).bits(codes)
    np.testing.assert_array_equal(codes, encode("ACGTNNACGGT"))


def test_order_twelve_knows_a_repeat() -> None:
    codes = np.tile(np.random.default_rng(2).integers(0, 4, 100).astype(np.uint8), 200)
    bits = Markov.fit([codes]).bits(codes)
    assert bits.shape[0] == 13
    assert bits[0].mean() > 1.9
    assert bits[12, 100:].mean() < 0.2


@pytest.mark.parametrize("order", [-1, 13])
def test_an_order_out_of_range_is_refused(order: int) -> None:
    with pytest.raises(UsageError, match="choose 0 to 12"):
        Markov.fit([], order)


@pytest.mark.slow
@pytest.mark.real
def test_the_known_figures_of_human_chromosome_20(shared_data: Path) -> None:
    text = gzip.decompress((shared_data / "human_chr20_GRCh37.fa.gz").read_bytes())
    letters = text[text.index(b"\n") + 1 :].replace(b"\n", b"")
    codes = ENCODE[np.frombuffer(letters, dtype=np.uint8)]
    bits = Markov.fit([codes[:50_000_000]]).bits(codes[50_200_000:60_000_000])
    mean = np.nanmean(bits, axis=1, dtype=np.float64)
    known = {0: 1.988, 2: 1.929, 4: 1.917, 6: 1.888, 8: 1.841, 10: 1.804, 11: 1.803, 12: 1.813}
    assert {order: round(float(mean[order]), 3) for order in known} == known
