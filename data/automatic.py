"""A split where none is asked for: whole contigs held out where there are enough, else blocks."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from dnamamba.data.region import Region, subtract
from dnamamba.data.splits import Split, count_n, cut_gaps
from dnamamba.data.store import Store
from dnamamba.errors import InputError, UsageError

FRACTION: Final = 0.1
"""Share of the bases that is held out by default."""
_MANY_CONTIGS: Final = 10
_MOST_BLOCKS: Final = 10
_WINDOWS_IN_A_BLOCK: Final = 4


def automatic_split(
    store: Store,
    contigs: Sequence[str],
    length: int,
    *,
    fraction: float = FRACTION,
    seed: int = 0,
) -> tuple[Split, str]:
    """Hold out about `fraction` of the bases that are not N, as validation.

    Where ten contigs or more hold a window, whole contigs are held out: they are taken in random
    order, each if the sum stays within 1.5 times the fraction, until the fraction is reached. Where
    that does not reach half of it, or contigs are fewer, blocks are held out: what lies between
    long runs of N is cut into blocks of one size, and some of these are drawn, spread evenly over
    the genome. There are up to ten, fewer where they would not hold four windows each.

    Parameters
    ----------
    store
        The genome.
    contigs
        The contigs to split.
    length
        Bases in a window; no block is shorter.
    fraction
        Share to hold out, between 0 and 1.
    seed
        Equal seeds give equal splits.

    Returns
    -------
    The split, without a test side, and one line on how it was cut.

    Raises
    ------
    UsageError
        Where no contig holds a window, or only one window fits, so that nothing would be left to
        train on.
    InputError
        Where the contigs hold nothing but N.
    """
    islands = _islands(store, contigs, length)
    known = {island: len(island) - count_n(store, island) for island in islands}
    total = sum(known.values())
    random = np.random.Philox(key=seed % 2**64)
    held = _draw_contigs(known, fraction * total, random)
    if held:
        names = list(dict.fromkeys(region.contig for region in held))
        what = f"{len(names):,} whole contig{'s' * (len(names) > 1)}"
    else:
        held = _draw_blocks(store, islands, length, fraction * total, random)
        names = list(dict.fromkeys(region.contig for region in held))
        what = f"{len(held):,} block{'s' * (len(held) > 1)} of"
    bases = sum(len(region) - count_n(store, region) for region in held)
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    note = (
        f"{store.source.name}: held out {what} {shown}: {bases:,} bases, {bases / total:.1%} of "
        f"what is not N"
    )
    return Split(train=tuple(subtract(islands, held)), valid=tuple(held)), note


def _islands(store: Store, contigs: Sequence[str], length: int) -> list[Region]:
    """Return what holds windows between runs of N as long as a window."""
    source = store.source.name
    lengths = {contig: store.lengths[contig] for contig in contigs}
    longest = max(lengths, key=lambda contig: lengths[contig])
    if lengths[longest] < length:
        raise UsageError(
            f"{source}: no contig holds a window of {length:,} bases; the longest, {longest}, has "
            f"{lengths[longest]:,}: choose --length {max(1, lengths[longest] // 2)} or less"
        )
    whole = [Region(contig, 0, bases) for contig, bases in lengths.items()]
    if all(count_n(store, region) == len(region) for region in whole):
        raise InputError(f"{source}: nothing but N in {', '.join(contigs[:5])}; choose --contigs")
    islands = [region for region in cut_gaps(store, whole, length) if len(region) >= length]
    if not islands:
        raise UsageError(
            f"{source}: no window of {length:,} bases lies clear of runs of as many N: choose "
            f"another --length"
        )
    order = {contig: i for i, contig in enumerate(contigs)}
    return sorted(islands, key=lambda region: (order[region.contig], region.start))


def _draw_contigs(
    known: Mapping[Region, int], target: float, random: np.random.Philox
) -> list[Region]:
    """Draw whole contigs of about `target` known bases; none where that cannot be done well."""
    bases: dict[str, int] = defaultdict(int)
    for region, count in known.items():
        bases[region.contig] += count
    if len(bases) < _MANY_CONTIGS:
        return []
    contigs = np.array(list(bases))
    held: set[str] = set()
    taken = 0
    for contig in contigs[np.argsort(random.random_raw(len(contigs)))].tolist():
        if taken < target and taken + bases[contig] <= 1.5 * target and len(held) + 1 < len(bases):
            held.add(contig)
            taken += bases[contig]
    return [region for region in known if region.contig in held] if taken >= target / 2 else []


def _draw_blocks(
    store: Store,
    islands: Sequence[Region],
    length: int,
    target: float,
    random: np.random.Philox,
) -> list[Region]:
    """Draw blocks of about `target` bases in all, and at least one."""
    wanted = min(max(int(target / (_WINDOWS_IN_A_BLOCK * length)), 1), _MOST_BLOCKS)
    blocks = [block for island in islands for block in _cut(island, max(length, target / wanted))]
    if len(blocks) < 2:
        (only,) = blocks
        raise UsageError(
            f"{store.source.name}: a split that would leave nothing to train on: windows of "
            f"{length:,} bases, and {len(only):,} bases to cut; choose --length "
            f"{max(1, len(only) // 2)} or less"
        )
    worth = [block for block in blocks if 2 * count_n(store, block) <= len(block)] or blocks
    mean = sum(map(len, worth)) / len(worth)
    count = min(max(round(target / mean), 1), len(worth), len(blocks) - 1)
    held = []
    for i in range(count):
        first, last = i * len(worth) // count, (i + 1) * len(worth) // count
        held.append(worth[first + (int(random.random_raw()) * (last - first) >> 64)])
    return held


def _cut(region: Region, size: float) -> list[Region]:
    """Cut a region into equal blocks of `size` bases or somewhat more."""
    count = max(1, int(len(region) // size))
    edges = [region.start + i * len(region) // count for i in range(count + 1)]
    return [Region(region.contig, start, end) for start, end in pairwise(edges)]
