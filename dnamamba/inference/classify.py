"""What a classifier makes of sequence: a record cut into windows, and their probabilities.

The probabilities are shared out among the classes that the model was fitted on, and none is kept
for anything else. A species that it never saw can therefore at best be unsure, where its windows
are like those of no class in particular; a close relative of one class looks like that class.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnamamba.alphabet import Codes, reverse_complement
from dnamamba.data.known import Known
from dnamamba.models.classifier import Classifier
from dnamamba.models.precision import Autocast

BATCH_BASES: Final = {"cpu": 2**16, "cuda": 2**19}
"""Bases that are read at once, by the type of device."""
_COMPARED: Final = 2**12
"""Bases of both strands that are compared at a time."""


@dataclass(frozen=True)
class Window:
    """A stretch of a record, as a classifier reads it.

    Attributes
    ----------
    start, end
        Where it lies in its record: 0-based, half-open, the N that were cut out of it included.
    codes
        (bases,) uint8, without N or soft mask; of either strand.
    """

    start: int
    end: int
    codes: Codes


def cut(codes: Codes, length: int, shortest: int) -> Iterator[Window]:
    """Cut a record into windows that lie side by side.

    N are cut out first, as they were where the model was fitted: how many there are tells how a
    genome was sequenced. Both strands are cut at the same places, and the windows are those of the
    strand that sorts first, from its beginning on, so that a record and its reverse complement give
    the same windows.

    Parameters
    ----------
    codes
        (bases,) uint8 store codes of the record.
    length
        Bases of a window.
    shortest
        Bases that the last window must have; it is left out where it has fewer.
    """
    known = Known(codes)
    backward = _other_strand_sorts_first(known)
    for start in range(0, len(known), length):
        end = min(start + length, len(known))
        if end - start < shortest:
            return
        if not backward:
            yield Window(*known.span(start, end), known.fetch(start, end))
        else:
            there = len(known) - end, len(known) - start
            yield Window(*known.span(*there), reverse_complement(known.fetch(*there)))


def _other_strand_sorts_first(known: Known) -> bool:
    """Tell whether the reverse complement comes before the strand that was given."""
    for start in range(0, (len(known) + 1) // 2, _COMPARED):
        end = min(start + _COMPARED, len(known))
        here = known.fetch(start, end)
        there = reverse_complement(known.fetch(len(known) - end, len(known) - start))
        differ = np.flatnonzero(here != there)
        if differ.size:
            return bool(there[differ[0]] < here[differ[0]])
    return False


def classify_windows(
    classifier: Classifier,
    windows: Iterable[Codes],
    *,
    device: torch.device,
    batch_bases: int,
    autocast: Autocast = nullcontext,
) -> Iterator[NDArray[np.float64]]:
    """Classify windows, neighbours of one length together.

    Parameters
    ----------
    classifier
        Its mode is restored after each batch.
    windows
        (length,) uint8 store codes each, of any lengths; read no further than a batch ahead.
    device
        Where the classifier lies.
    batch_bases
        The most bases that are read at once; one window is, however long.
    autocast
        The context of the forward pass.

    Yields
    ------
    (classes,) calibrated probabilities of each window, in order; on a CPU, those of a batch and of
    the batch of its reverse complements have the same bits.
    """
    for batch in _batches(windows, batch_bases):
        yield from _read(classifier, classifier.probabilities, batch, device, autocast)


def embed_windows(
    classifier: Classifier,
    windows: Iterable[Codes],
    *,
    device: torch.device,
    batch_bases: int,
    autocast: Autocast = nullcontext,
) -> Iterator[NDArray[np.float32]]:
    """Return what the head of a classifier sees of windows, the mean of both strands.

    Parameters
    ----------
    classifier, windows, device, batch_bases, autocast
        As for `classify_windows`.

    Yields
    ------
    (width,) float32 of each window, in order.
    """
    for batch in _batches(windows, batch_bases):
        yield from _read(classifier, classifier.both_strands, batch, device, autocast)


def _batches(windows: Iterable[Codes], batch_bases: int) -> Iterator[list[Codes]]:
    batch: list[Codes] = []
    for codes in windows:
        bases = sum(map(len, batch))
        if batch and (len(codes) != len(batch[0]) or bases + len(codes) > batch_bases):
            yield batch
            batch = []
        batch.append(codes)
    if batch:
        yield batch


@torch.no_grad()
def _read(
    classifier: Classifier,
    read: Callable[[Tensor], Tensor],
    batch: list[Codes],
    device: torch.device,
    autocast: Autocast,
) -> NDArray[Any]:
    training = classifier.training
    classifier.eval()
    try:
        codes = torch.from_numpy(np.stack(batch)).to(device)
        with autocast():
            found = read(classifier.tokens(codes))
        return found.cpu().numpy()
    finally:
        classifier.train(training)
