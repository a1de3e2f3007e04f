import tracemalloc
from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from dnamamba.alphabet import SOFT_MASK, Codes, N, reverse_complement
from dnamamba.evaluation.controls import (
    BUCKETS,
    CONTROLS,
    composition,
    features,
    gaps,
    kmer_frequencies,
    soft_mask,
    tune_control,
)

ACGT = {letter: code for code, letter in enumerate("ACGTN")}


def codes(text: str) -> Codes:
    return np.array(
        [ACGT[letter.upper()] | (SOFT_MASK if letter.islower() else 0) for letter in text], np.uint8
    )


def test_plain_features() -> None:
    window = codes("AAcgTNNtNA")
    np.testing.assert_allclose(composition(window), [5 / 7, 2 / 7])
    np.testing.assert_allclose(gaps(window), [0.3, 200])
    np.testing.assert_allclose(soft_mask(window), [0.3, 200])
    assert composition(codes("NNNN")).tolist() == [0, 0]
    assert gaps(codes("NA")).tolist() == [0.5, 500]


def test_kmers_are_those_of_both_strands() -> None:
    """Against counting by hand, with an N that no k-mer may hold."""
    random = np.random.default_rng(0)
    window = random.integers(0, 4, 200).astype(np.uint8)
    window[[50, 51, 120]] = N
    text = "".join("ACGTN"[code] for code in window)
    complement = str.maketrans("ACGT", "TGCA")
    for k in (1, 3, 8):
        words = [text[i : i + k] for i in range(len(text) - k + 1)]
        whole = [word for word in words if "N" not in word]
        counts = Counter(min(word, word.translate(complement)[::-1]) for word in whole)
        columns, shares = kmer_frequencies(window, k)
        wanted = {
            int(word.translate(str.maketrans("ACGT", "0123")), 4): c for word, c in counts.items()
        }
        assert columns.tolist() == sorted(wanted)
        np.testing.assert_allclose(
            shares**2 * len(whole), [wanted[column] for column in columns.tolist()]
        )
        assert np.square(shares).sum() == pytest.approx(1)
        for found, other in zip(
            kmer_frequencies(reverse_complement(window), k), (columns, shares), strict=True
        ):
            np.testing.assert_allclose(found, other)


def test_long_kmers_are_hashed() -> None:
    window = np.random.default_rng(0).integers(0, 4, 5000).astype(np.uint8)
    columns, shares = kmer_frequencies(window, 12)
    assert columns.max() < BUCKETS
    assert len(columns) > 4500
    assert np.square(shares).sum() == pytest.approx(1)


@pytest.mark.parametrize("k", [9, 12, 31])
def test_the_hash_is_fibonaccis(k: int) -> None:
    """The upper 16 bits of the canonical k-mer's number times 2^64 over the golden ratio."""
    window = np.random.default_rng(0).integers(0, 5, 3000).astype(np.uint8)
    window[::2] %= 4
    window[500:600] %= 4
    text = "".join(map(str, window))
    wanted = set()
    for start in range(len(text) - k + 1):
        word = text[start : start + k]
        if "4" not in word:
            back = word.translate(str.maketrans("0123", "3210"))[::-1]
            wanted.add((int(min(word, back), 4) * 0x9E3779B97F4A7C15) % 2**64 >> 48)
    assert kmer_frequencies(window, k)[0].tolist() == sorted(wanted)
    assert len(wanted) > 60


def test_a_megabase_takes_tens_of_megabytes() -> None:
    window = np.random.default_rng(0).integers(0, 4, 2**20).astype(np.uint8)
    tracemalloc.start()
    kmer_frequencies(window, 8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * window.size


def test_short_and_empty_windows_have_no_kmers() -> None:
    for window in (codes("AC"), codes("NNNNNNN")):
        assert kmer_frequencies(window, 3)[0].size == 0
    # ACG and CGT are each other's reverse complements.
    assert features("k-mers", [codes("AC"), codes("ACGT")], 3).toarray().sum() == 1.0


@pytest.mark.parametrize("name", CONTROLS)
def test_each_control_tells_what_differs(name: str) -> None:
    """The two classes differ in what the control sees, and in nothing that the others see."""
    random = np.random.default_rng(0)

    def draw(label: int) -> Codes:
        window = random.integers(0, 4, 400).astype(np.uint8)
        if name == "base composition" and label:
            window[random.random(400) < 0.4] = 1
        if name == "N and gaps" and label:
            window[:40] = N
        if name == "soft masking" and label:
            window[:40] |= SOFT_MASK
        if name == "k-mers" and label:
            for start in range(0, 400, 40):
                window[start : start + 6] = [0, 3, 1, 2, 0, 3]
        return window

    def many(count: int) -> tuple[list[Codes], np.ndarray]:
        labels = random.integers(0, 2, count) * 2  # no window of class 1
        return [draw(int(label)) for label in labels], labels

    sets = [many(60) for _ in range(3)]
    for control_name in CONTROLS:
        control = tune_control(control_name, *sets[0], *sets[1], classes=3, ks=(3, 5))
        probabilities = control.probabilities(sets[2][0])
        assert probabilities.shape == (60, 3)
        np.testing.assert_allclose(probabilities.sum(1), 1)
        assert (probabilities[:, 1] == 0).all()
        accuracy = (probabilities.argmax(1) == sets[2][1]).mean()
        if control_name == name:
            assert min(accuracy, control.tuned_accuracy) > 0.9
        elif name in ("N and gaps", "soft masking") and control_name != "k-mers":
            assert accuracy < 0.75
    assert control.k in (3, 5)


def test_fewer_windows_than_kmers_lose_nothing() -> None:
    """The fit in the windows' span is that over all columns."""
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    windows = [random.choice(4, 300, p=[0.3 - 0.1 * x, 0.2 + 0.1 * x, 0.3, 0.2]) for x in labels]
    codes = [window.astype(np.uint8) for window in windows]
    control = tune_control(
        "k-mers", codes[:20], labels[:20], codes[20:30], labels[20:30], classes=2, ks=(5,)
    )
    rows = features("k-mers", codes, 5)
    assert rows.shape[0] < rows.shape[1]
    whole = make_pipeline(
        MaxAbsScaler(), LogisticRegression(C=control.strength, max_iter=10_000, tol=1e-8)
    ).fit(rows[:30], labels[:30])
    wanted = whole.predict_proba(rows[30:])
    np.testing.assert_allclose(control.probabilities(codes[30:]), wanted, atol=2e-3)
    assert abs(wanted - 0.5).max() > 0.05
