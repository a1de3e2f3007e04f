"""What a predictor makes of sequences of any lengths, those of like length read together."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnamamba.alphabet import Codes
from dnamamba.models.precision import Autocast
from dnamamba.models.predictor import PAD, Predictor

BATCH_BASES: Final = {"cpu": 2**16, "cuda": 2**19}
"""Bases that are read at once, padding included, by the type of device."""


def padded(sequences: Sequence[Codes]) -> NDArray[np.uint8]:
    """Put sequences below each other, (sequences, longest) store codes, `PAD` behind the ends."""
    rows = np.full((len(sequences), max(map(len, sequences))), PAD, np.uint8)
    for row, codes in zip(rows, sequences, strict=True):
        row[: len(codes)] = codes
    return rows


def predict_sequences(
    predictor: Predictor,
    sequences: Sequence[Codes],
    *,
    device: torch.device,
    autocast: Autocast = nullcontext,
) -> NDArray[np.float64]:
    """Predict sequences from both of their strands.

    Parameters
    ----------
    predictor
        Its mode is restored.
    sequences
        (bases,) uint8 store codes each, of a base at least; one sequence or more.
    device
        Where the predictor lies.
    autocast
        The context of the forward pass.

    Returns
    -------
    (sequences, names), as `Predictor.predict`; of each base (bases, names), those of all sequences
    end to end.
    """
    found = _read(predictor, predictor.predict, sequences, device, autocast)
    return np.concatenate(found)


def features_of(
    predictor: Predictor,
    sequences: Sequence[Codes],
    *,
    device: torch.device,
    autocast: Autocast = nullcontext,
    positions: Sequence[NDArray[np.int64]] | None = None,
) -> NDArray[np.float32]:
    """Return what the head of a predictor sees of sequences, the mean of both strands.

    Parameters
    ----------
    predictor, sequences, device, autocast
        As for `predict_sequences`.
    positions
        Of each base: those that are wanted of each sequence, counted from 0; None for all.

    Returns
    -------
    (sequences, width); of each base (bases, width), those of all sequences end to end.
    """
    read = predictor.both_strands
    found = _read(predictor, read, sequences, device, autocast, positions)
    return np.concatenate(found)


@torch.no_grad()
def _read(
    predictor: Predictor,
    read: Callable[[Tensor], Tensor],
    sequences: Sequence[Codes],
    device: torch.device,
    autocast: Autocast,
    positions: Sequence[NDArray[np.int64]] | None = None,
) -> list[NDArray[Any]]:
    training = predictor.training
    predictor.eval()
    found: list[Any] = [None] * len(sequences)
    try:
        most = BATCH_BASES.get(device.type, BATCH_BASES["cpu"])
        for rows in _batches([len(codes) for codes in sequences], most):
            codes = torch.from_numpy(padded([sequences[row] for row in rows])).to(device)
            with autocast():
                together = read(predictor.tokens(codes)).cpu().numpy()
            bases = [len(sequences[row]) if predictor.config.per_base else 1 for row in rows]
            outputs = np.split(together, np.cumsum(bases)[:-1])
            for row, output in zip(rows, outputs, strict=True):
                found[row] = output if positions is None else output[positions[row]]
    finally:
        predictor.train(training)
    return found


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Part sequences by length into batches of so many bases, padded; or of a single sequence."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[row] > most:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
