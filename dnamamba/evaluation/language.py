"""Held-out metrics of a language model: bits per base, perplexity, accuracy, one sum a window.

A model and the Markov models beside it are scored on the same bases of the same windows, so that
their differences are paired.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dnamamba.alphabet import Codes
from dnamamba.evaluation.intervals import Interval, block_bootstrap
from dnamamba.models.heads import cross_entropy
from dnamamba.models.precision import Autocast
from dnamamba.processes import ALONE, Processes


class Batch(NamedTuple):
    """What a language model is shown and asked, each (batch, length).

    Attributes
    ----------
    inputs
        int64 ids that go into the model.
    targets
        int64 ids that the logits of the same position should predict.
    weights
        float32 weights of the targets; zero where nothing is asked.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor


class Objective(Protocol):
    """Turns store codes into a `Batch`, the same one for the same (step, index)."""

    @property
    def shift(self) -> int:
        """How many bases ahead of a logit's own position its target lies."""

    def __call__(self, codes: Tensor, step: int, first: int) -> Batch:
        """Ask about (batch, length) uint8 codes: windows `first`, `first` + 1, ... of `step`."""


@dataclass(frozen=True)
class Score:
    """Held-out sums of one model, one a window.

    Attributes
    ----------
    bits
        (windows,) float64, minus log2 of the probability of each scored base, summed.
    bases
        (windows,) int64, how many were scored.
    accuracy
        Share of the scored bases that were the likeliest; NaN where it was not asked for.
    """

    bits: NDArray[np.float64]
    bases: NDArray[np.int64]
    accuracy: float = math.nan

    @property
    def bits_per_base(self) -> float:
        """Mean of minus log2 p(base); 2 is a fair four-sided die."""
        return float(self.bits.sum() / self.bases.sum())

    @property
    def perplexity(self) -> float:
        """The die with as many sides that would be as surprising; infinite beyond all counting."""
        return math.exp2(self.bits_per_base) if self.bits_per_base < 1024 else math.inf

    def interval(self) -> Interval:
        """Bound `bits_per_base` at 95 %; NaN for a single window."""
        return block_bootstrap(self.bits, self.bases)

    def gain_over(self, other: "Score") -> Interval:
        """Bound the bits per base that `other`, scored on the same bases, needs beyond these."""
        return block_bootstrap(other.bits - self.bits, self.bases)


class Windows(Protocol):
    """Held-out windows: a map from an index to (length,) uint8 store codes."""

    def __len__(self) -> int:
        """Count the windows."""

    def __getitem__(self, index: int, /) -> Tensor:
        """Fetch one window."""


def batches(
    windows: Windows, batch: int, processes: Processes = ALONE
) -> Iterator[tuple[int, Tensor]]:
    """Yield the first index and the (batch, length) codes of each batch, in order.

    Several processes take turns. Each gets as many batches, because it may have to take part in
    what the others compute: one that runs out is given the last again.
    """
    count = -(-len(windows) // batch)
    turns = -(-count // processes.readers)
    for number in range(processes.reader, turns * processes.readers, processes.readers):
        first = min(number, count - 1) * batch
        last = min(first + batch, len(windows))
        yield first, torch.stack([windows[index] for index in range(first, last)])


# No inference mode: what FSDP gathers in one could not be trained with afterwards.
@torch.no_grad()
def score_model(
    model: nn.Module,
    windows: Windows,
    objective: Objective,
    *,
    batch: int,
    device: torch.device,
    segment: int | None = None,
    autocast: Autocast = nullcontext,
    processes: Processes = ALONE,
    between: Callable[[], None] = lambda: None,
) -> Score:
    """Score a model on held-out windows in one pass.

    Parameters
    ----------
    model
        Maps (batch, length) ids to (batch, length, vocabulary) logits; its mode is restored.
    windows
        The held-out windows; a target of weight zero (N, say) is not scored, all others count one.
    objective
        What is asked, at step 0.
    batch
        Windows a forward pass.
    device
        Where the model lies.
    segment
        Read a window in segments of so many bases, each from the state that the one before left,
        which the model then takes and gives back; None reads it at once.
    autocast
        The context of the forward pass.
    processes
        Who scores: each its share of the windows, or a part of each, and all get the whole score.
    between
        Called before each forward pass; may raise.
    """
    training = model.training
    model.eval()
    sums = torch.zeros(len(windows), 3, dtype=torch.float64)
    for first, codes in batches(windows, batch, processes):
        between()
        here = processes.part(codes.shape[1])
        parts = (
            torch.split(tensor[:, here], segment or tensor.shape[1], 1)
            for tensor in objective(codes.to(device), 0, first)
        )
        state, total = None, torch.zeros(len(codes), 3, device=device)
        for inputs, targets, weights in zip(*parts, strict=True):
            with autocast():
                if segment is None:
                    logits = model(inputs)
                else:
                    logits, state = model(inputs, state, return_state=True)
            scored = weights > 0
            nats = cross_entropy(logits, targets).masked_fill(~scored, 0.0).sum(1)
            correct = ((logits.argmax(-1) == targets) & scored).sum(1)
            total += torch.stack([nats, correct.float(), scored.sum(1).float()], 1)
        if first // batch % processes.readers == processes.reader:  # no batch given again
            sums[first : first + len(codes)] = total.double().cpu()
    model.train(training)
    nats, correct, bases = processes.add(sums).numpy().T
    return Score(nats / math.log(2), bases.astype(np.int64), float(correct.sum() / bases.sum()))


class Baseline(Protocol):
    """A model of every order at once, such as `dnamamba.evaluation.markov.Markov`."""

    def bits(self, codes: Codes) -> NDArray[np.float32]:
        """Give (orders, length) bits of each base; NaN where the base is N."""


def score_baseline(baseline: Baseline, windows: Windows, objective: Objective) -> list[Score]:
    """Score every order of a Markov model on the bases that the objective asks about."""
    bits: list[NDArray[np.float64]] = []
    bases = []
    for first, codes in batches(windows, 1):
        asked = objective(codes, 0, first).weights[0].numpy() > 0
        scored = np.zeros(asked.size, dtype=bool)
        scored[objective.shift :] = asked[: asked.size - objective.shift]
        bits.append(baseline.bits(codes[0].numpy())[:, scored].sum(1, dtype=np.float64))
        bases.append(int(scored.sum()))
    count = np.array(bases, dtype=np.int64)
    return [Score(order, count) for order in np.stack(bits, 1)]
