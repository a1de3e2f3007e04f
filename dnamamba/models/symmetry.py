"""Reverse complement: reading both strands with the same weights.

In Caduceus-PS (Schiff et al. 2024, arXiv 2403.03234) a hidden state has 2 x d_model channels, one
half for each strand, and embedding, norms and mixers act on the halves apart, the second in reverse
complement orientation. The halves therefore meet only in the head, and the model is one backbone
that reads both strands as a batch: no flipped copy is made between its layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def complement_map(ids: Sequence[int], vocab_size: int) -> Tensor:
    """Return (vocab_size,) int64: an id to its complement's; other than A, C, G, T, to itself.

    Parameters
    ----------
    ids
        The ids of A, C, G, T, and whatever follows.
    vocab_size
        Number of ids.
    """
    table = torch.arange(vocab_size)
    for base in range(4):
        table[ids[base]] = ids[3 - base]
    return table


def reverse_complement(ids: Tensor, complement: Tensor) -> Tensor:
    """Read ids (batch, length) on the other strand."""
    return complement[ids.flip(1)]


def both_strands(ids: Tensor, complement: Tensor) -> Tensor:
    """Stack ids (batch, length) on their reverse complements: (2 batch, length)."""
    return torch.cat([ids, reverse_complement(ids, complement)])


def part_strands(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Undo `both_strands` on hidden states (2 batch, length, channels).

    Returns
    -------
    This strand's and the other's, (batch, length, channels) each, both in this strand's order.
    """
    here, there = hidden.chunk(2)
    return here, there.flip(1)
