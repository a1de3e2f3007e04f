"""K-mer sketches: how much sequence two sets of regions have in common.

FracMinHash (Irber et al. 2022): of all k-mers those are kept whose hash lies in the lowest 1/scale
of its range, so that two sketches of one scale sample the same k-mers. A k-mer and its reverse
complement count as one; soft masks are ignored; a k-mer with an N is left out.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.alphabet import BASE, Codes, N

K: Final = 21
"""Bases in a k-mer. Chance matches are rare up to some 10^10 bases: 4^21 is 4 x 10^12."""
_BLOCK: Final = 1 << 15

Hashes = NDArray[np.uint64]


def sketch(
    sequences: Iterable[Codes], scale: int, among: Hashes | None = None
) -> tuple[Hashes, NDArray[np.int64]]:
    """Sketch sequences, together.

    Parameters
    ----------
    sequences
        Store codes, each (length,) uint8; read in blocks, so that they may be memory maps.
    scale
        One k-mer in so many is kept; 1 keeps all.
    among
        Sorted hashes: others are passed over. None keeps all.

    Returns
    -------
    Distinct hashes, sorted, and how often each occurs.
    """
    kept = [np.empty(0, dtype=np.uint64)]
    for _, hashes in _sampled(sequences, scale):
        if among is not None:
            hashes = hashes[contains(among, hashes)]
        kept.append(hashes)
    return np.unique(np.concatenate(kept), return_counts=True)


def places(sequence: Codes, scale: int) -> tuple[NDArray[np.int64], Hashes]:
    """Return where each k-mer of a sequence's sketch begins, in order, and its hash."""
    found = [*_sampled([sequence], scale)]
    starts = [np.empty(0, np.int64), *(starts for starts, _ in found)]
    return np.concatenate(starts), np.concatenate(
        [np.empty(0, np.uint64), *(hashes for _, hashes in found)]
    )


def contains(pool: Hashes, hashes: Hashes) -> NDArray[np.bool_]:
    """Tell which hashes are in the sorted `pool`."""
    if not pool.size:
        return np.zeros(hashes.shape, dtype=np.bool_)
    at = np.searchsorted(pool, hashes).clip(max=pool.size - 1)
    return np.asarray(pool[at] == hashes)


def _sampled(sequences: Iterable[Codes], scale: int) -> Iterator[tuple[NDArray[np.int64], Hashes]]:
    """Give the k-mers to keep of each block: where they begin in its sequence, and their hashes."""
    highest = np.uint64((2**64 - 1) // scale)
    for sequence in sequences:
        for start in range(0, len(sequence) - K + 1, _BLOCK):
            kmers, whole = _canonical_kmers(sequence[start : start + _BLOCK + K - 1])
            hashes = _mix(kmers)
            kept = np.flatnonzero((hashes <= highest) & whole)
            yield kept + start, hashes[kept]


def _canonical_kmers(codes: Codes) -> tuple[Hashes, NDArray[np.bool_]]:
    """Return each k-mer or its reverse complement, the lower one, two bits a base.

    And whether it has no N: what stands for one that has means nothing.
    """
    digits = codes.astype(np.uint64) & np.uint64(BASE)
    forward = _pack(digits, K)
    backward = _pack(np.uint64(3) - digits[::-1], K)[::-1]
    canonical: Hashes = np.minimum(forward, backward)
    before = np.concatenate(([0], np.cumsum(digits == N)))
    return canonical, np.asarray(before[K:] == before[:-K])


def _pack(digits: Hashes, size: int) -> Hashes:
    """Return the index of the k-mer of `size` bases that begins at each base, made from halves."""
    if size == 1:
        return digits
    half = size // 2
    halves = _pack(digits, half)
    packed: Hashes = halves[:-half] << np.uint64(2 * half) | halves[half:]
    if size % 2:
        packed = packed[:-1] << np.uint64(2) | digits[size - 1 :]
    return packed


def _mix(kmers: Hashes) -> Hashes:
    """Hash by the finaliser of MurmurHash3 (Appleby), a bijection."""
    hashes: Hashes = kmers ^ kmers >> np.uint64(33)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        hashes *= np.uint64(factor)
        hashes ^= hashes >> np.uint64(33)
    return hashes
