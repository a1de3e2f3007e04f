"""What a scorer reads: a window of known bases, and the changes to be scored in it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.alphabet import Codes, reverse_complement
from dnamamba.models.heads import LanguageModel
from dnamamba.models.precision import Autocast


class Change(NamedTuple):
    """Bases of a window, and what stands in their place.

    Attributes
    ----------
    start, end
        Half-open, in the window; empty for an insertion.
    alt
        (bases,) uint8 store codes, without N and soft mask; empty for a deletion.
    """

    start: int
    end: int
    alt: Codes

    @property
    def gain(self) -> int:
        """How many bases longer the window becomes."""
        return len(self.alt) - (self.end - self.start)


class Window(NamedTuple):
    """A stretch of a genome, and changes of it, each of which is scored by itself.

    Attributes
    ----------
    codes
        (bases,) uint8 store codes, without N and soft mask.
    changes
        In any order.
    """

    codes: Codes
    changes: Sequence[Change]

    def other_strand(self) -> "Window":
        """Return the reverse complement of the window, and the same changes in the same order."""
        length = len(self.codes)
        changes = [
            Change(length - end, length - start, reverse_complement(alt))
            for start, end, alt in self.changes
        ]
        return Window(reverse_complement(self.codes), changes)

    def changed(self, change: Change, start: int = 0, end: int | None = None) -> Codes:
        """Return bases `start` to `end` of the window, which hold a change, with it in place."""
        return np.concatenate(
            [self.codes[start : change.start], change.alt, self.codes[change.end : end]]
        )


class WindowScorer(Protocol):
    """Scores changes on the strand that is given."""

    def score(self, windows: Sequence[Window]) -> NDArray[np.float64]:
        """Return the log-likelihood ratio of each change, window by window, in nats."""


@contextmanager
def in_use(model: LanguageModel, autocast: Autocast) -> Iterator[None]:
    """Compute without gradients, in eval mode, and restore the model's mode."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast():
            yield
    finally:
        model.train(training)
