"""Markov models of order 0 to k: what a language model has to beat.

An order-k model knows the k bases before a base and nothing else. The orders are interpolated, so
that a context seen rarely leans on the shorter one: p_k = (count + 16 p_(k-1)) / (total + 16) with
p_(-1) = 1/4. This is the hierarchical Dirichlet model of MacKay & Peto (1995), "A hierarchical
Dirichlet language model", with one concentration for all orders.

A k-mer is an index here: its bases are digits in base 4, the first one highest.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.alphabet import BASE, Codes, N
from dnamamba.errors import UsageError

MAX_ORDER: Final = 12
CONCENTRATION: Final = np.float32(16)
_BLOCK: Final = 1 << 18

Kmers = NDArray[np.int32]
Probabilities = NDArray[np.float32]
Counts = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class _Order:
    """Probabilities of one order, (contexts, 4).

    `contexts` lists, sorted, the contexts that the rows are for, and ends with a sentinel; None
    where every context has its row. For one that is not listed the shorter context answers.
    """

    probabilities: Probabilities
    contexts: Kmers | None = None

    def look_up(self, kmers: Kmers, shorter: Probabilities) -> Probabilities:
        """Return the probability of each k-mer's last base; `shorter` is the order below's."""
        if self.contexts is None:
            return self.probabilities.ravel()[kmers]
        wanted = kmers >> 2
        row = np.searchsorted(self.contexts, wanted)
        found = self.contexts[row] == wanted
        return np.where(found, self.probabilities[row, kmers & 3], shorter)


class Markov:
    """Markov models of all orders from 0 to `max_order`, fitted on both strands."""

    def __init__(self, orders: Sequence[_Order]) -> None:
        self._orders = orders

    @property
    def max_order(self) -> int:
        """The longest context, in bases."""
        return len(self._orders) - 1

    @classmethod
    def fit(cls, sequences: Iterable[Codes], max_order: int = MAX_ORDER) -> "Markov":
        """Count k-mers and their reverse complements, none over an N or from sequence to sequence.

        Order 12 takes 360 MB, and 0.8 GB while it is fitted, however long the sequences are; where
        they are short, only the contexts that occur take memory.

        Parameters
        ----------
        sequences
            Store codes, each (length,) uint8; soft masks are ignored. Read in blocks, so that they
            may be memory maps.
        max_order
            The longest context, 0 to 12.

        Raises
        ------
        UsageError
            Where `max_order` is out of range.
        """
        if not 0 <= max_order <= MAX_ORDER:
            raise UsageError(f"a Markov model of order {max_order}: choose 0 to {MAX_ORDER}")
        sequences = list(sequences)
        bases = sum(map(len, sequences))
        full = max(order for order in range(max_order + 1) if 4**order <= max(1, 4 * bases))
        orders = list(_interpolate(_count(sequences, full)))
        while len(orders) <= max_order:
            orders.append(_fit_seen(sequences, orders))
        return cls(orders)

    def bits(self, codes: Codes) -> NDArray[np.float32]:
        """Say how many bits each base costs under each order, given the bases before it here.

        At the start, and after an N, the context restarts: where only i bases precede, every order
        above i answers as order i does.

        Parameters
        ----------
        codes
            (length,) uint8 store codes.

        Returns
        -------
        (max_order + 1, length) float32, -log2 of the probability; NaN where the base is N.
        """
        bits = np.empty((self.max_order + 1, len(codes)), dtype=np.float32)
        for start, kmers, known in _blocks([codes], self.max_order):
            chance = np.full(len(kmers), 0.25, dtype=np.float32)
            for order, model in enumerate(self._orders):
                answer = model.look_up(kmers & _mask(order), chance)
                chance = np.where(known > order, answer, chance)
                bits[order, start : start + len(kmers)] = -np.log2(chance)
            bits[:, start : start + len(kmers)][:, known == 0] = np.nan
        return bits


def _mask(order: int) -> int:
    """Mask the last order + 1 bases of a k-mer."""
    return int(4 ** (order + 1) - 1)


def _blocks(sequences: Iterable[Codes], order: int) -> Iterator[tuple[int, Kmers, Kmers]]:
    """Read sequences in blocks.

    Yields
    ------
    The block's start in its sequence; for each base the (order + 1)-mer that it ends; and how many
    of that k-mer's last bases are known, counted back from it to an N or to the start of the
    sequence: 0 at an N itself, at most order + 1.
    """
    for sequence in sequences:
        for start in range(0, len(sequence), _BLOCK):
            before = min(start, order)
            bases = sequence[start - before : start + _BLOCK] & BASE
            missing = bases == N
            bases[missing] = 0
            digits = bases.astype(np.int32)
            kmers = digits.copy()
            for back in range(1, order + 1):
                kmers[back:] += digits[:-back] << (2 * back)
            at = np.arange(len(bases), dtype=np.int32)
            last_missing = np.maximum.accumulate(np.where(missing, at, np.int32(-1)))
            known = np.minimum(at - last_missing, order + 1)
            yield start, kmers[before:], known[before:]


def _count(sequences: Iterable[Codes], max_order: int) -> list[Counts]:
    """Count every k-mer of 1 to max_order + 1 bases, on both strands; (4 ** k,) each."""
    # Genomes are too short for a k-mer of 9 bases or more to be seen 2^32 times.
    counts: list[Counts] = [
        np.zeros(4 ** (order + 1), dtype=np.uint64 if order < 8 else np.uint32)
        for order in range(max_order + 1)
    ]
    one = counts[-1].dtype.type(1)
    for _, kmers, known in _blocks(sequences, max_order):
        # Only with these very types does `at` take its fast path, thirty times as fast.
        np.add.at(counts[-1], kmers[known > max_order].astype(np.intp), one)
        for order in range(max_order):
            np.add.at(counts[order], kmers[known == order + 1] & _mask(order), 1)
    # A k-mer that follows a known base is the tail of a longer one: those that open a run were
    # counted above, the others are summed from the order above.
    for order in range(max_order - 1, -1, -1):
        counts[order] += counts[order + 1].reshape(4, -1).sum(axis=0, dtype=counts[order].dtype)
    for order, table in enumerate(counts):
        _add_reverse_complement(table, order + 1)
    return counts


def _add_reverse_complement(counts: Counts, length: int) -> None:
    """Add to each k-mer's count, in place, that of its reverse complement.

    A k-mer read as (left, middle, right) turns into (right', middle', left'): for one pair of
    middles, two tiles that fit into the cache are transposed and swapped.
    """
    side = length // 3
    flip_side = _reverse_complement(np.arange(4**side), side)
    flip_middle = _reverse_complement(np.arange(4 ** (length - 2 * side)), length - 2 * side)
    tiles = counts.reshape(4**side, -1, 4**side)
    for middle, other in enumerate(flip_middle):
        if middle <= other:
            here, there = tiles[:, middle].copy(), tiles[:, other].copy()
            tiles[:, middle] += there[np.ix_(flip_side, flip_side)].T
            if middle != other:
                tiles[:, other] += here[np.ix_(flip_side, flip_side)].T


def _reverse_complement(kmers: NDArray[np.integer], length: int) -> NDArray[np.integer]:
    flipped = np.zeros_like(kmers)
    for back in range(length):
        flipped = 4 * flipped + 3 - (kmers >> (2 * back) & 3)
    return flipped


def _interpolate(counts: list[Counts]) -> Iterator[_Order]:
    """Turn counts into probabilities, shortest context first; each table is then let go."""
    shorter = np.full(1, 0.25, dtype=np.float32)
    while counts:
        table = counts.pop(0)
        a, c, g, t = table.reshape(-1, 4).T
        totals = ((a + c) + (g + t)).astype(np.float32)  # far faster than sum(axis=1)
        probabilities = table.astype(np.float32)
        probabilities.reshape(4, -1)[:] += CONCENTRATION * shorter
        probabilities.reshape(-1, 4)[:] /= (totals + CONCENTRATION)[:, None]
        yield _Order(probabilities.reshape(-1, 4))
        shorter = probabilities


def _fit_seen(sequences: Iterable[Codes], below: Sequence[_Order]) -> _Order:
    """Fit the next order above `below` to the contexts that occur, for few and short sequences."""
    order = len(below)
    blocks = [kmers[known > order] for _, kmers, known in _blocks(sequences, order)]
    kmers = np.concatenate([np.empty(0, dtype=np.int32), *blocks])
    both = np.concatenate((kmers, _reverse_complement(kmers, order + 1)))
    seen, counts = np.unique(both, return_counts=True)
    contexts, row = np.unique(seen >> 2, return_inverse=True)
    table = np.zeros((len(contexts) + 1, 4), dtype=np.float32)
    table[row, seen & 3] = counts
    contexts = np.concatenate((contexts, np.full(1, 4**order, dtype=np.int32)))
    rows: Kmers = np.add.outer(contexts << 2, np.arange(4, dtype=np.int32))
    shorter = np.full(rows.shape, 0.25, dtype=np.float32)
    for lower, model in enumerate(below):
        shorter = model.look_up(rows & _mask(lower), shorter)
    totals = table.sum(axis=1, keepdims=True)
    return _Order((table + CONCENTRATION * shorter) / (totals + CONCENTRATION), contexts)
