"""Rows of a table in batches of like length, each a function of the seed and the step."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

POOL: Final = 64
"""Batches whose rows are sorted by length together; more of them pad less and mix less."""


class Shuffled:
    """Which rows each step reads.

    An epoch reads every row once, in an order of its own; its last batch may be smaller. Rows are
    shuffled, sorted by length within pools of `POOL` batches, and the batches of a pool shuffled
    again, so that a batch holds rows of like length and a step says little of the one before.

    Parameters
    ----------
    lengths
        (rows,) bases of each; one row at least.
    batch
        Rows of a step, 1 or more.
    seed
        Any integer; its lowest 64 bits count.
    """

    def __init__(self, lengths: NDArray[np.int64], batch: int, seed: int) -> None:
        self._lengths = lengths
        self._batch = batch
        self._seed = seed
        self._epoch: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    @property
    def steps_per_epoch(self) -> int:
        """Steps that read every row once."""
        return -(-len(self._lengths) // self._batch)

    def rows(self, step: int) -> NDArray[np.int64]:
        """Return the numbers of the rows of a step, counted from 0."""
        epoch, number = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch[0]:
            self._epoch = epoch, self._plan(epoch)
        return self._epoch[1][number]

    def _plan(self, epoch: int) -> list[NDArray[np.int64]]:
        # A counter-based generator (Salmon et al. 2011, Philox), with a counter for each epoch.
        key = np.array([self._seed % 2**64, 0], dtype=np.uint64)
        random = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, epoch, 0]))
        order = random.permutation(len(self._lengths))
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(order), POOL * self._batch):
            pool = order[start : start + POOL * self._batch]
            pool = pool[np.argsort(self._lengths[pool], kind="stable")]
            parts = [pool[at : at + self._batch] for at in range(0, len(pool), self._batch)]
            batches += [parts[number] for number in random.permutation(len(parts))]
        return batches
