"""Pooling hidden states over spans of a sequence, part by part as they are computed."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnamamba.inference.arriving import Arriving, send

Pool = Literal["mean", "max", "last", "center", "none"]
"""What is made of the hidden states of a span: the mean, the largest of each channel, those of the
last base that is read or of the middle one, or nothing: all are kept."""
PIECE: Final = 256
"""Bases that are reduced at a time on the device, side by side; the rest is done here, in fp64."""


@dataclass(frozen=True)
class Reduced:
    """What a part of a sequence has been reduced to, on its way from the device.

    Attributes
    ----------
    start, end
        Its bases.
    rows
        (rows, channels) fp32.
    edges
        Bases at which a span begins or ends, the first of all included.
    firsts
        The first row of each of them.
    """

    start: int
    end: int
    rows: Arriving
    edges: NDArray[np.int64]
    firsts: NDArray[np.int64]


class Pooler:
    """Pools one sequence over spans, which may overlap.

    Parameters
    ----------
    spans
        (spans, 2) int64, half-open and not empty, in any order.
    pool
        Any but "none".
    """

    def __init__(self, spans: NDArray[np.int64], pool: Pool) -> None:
        self._pool = pool
        self._order = np.argsort(spans[:, 1], kind="stable")
        self._spans = spans[self._order]
        if pool == "center":
            middles = self._spans.sum(1) // 2
            self._order = self._order[np.argsort(middles, kind="stable")]
            self._spans = np.stack([np.sort(middles), np.sort(middles) + 1], 1)
        elif pool == "last":
            self._spans = np.stack([self._spans[:, 1] - 1, self._spans[:, 1]], 1)
        self._edges = np.unique(self._spans)
        # The earliest start of any span that is not behind this one in the order of ends.
        starts = self._spans[:, 0]
        self._earliest = np.append(np.minimum.accumulate(starts[::-1])[::-1], np.iinfo(int).max)
        self.place = 0
        self._done = 0
        self._starts = np.empty(0, np.int64)
        self._kept = np.empty((0, 0))

    def reduce(self, start: int, hidden: Tensor) -> "Reduced":
        """Reduce the hidden states of some bases where they lie, and do not wait for that.

        Parameters
        ----------
        start
            The number of the first of them.
        hidden
            (bases, channels), on any device.
        """
        end = start + len(hidden)
        inside = self._edges[slice(*np.searchsorted(self._edges, (start, end), "right"))]
        inside = inside[inside < end]
        edges = np.append(start, inside[inside > start])
        pieces = np.union1d(edges - start, np.arange(0, len(hidden), PIECE))
        lengths = np.diff(np.append(pieces, len(hidden)))
        reduced = torch.segment_reduce(
            hidden.float(),
            "max" if self._pool == "max" else "sum",
            lengths=send(lengths, hidden.device),
            unsafe=True,
        )
        firsts = np.searchsorted(pieces, edges - start)
        return Reduced(start, end, Arriving(reduced), edges, firsts)

    def take(self, part: "Reduced") -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Take what `reduce` has made of the next bases.

        Returns
        -------
        The numbers of the spans that end here, and their pooled states, (spans, channels).
        """
        self.place = part.end
        together = np.maximum if self._pool == "max" else np.add
        found = together.reduceat(part.rows.numpy().astype(np.float64), part.firsts, axis=0)
        self._starts = np.append(self._starts, part.edges)
        self._kept = np.concatenate([self._kept.reshape(-1, found.shape[1]), found])
        last = int(np.searchsorted(self._spans[:, 1], part.end, "right"))
        rows, values = self._order[self._done : last], self._values(self._done, last)
        self._done = last
        behind = np.searchsorted(self._starts, self._earliest[last])
        self._starts, self._kept = self._starts[behind:], self._kept[behind:]
        return rows, values

    def add(self, hidden: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Reduce the hidden states of the next bases, and take them."""
        return self.take(self.reduce(self.place, hidden))

    def _values(self, first: int, last: int) -> NDArray[np.float32]:
        spans = self._spans[first:last]
        if not len(spans):
            return np.empty((0, self._kept.shape[1]), np.float32)
        together = np.maximum if self._pool == "max" else np.add
        bounds = np.searchsorted(self._starts, spans).ravel()
        padded = np.concatenate([self._kept, np.zeros_like(self._kept[:1])])
        pooled = together.reduceat(padded, bounds, axis=0)[::2]
        if self._pool == "mean":
            pooled = pooled / (spans[:, 1] - spans[:, 0])[:, None]
        return pooled.astype(np.float32)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return what `restore` needs to go on from here."""
        about = np.array([self.place, self._done])
        return {"about": about, "starts": self._starts, "kept": self._kept}

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Go on where `state` was taken, of a pooler of the same spans."""
        self.place, self._done = map(int, state["about"])
        self._starts = state["starts"].astype(np.int64)
        self._kept = state["kept"].astype(np.float64)


class Keeper:
    """Keeps the hidden states of all bases, where a `Pooler` would pool them."""

    def __init__(self) -> None:
        self.place = 0

    def reduce(self, start: int, hidden: Tensor) -> Reduced:
        """Begin to fetch those of some bases, of which `start` is the first."""
        bases = np.arange(start, start + len(hidden))
        return Reduced(start, start + len(hidden), Arriving(hidden.float()), bases, bases - start)

    def take(self, part: Reduced) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Take those of the next bases, and return the numbers of these with them."""
        self.place = part.end
        return part.edges, part.rows.numpy()

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return what `restore` needs to go on from here."""
        return {"place": np.array([self.place])}

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Go on where `state` was taken."""
        self.place = int(state["place"][0])
