import numpy as np
import pytest
import torch

from dnamamba.alphabet import Codes, encode, reverse_complement
from dnamamba.evaluation import cnn
from dnamamba.evaluation.cnn import Network, tune_network

CPU = torch.device("cpu")


def draw(seed: int, rows: int) -> tuple[list[Codes], np.ndarray]:
    """Sequences of like composition, of which every other one holds a word, on either strand."""
    random = np.random.default_rng(seed)
    word = encode("TTGACATTGACA")
    sequences, labels = [], np.arange(rows) % 2
    for label in labels:
        codes = random.integers(0, 4, random.integers(30, 60)).astype(np.uint8)
        if label:
            start = random.integers(0, len(codes) - len(word))
            codes[start : start + len(word)] = word
        sequences.append(reverse_complement(codes) if random.random() < 0.5 else codes)
    return sequences, labels


def test_a_word_is_found_on_either_strand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cnn, "LEARNING_RATES", (3e-3,))
    monkeypatch.setattr(cnn, "EPOCHS", 15)
    trained = tune_network(*draw(0, 400), *draw(1, 80), classes=2, device=CPU)
    sequences, labels = draw(2, 100)
    found = trained.probabilities(sequences)
    assert (found.argmax(1) == labels).mean() > 0.9
    np.testing.assert_allclose(found.sum(1), 1)
    other = trained.probabilities([reverse_complement(codes) for codes in sequences])
    np.testing.assert_allclose(other, found, rtol=1e-4, atol=1e-6)


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    network = Network(3).eval()
    codes = torch.randint(0, 4, (1, 20))
    padded = torch.cat([codes, torch.full((1, 13), 4)], 1)
    lengths = torch.tensor([20])
    with torch.no_grad():
        found, wanted = network(padded, lengths), network(codes, lengths)
    torch.testing.assert_close(found, wanted)


def test_a_seed_decides() -> None:
    data = (*draw(0, 20), *draw(1, 10))
    once, again = (cnn._train(*data, 2, CPU, 3, 1e-3).probabilities(data[0]) for _ in range(2))
    np.testing.assert_array_equal(once, again)
