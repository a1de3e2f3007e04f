"""Rows of a table in an order of their own each epoch, a function of the seed and the step."""

import numpy as np
from numpy.typing import NDArray


class Shuffled:
    """Which rows each step reads.

    An epoch reads every row once; its last batch may be smaller. Rows of a step are drawn without a
    look at their lengths: where classes differ in length, batches of like length would each lean to
    some of them.

    Parameters
    ----------
    size
        Rows, 1 or more.
    batch
        Rows of a step, 1 or more.
    seed
        Any integer; its lowest 64 bits count.
    """

    def __init__(self, size: int, batch: int, seed: int) -> None:
        self._size = size
        self._batch = batch
        self._seed = seed
        self._epoch: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))

    @property
    def steps_per_epoch(self) -> int:
        """Steps that read every row once."""
        return -(-self._size // self._batch)

    def rows(self, step: int) -> NDArray[np.int64]:
        """Return the numbers of the rows of a step, counted from 0."""
        epoch, number = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch[0]:
            # A counter-based generator (Salmon et al. 2011, Philox), a counter for each epoch.
            key = np.array([self._seed % 2**64, 0], dtype=np.uint64)
            random = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, epoch, 0]))
            self._epoch = epoch, random.permutation(self._size)
        return self._epoch[1][number * self._batch :][: self._batch]
