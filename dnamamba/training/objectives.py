"""What a language model is asked: the next base, or the bases that were masked.

An objective is a pure function of the codes, the seed, the step and the index of the window: a
resume asks the same questions, and so does any number of machines.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnamamba.alphabet import BASE, SOFT_MASK, N
from dnamamba.evaluation.language import Batch

Tokens = Callable[[Tensor], Tensor]
"""Store codes to model ids, as `LanguageModel.tokens`."""

_WORD: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MIX: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


class NextBase:
    """Predict base t + 1 from bases 0 ... t; the last logit of a window is asked nothing.

    Parameters
    ----------
    tokens
        Store codes to model ids.
    soft_mask_weight
        Weight of targets that are soft-masked; N weighs nothing, every other base one.
    """

    shift = 1

    def __init__(self, tokens: Tokens, soft_mask_weight: float = 1.0) -> None:
        self.tokens = tokens
        self.soft_mask_weight = soft_mask_weight

    def __call__(self, codes: Tensor, step: int, first: int) -> Batch:
        """Ask about (batch, length) uint8 codes; `step` and `first` change nothing."""
        del step, first
        inputs = self.tokens(codes)
        weights = target_weights(codes, self.soft_mask_weight).roll(-1, dims=1)
        weights[:, -1] = 0.0
        return Batch(inputs, inputs.roll(-1, dims=1), weights)


class MaskedBase:
    """Predict 15 % of the bases: 80 % of them hidden, 10 % replaced, 10 % left (BERT, 1810.04805).

    Parameters
    ----------
    tokens
        Store codes to model ids.
    mask_id
        The id that hides a base.
    seed
        Draws the masks, together with the step, the index of the window and the position.
    soft_mask_weight
        Weight of targets that are soft-masked; N is never asked for.
    fraction
        Share of the bases that are asked for.
    """

    shift = 0

    def __init__(
        self,
        tokens: Tokens,
        mask_id: int,
        seed: int,
        soft_mask_weight: float = 1.0,
        fraction: float = 0.15,
    ) -> None:
        self.tokens = tokens
        self.mask_id = mask_id
        self.seed = seed
        self.soft_mask_weight = soft_mask_weight
        self.fraction = fraction

    def __call__(self, codes: Tensor, step: int, first: int) -> Batch:
        """Ask about (batch, length) uint8 codes, the windows `first` ... of `step`."""
        bits = random_bits(self.seed, step, first, codes)
        asked = (_uniform(bits, 40) < self.fraction) & (codes & BASE != N)
        action = _uniform(bits, 16)
        replaced = torch.where(asked & (action >= 0.9), (bits & 3).to(codes.dtype), codes)
        inputs = self.tokens(replaced).masked_fill(asked & (action < 0.8), self.mask_id)
        weights = target_weights(codes, self.soft_mask_weight).masked_fill(~asked, 0.0)
        return Batch(inputs, self.tokens(codes), weights)


class Label:
    """Name the class of whole windows.

    Parameters
    ----------
    tokens
        Turns store codes into ids.
    label
        (step, index) to the class of that sample; every window counts the same.
    substituted
        Share of the bases that are drawn anew, one in four of them as it was: windows that are
        never twice the same are harder to learn by heart.
    seed
        Draws them, together with the step, the index of the window and the position.
    """

    shift = 0

    def __init__(
        self,
        tokens: Tokens,
        label: Callable[[int, int], int],
        substituted: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.tokens = tokens
        self.label = label
        self.substituted = substituted
        self.seed = seed

    def __call__(self, codes: Tensor, step: int, first: int) -> Batch:
        """Ask about (batch, length) codes; targets and weights are (batch, 1)."""
        if self.substituted:
            bits = random_bits(self.seed, step, first, codes)
            drawn = (_uniform(bits, 40) < self.substituted) & (codes & BASE != N)
            codes = torch.where(drawn, (bits & 3).to(codes.dtype), codes)
        labels = [self.label(step, index) for index in range(first, first + len(codes))]
        targets = torch.tensor(labels, device=codes.device)[:, None]
        return Batch(self.tokens(codes), targets, torch.ones_like(targets, dtype=torch.float32))


class Outcome:
    """Say what whole sequences are: their classes, labels or numbers.

    Parameters
    ----------
    tokens
        Turns store codes, padded behind the ends, into ids.
    asked
        A step to the targets of its sequences, and their weights, (sequences, outputs) each.
    """

    shift = 0

    def __init__(self, tokens: Tokens, asked: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        self.tokens = tokens
        self.asked = asked

    def __call__(self, codes: Tensor, step: int, first: int) -> Batch:
        """Ask about (batch, length) codes, the sequences `first` ... of `step`."""
        here = slice(first, first + len(codes))
        targets, weights = (each[here].to(codes.device) for each in self.asked(step))
        return Batch(self.tokens(codes), targets, weights)


class BaseOutcome:
    """Say what each base of sequences is: labels or numbers.

    Parameters
    ----------
    tokens
        Turns store codes, padded behind the ends, into ids.
    asked
        A step to the targets of its sequences, as they are read, and what each of them counts:
        (bases, outputs) floats each. NaN is asked nothing.
    """

    shift = 0

    def __init__(
        self,
        tokens: Tokens,
        asked: Callable[[int], Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]],
    ) -> None:
        self.tokens = tokens
        self.asked = asked

    def __call__(self, codes: Tensor, step: int, first: int) -> Batch:
        """Ask about (batch, length) codes; targets and weights are (batch, length, outputs)."""
        rows = self.asked(step)[first : first + len(codes)]
        targets = np.zeros((*codes.shape, rows[0][0].shape[1]), np.float32)
        weights = np.zeros_like(targets)
        for row, (wanted, counts) in enumerate(rows):
            bases = min(len(wanted), codes.shape[1])
            targets[row, :bases], weights[row, :bases] = wanted[:bases], counts[:bases]
        unknown = np.isnan(targets)
        targets[unknown], weights[unknown] = 0, 0
        asked = (torch.from_numpy(each).to(codes.device) for each in (targets, weights))
        return Batch(self.tokens(codes), *asked)


def target_weights(codes: Tensor, soft_mask_weight: float) -> Tensor:
    """Weigh each base as a target: float32, N zero, soft-masked `soft_mask_weight`, others one."""
    weights = torch.ones(codes.shape, dtype=torch.float32, device=codes.device)
    if soft_mask_weight != 1.0:
        weights.masked_fill_(codes & SOFT_MASK != 0, soft_mask_weight)
    return weights.masked_fill_(codes & BASE == N, 0.0)


def random_bits(seed: int, step: int, first: int, codes: Tensor) -> Tensor:
    """Hash (seed, step, index, position) into 64 bits for each base of `codes`.

    SplitMix64 (Steele et al., OOPSLA 2014) as a counter-based generator: the same bits on every
    device.

    Returns
    -------
    (batch, length) int64 on the device of `codes`.
    """
    batch, length = codes.shape
    start = _mix(_mix(seed) ^ step)
    keys = [_signed(_mix(start ^ index)) for index in range(first, first + batch)]
    key = torch.tensor(keys, dtype=torch.int64).to(codes.device, non_blocking=True)
    position = torch.arange(1, length + 1, device=codes.device)
    bits = key[:, None] + position * _signed(_GOLDEN)
    for shift, factor in _MIX:
        bits = (bits ^ _shift_right(bits, shift)) * _signed(factor)
    return bits ^ _shift_right(bits, 31)


def _uniform(bits: Tensor, low: int) -> Tensor:
    """Read the 24 bits from bit `low` up as a float32 in [0, 1)."""
    return (_shift_right(bits, low) & 0xFFFFFF).float() * 2.0**-24


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Shift as if unsigned, which int64 is not."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _mix(word: int) -> int:
    word = (word + _GOLDEN) & _WORD
    for shift, factor in _MIX:
        word = ((word ^ (word >> shift)) * factor) & _WORD
    return word ^ (word >> 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
