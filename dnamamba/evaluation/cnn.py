"""A small convolutional network: what a classifier of short sequences is held against.

Two convolutions over one-hot bases, the largest and the mean of each channel over the sequence, and
a linear layer; trained on both strands until the log loss on other data no longer falls.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dnamamba.alphabet import BASE, Codes, N, reverse_complement

CHANNELS: Final = 128
LEARNING_RATES: Final = (3e-4, 1e-3, 3e-3)
"""To choose from."""
EPOCHS: Final = 60
PATIENCE: Final = 5
BATCH: Final = 64
_WIDTHS: Final = (11, 7)
_POOL: Final = 4
_READ: Final = 2**18
"""Bases that are read at once without gradients."""


class Network(nn.Module):
    """The network.

    Parameters
    ----------
    classes
        Two or more.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        first, second = _WIDTHS
        self.first = nn.Conv1d(N, CHANNELS, first, padding="same")
        self.second = nn.Conv1d(CHANNELS, CHANNELS, second, padding="same")
        self.norms = nn.ModuleList(nn.LayerNorm(CHANNELS) for _ in range(2))
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(2 * CHANNELS, classes)

    def forward(self, codes: Tensor, lengths: Tensor) -> Tensor:
        """Return (batch, classes) logits of (batch, length) uint8 codes, N behind the ends."""
        bases = functional.one_hot(codes.long(), N + 1)[..., :N].transpose(1, 2).float()
        x = self._normed(0, self.first(bases), lengths)
        x = functional.max_pool1d(x, _POOL, ceil_mode=True)
        lengths = -(-lengths // _POOL)
        x = self._normed(1, self.second(x), lengths)
        largest, mean = x.amax(2), x.sum(2) / lengths[:, None]
        logits: Tensor = self.head(self.dropout(torch.cat([largest, mean], 1)))
        return logits

    def _normed(self, number: int, x: Tensor, lengths: Tensor) -> Tensor:
        """Norm the channels of each place, and set those behind the ends to zero."""
        inside = torch.arange(x.shape[2], device=x.device) < lengths[:, None]
        normed = self.norms[number](x.transpose(1, 2)).transpose(1, 2)
        return functional.relu(normed) * inside[:, None]


class Trained:
    """A network that is tuned and trained.

    Attributes
    ----------
    lr, tuned_loss
        Its learning rate, and the log loss, in nats, on the data that it was chosen on.
    """

    def __init__(self, network: Network, lr: float, tuned_loss: float) -> None:
        self._network = network
        self.lr = lr
        self.tuned_loss = tuned_loss

    def probabilities(self, sequences: Sequence[Codes]) -> NDArray[np.float64]:
        """Return (sequences, classes), the mean of both strands' logits made probabilities."""
        return _logits(self._network, sequences).softmax(1).numpy()


def tune_network(
    train: Sequence[Codes],
    labels: NDArray[np.int64],
    tuning: Sequence[Codes],
    tuning_labels: NDArray[np.int64],
    *,
    classes: int,
    device: torch.device,
    seed: int = 0,
) -> Trained:
    """Train networks, and choose the learning rate and the epoch on other sequences.

    Parameters
    ----------
    train, labels
        Store codes of a base or more each, and (sequences,) int64 classes.
    tuning, tuning_labels
        Likewise; the one of the least log loss on them is kept.
    classes
        How many there are.
    device
        Where to train.
    seed
        Of weights, order and strands.
    """
    found = [
        _train(train, labels, tuning, tuning_labels, classes, device, seed, lr)
        for lr in LEARNING_RATES
    ]
    return min(found, key=lambda each: each.tuned_loss)


def _train(
    train: Sequence[Codes],
    labels: NDArray[np.int64],
    tuning: Sequence[Codes],
    tuning_labels: NDArray[np.int64],
    classes: int,
    device: torch.device,
    seed: int,
    lr: float,
) -> Trained:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        network = Network(classes).to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01)
        random = np.random.default_rng(seed)
        wanted = torch.from_numpy(tuning_labels)
        best, kept, since = math.inf, copy.deepcopy(network.state_dict()), 0
        for _ in range(EPOCHS):
            network.train()
            order = random.permutation(len(train))
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                turned = random.random(len(rows)) < 0.5
                codes = [
                    reverse_complement(train[row]) if turn else train[row]
                    for row, turn in zip(rows, turned, strict=True)
                ]
                logits = network(*_batch(codes, device))
                targets = torch.from_numpy(labels[rows]).to(device)
                optimizer.zero_grad()
                torch.autograd.backward(functional.cross_entropy(logits, targets))
                optimizer.step()
            loss = float(functional.cross_entropy(_logits(network, tuning), wanted))
            since += 1
            if loss < best:
                best, kept, since = loss, copy.deepcopy(network.state_dict()), 0
            if since == PATIENCE:
                break
        network.load_state_dict(kept)
    return Trained(network, lr, best)


@torch.no_grad()
def _logits(network: Network, sequences: Sequence[Codes]) -> Tensor:
    """Return (sequences, classes) float64 on the CPU, the mean of both strands."""
    device = network.head.weight.device
    network.eval()
    found = torch.empty(len(sequences), network.head.out_features, dtype=torch.float64)
    for rows in _parts(sequences):
        codes = [sequences[row] for row in rows]
        both = network(*_batch(codes, device)) + network(
            *_batch([reverse_complement(each) for each in codes], device)
        )
        found[rows] = both.double().cpu() / 2
    return found


def _parts(sequences: Sequence[Codes]) -> Iterator[list[int]]:
    part: list[int] = []
    for row in sorted(range(len(sequences)), key=lambda row: len(sequences[row])):
        if part and (len(part) + 1) * len(sequences[row]) > _READ:
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def _batch(sequences: Sequence[Codes], device: torch.device) -> tuple[Tensor, Tensor]:
    lengths = np.array([len(codes) for codes in sequences])
    rows = np.full((len(sequences), lengths.max()), N, np.uint8)
    for row, codes in zip(rows, sequences, strict=True):
        row[: len(codes)] = codes & BASE
    return torch.from_numpy(rows).to(device), torch.from_numpy(lengths).to(device)
