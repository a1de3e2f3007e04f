import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dnamamba.alphabet import BASE, Codes, N, decode, encode, reverse_complement
from dnamamba.inference.classify import Window, classify_windows, cut, embed_windows
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.classifier import Classifier, ClassifierConfig
from dnamamba.models.heads import LanguageModel

CPU = torch.device("cpu")


def texts(windows: list[Window]) -> list[tuple[int, int, str]]:
    return [(window.start, window.end, decode(window.codes)) for window in windows]


def shown(text: str, length: int, shortest: int) -> list[tuple[int, int, str]]:
    return texts(list(cut(encode(text), length, shortest)))


def test_windows_lie_side_by_side() -> None:
    assert shown("AACCAGTGA", 4, 1) == [(0, 4, "AACC"), (4, 8, "AGTG"), (8, 9, "A")]
    assert shown("AACCAGTGA", 4, 2) == [(0, 4, "AACC"), (4, 8, "AGTG")]
    assert shown("AAC", 4, 3) == [(0, 3, "AAC")]
    assert shown("AAC", 4, 4) == []


def test_n_and_case_are_not_seen() -> None:
    assert shown("NAaNNcRcAGNTGaN", 4, 1) == [(1, 8, "AACC"), (8, 13, "AGTG"), (13, 14, "A")]
    assert shown("NNNN", 2, 1) == []
    assert shown("", 2, 1) == []


def test_the_strand_that_sorts_first_is_read() -> None:
    assert shown("TCACTGGTT", 4, 1) == [(5, 9, "AACC"), (1, 5, "AGTG"), (0, 1, "A")]


@given(st.text("ACGTN", max_size=60), st.integers(1, 20), st.integers(1, 20))
def test_both_strands_give_the_same_windows(text: str, length: int, shortest: int) -> None:
    codes = encode(text)
    here = list(cut(codes, length, shortest))
    there = list(cut(reverse_complement(codes), length, shortest))
    assert [decode(w.codes) for w in here] == [decode(w.codes) for w in there]
    known = codes[codes != N]
    if not np.array_equal(known, reverse_complement(known)):  # neither strand of others is first
        size = len(codes)
        mirrored = [(size - w.end, size - w.start) for w in there]
        assert [(w.start, w.end) for w in here] == mirrored


@given(st.text("ACGTacgtN", max_size=60), st.integers(1, 20))
def test_windows_hold_every_base_once(text: str, length: int) -> None:
    codes = encode(text)
    windows = sorted(cut(codes, length, 1), key=lambda window: window.start)
    read = []
    for window in windows:
        stretch = codes[window.start : window.end] & BASE
        stretch = stretch[stretch != N]
        same = np.array_equal(window.codes, stretch)
        assert same or np.array_equal(window.codes, reverse_complement(stretch))
        assert {codes[window.start] & BASE, codes[window.end - 1] & BASE} <= {0, 1, 2, 3}
        read.append(stretch)
    whole = codes & BASE
    assert np.array_equal(np.concatenate([*read, whole[:0]]), whole[whole != N])
    assert all(len(window.codes) <= length for window in windows)


def test_strands_that_begin_alike() -> None:
    """They differ far inside, behind the bases that are compared first."""
    arm = np.random.default_rng(0).integers(0, 4, 10_000, dtype=np.uint8)
    codes = np.concatenate([arm, encode("GG"), reverse_complement(arm)])
    (here,), (there,) = (list(cut(c, 10**6, 1)) for c in (codes, reverse_complement(codes)))
    assert np.array_equal(here.codes, there.codes)
    assert np.array_equal(here.codes, reverse_complement(codes))


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(d_model=16, n_layer=2, d_state=4))
    built = Classifier(model, ClassifierConfig(("a", "b", "c"), (8, 64), "both"))
    torch.nn.init.normal_(built.head.weight)
    return built.eval()


def drawn(*lengths: int) -> list[Codes]:
    random = np.random.default_rng(1)
    return [random.integers(0, 4, length, dtype=np.uint8) for length in lengths]


def classified(classifier: Classifier, windows: list[Codes], batch_bases: int) -> np.ndarray:
    found = classify_windows(classifier, windows, device=CPU, batch_bases=batch_bases)
    return np.stack(list(found))


def test_probabilities_are_the_classifiers_in_order(classifier: Classifier) -> None:
    windows = drawn(64, 64, 64, 20, 64, 64, 8)
    wanted = [
        classifier.probabilities(classifier.tokens(torch.from_numpy(codes)[None]))[0]
        for codes in windows
    ]
    found = classified(classifier, windows, 128)
    assert found.shape == (7, 3)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, torch.stack(wanted).detach().numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1)
    assert np.ptp(found, 0).min() > 1e-3


def test_embeddings_are_the_mean_features_of_both_strands(classifier: Classifier) -> None:
    windows = drawn(64, 64, 20)
    wanted = []
    for codes in windows:
        strands = np.stack([codes, reverse_complement(codes)])
        wanted.append(classifier.features(classifier.tokens(torch.from_numpy(strands))).mean(0))
    asked = embed_windows(classifier, windows, device=CPU, batch_bases=128)
    found = np.stack(list(asked))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, torch.stack(wanted).detach().numpy(), rtol=1e-4, atol=1e-6)


def test_neighbours_of_one_length_are_read_together(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    read = classifier.probabilities
    monkeypatch.setattr(
        classifier, "probabilities", lambda ids: shapes.append(tuple(ids.shape)) or read(ids)
    )
    classified(classifier, drawn(64, 64, 64, 20, 64, 8, 8, 300), 130)
    assert shapes == [(2, 64), (1, 64), (1, 20), (1, 64), (2, 8), (1, 300)]


def test_no_more_than_a_batch_is_read_ahead(classifier: Classifier) -> None:
    asked = iter(drawn(*[64] * 9))
    found = classify_windows(classifier, asked, device=CPU, batch_bases=128)
    next(found)
    assert len(list(asked)) == 9 - 3


@pytest.mark.parametrize("length", [9, 64, 100])
def test_both_strands_have_the_same_bits(classifier: Classifier, length: int) -> None:
    windows = drawn(*[length] * 5)
    other = [reverse_complement(codes) for codes in windows]
    for batch_bases in (1, 3 * length, 10**6):
        here, there = (classified(classifier, w, batch_bases) for w in (windows, other))
        assert np.array_equal(here, there)


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored_and_no_graph_is_kept(classifier: Classifier, training: bool) -> None:
    classifier.train(training)
    modes = []
    classifier.head.register_forward_pre_hook(
        lambda *_: modes.append((classifier.training, torch.is_grad_enabled()))
    )
    found = classify_windows(classifier, drawn(8, 9), device=CPU, batch_bases=8)
    next(found)
    assert classifier.training is training
    assert torch.is_grad_enabled()
    list(found)
    assert set(modes) == {(False, False)}


def test_mode_is_restored_after_a_failure(classifier: Classifier) -> None:
    classifier.train()
    classifier.head.register_forward_pre_hook(lambda *_: [][0])
    with pytest.raises(IndexError):
        classified(classifier, drawn(8), 8)
    assert classifier.training


@pytest.mark.gpu
def test_a_gpu_agrees(classifier: Classifier, cuda: torch.device) -> None:
    windows = drawn(64, 64, 20)
    wanted = classified(classifier, windows, 10**6)
    classifier.to(cuda)
    found = classify_windows(classifier, windows, device=cuda, batch_bases=10**6)
    np.testing.assert_allclose(np.stack(list(found)), wanted, rtol=1e-4)
