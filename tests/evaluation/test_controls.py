import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info

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
            assert accuracy > 0.9
            assert control.tuned_loss < 0.4
        elif name in ("N and gaps", "soft masking") and control_name != "k-mers":
            assert accuracy < 0.75
    assert control.k in (3, 5)


def skewed(count: int, size: int = 300, step: float = 0.1) -> tuple[list[Codes], np.ndarray]:
    """Return windows whose classes, 0 and 1 in turn, differ in how many A and C they have."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 2
    shares = [[0.3 - step * x, 0.2 + step * x, 0.3, 0.2] for x in labels]
    return [random.choice(4, size, p=p).astype(np.uint8) for p in shares], labels


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_logistic_regression_on_centred_columns(k: int, classes: int) -> None:
    """In the windows' span, and where counts stay sparse, because windows are many."""
    codes, labels = skewed(42)
    labels = np.arange(42) % classes
    control = tune_control(
        "k-mers",
        codes[:20],
        labels[:20],
        codes[20:30],
        labels[20:30],
        classes=classes,
        ks=(k,),
        strengths=(30.0,),
    )
    rows = features("k-mers", codes, k).toarray().astype(float)
    assert (np.count_nonzero(rows[:20]) <= 20**2) == (k == 2)
    scaled = (rows - rows[:20].mean(0)) / np.sqrt(rows[:20].var(0).sum())
    fitted = LogisticRegression(C=30.0, max_iter=10_000, tol=1e-8).fit(scaled[:20], labels[:20])
    wanted = fitted.predict_proba(scaled[20:])
    np.testing.assert_allclose(control.probabilities(codes[20:]), wanted, atol=2e-3)
    assert abs(wanted - 1 / classes).max() > 0.05
    loss = -np.log(wanted[np.arange(10), labels[20:30]]).mean()
    assert control.tuned_loss == pytest.approx(loss, abs=2e-3)


def test_settings_are_those_of_the_least_log_loss() -> None:
    codes, labels = skewed(60, step=0.05)
    sets = codes[:40], labels[:40], codes[40:], labels[40:]
    each = [
        tune_control("k-mers", *sets, classes=2, ks=(k,), strengths=(strength,))
        for k in (1, 4)
        for strength in (0.01, 1.0, 10.0)
    ]
    best = min(each, key=lambda control: control.tuned_loss)
    control = tune_control("k-mers", *sets, classes=2, ks=(1, 4), strengths=(0.01, 1.0, 10.0))
    assert (control.k, control.strength) == (best.k, best.strength)
    assert control.tuned_loss == pytest.approx(best.tuned_loss, abs=1e-3)
    assert control.tuned_loss < np.log(2) - 0.05


def test_strengths_are_left_once_the_loss_has_risen_twice() -> None:
    """No fit takes a strength below zero."""
    codes, labels = skewed(60, step=0.0)
    sets = codes[:40], labels[:40], codes[40:], 1 - labels[40:]
    strengths = (1e-3, 1.0, 100.0, 1e4)
    with pytest.raises(ValueError, match="'C'"):
        tune_control("k-mers", *sets, classes=2, ks=(4,), strengths=(*strengths[:2], -1.0))
    control = tune_control("k-mers", *sets, classes=2, ks=(4,), strengths=(*strengths, -1.0))
    assert control.strength == 1e-3
    assert control.tuned_loss == pytest.approx(np.log(2), abs=0.01)


def test_what_is_separable_or_the_same_can_be_fitted() -> None:
    """As are windows that come twice, and such as have no k-mer: their products are singular."""
    codes, labels = skewed(12, step=0.2)
    sets = codes * 2, np.tile(labels, 2), codes, labels
    control = tune_control("k-mers", *sets, classes=2, ks=(6,), strengths=(1.0, 1e4, 1e6))
    assert control.strength >= 1e4
    assert (control.probabilities(codes).argmax(1) == labels).all()
    empty = [np.full(20, N, np.uint8)] * 4
    control = tune_control(
        "k-mers", empty, np.array([0, 1, 1, 1]), empty, np.array([0, 1, 1, 1]), classes=2
    )
    np.testing.assert_allclose(control.probabilities(empty[:1]), [[0.25, 0.75]], atol=1e-3)


def test_columns_are_dense_a_few_at_a_time() -> None:
    codes, labels = skewed(300, size=4000)
    tracemalloc.start()
    tune_control(
        "k-mers",
        codes[:200],
        labels[:200],
        codes[200:],
        labels[200:],
        classes=2,
        ks=(8,),
        strengths=(1.0,),
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300 * 4**8 * 8 / 2


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_shared_out_and_change_nothing(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fits that each take all cores wait for each other in busy loops."""
    random = np.random.default_rng(0)
    windows = [random.integers(0, 3 + label, 60).astype(np.uint8) for label in [0, 1] * 30]
    labels = np.array([0, 1] * 30)
    fit, seen = LogisticRegression.fit, set()

    def noting(model: LogisticRegression, *given: Any) -> LogisticRegression:
        seen.update(lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas")
        return fit(model, *given)

    monkeypatch.setattr(LogisticRegression, "fit", noting)
    given = (windows[:40], labels[:40], windows[40:], labels[40:])
    found = tune_control("k-mers", *given, classes=2, ks=(2, 3, 4), threads=threads)
    assert seen == {1}
    alone = [tune_control("k-mers", *given, classes=2, ks=(k,)) for k in (2, 3, 4)]
    best = min(alone, key=lambda control: control.tuned_loss)
    assert (found.k, found.strength, found.tuned_loss) == (best.k, best.strength, best.tuned_loss)
    np.testing.assert_array_equal(found.weights, best.weights)
