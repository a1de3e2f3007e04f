from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dnamamba.alphabet import encode
from dnamamba.evaluation import spectrum as module
from dnamamba.evaluation.spectrum import KS, Divergence, Spectrum, plot_spectrum


def spectrum(*sequences: str) -> Spectrum:
    found = Spectrum()
    for sequence in sequences:
        found.add(encode(sequence))
    return found


def random_dna(length: int, seed: int, weights: tuple[float, ...] = (0.25,) * 4) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length, p=weights))


@pytest.mark.parametrize("k", KS)
def test_shares_are_of_both_strands(k: int) -> None:
    sequences = [random_dna(500, 0), random_dna(90, 1), "ACGT", "A"]
    other = str.maketrans("ACGT", "TGCA")
    counts: Counter[str] = Counter()
    for sequence in sequences:
        for start in range(len(sequence) - k + 1):
            kmer = sequence[start : start + k]
            counts[min(kmer, kmer.translate(other)[::-1])] += 1
    wanted = np.zeros(4**k)
    for kmer, count in counts.items():
        wanted[int(kmer.translate(str.maketrans("ACGT", "0123")), 4)] = count / counts.total()
    np.testing.assert_allclose(spectrum(*sequences).shares(k), wanted, rtol=1e-12)


def test_case_changes_nothing() -> None:
    np.testing.assert_array_equal(spectrum("acgTTgca").shares(3), spectrum("ACGTTGCA").shares(3))


def test_gc() -> None:
    assert spectrum("AACG", "CCCC").gc == 0.75


def test_divergence_is_jensen_and_shannons() -> None:
    one, other = spectrum("AAAC"), spectrum("ACCC")
    # Shares (3/4, 1/4) and (1/4, 3/4): one bit less the entropy of a quarter.
    entropy = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    assert one.divergence(other, 1) == pytest.approx(1 - entropy)
    assert other.divergence(one, 1) == pytest.approx(1 - entropy)
    assert one.divergence(one, 2) == 0
    assert spectrum("AAAA").divergence(spectrum("CCCC"), 1) == pytest.approx(1)


def test_samples_of_one_source_are_nearer_than_others() -> None:
    rich, poor = (0.1, 0.4, 0.4, 0.1), (0.4, 0.1, 0.1, 0.4)
    one, more, other = (
        spectrum(random_dna(5000, seed, weights))
        for seed, weights in ((0, rich), (1, rich), (2, poor))
    )
    for k in KS:
        assert one.divergence(more, k) < one.divergence(other, k)


DIVERGENCES = [Divergence(k, k / 10, k / 20, k / 9) for k in KS]


def test_the_plot_shows_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    seen = []
    save = module.save_png
    monkeypatch.setattr(
        module, "save_png", lambda figure, path: (seen.append(figure), save(figure, path))
    )
    made, real = spectrum(random_dna(4000, 0)), spectrum(random_dna(4000, 1))
    path = tmp_path / "spectrum.png"
    assert plot_spectrum(made, real, DIVERGENCES, path) == [path]
    assert path.read_bytes().startswith(b"\x89PNG")
    left, right = seen[0].axes
    named = {text.get_text(): text.xy for text in left.texts}
    assert len(named) == 32
    assert named["ACG"] == pytest.approx((100 * real.shares(3)[6], 100 * made.shares(3)[6]))
    bits = [line.get_ydata().tolist() for line in right.lines]
    assert bits == [list(column) for column in list(zip(*DIVERGENCES, strict=True))[1:]]


def test_missing_kmers_are_not_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "spectrum.png"
    plot_spectrum(spectrum("ACGTACGT" * 3), spectrum("ACGTTTTTTT"), DIVERGENCES, path)
    assert path.exists()


def test_no_kmer_in_common_is_drawn_empty(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "spectrum.png"
    plot_spectrum(spectrum("AAAAAAAAA"), spectrum("CCCCCCCCC"), DIVERGENCES, path)
    assert path.exists()


def test_without_matplotlib_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    path = tmp_path / "spectrum.png"
    assert plot_spectrum(spectrum("ACGTACGT"), spectrum("ACGTACGT"), DIVERGENCES, path) == []
    assert not path.exists()
    assert "pip install 'dnamamba[plot]'" in messages[-1]
