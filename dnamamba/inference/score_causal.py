"""Variants under a model that predicts the next base: what lies before a variant is read once.

The reference is read from the window's first base on, and its state is kept where variants follow.
From there the alternate is read: up to the allele, the allele, and as many bases behind it as the
horizon says. All that was read before is the same in both, so that

    log p(alternate) - log p(reference)

is a sum over the allele and what lies behind it, and exact where the horizon is the window's end.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnamamba.alphabet import Codes
from dnamamba.errors import UsageError
from dnamamba.inference.arriving import send
from dnamamba.inference.score_window import Change, Window, in_use
from dnamamba.models.backbone import State
from dnamamba.models.heads import LanguageModel
from dnamamba.models.precision import Autocast

PASS: Final = {"cpu": 2**7, "cuda": 2**14}
"""What a pass costs however little is read in it, in bases that could be read meanwhile."""


@dataclass(frozen=True)
class _Row:
    """An alternate on its way: its number, its window, and where its reading begins and ends."""

    number: int
    window: int
    change: Change
    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin + self.change.gain


class CausalScorer:
    """Scores changes with a causal model, many at a time.

    Parameters
    ----------
    model
        Of objective "next"; its mode is restored.
    horizon
        Bases behind an allele that are read again; None reads to the window's end.
    device
        Where the model lies.
    batch_bases
        The most bases that are read at once.
    segment
        Bases between two places where a variant may begin to be read; by default what is fastest.
    autocast
        The context of the forward pass.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        horizon: int | None,
        device: torch.device,
        batch_bases: int,
        segment: int | None = None,
        autocast: Autocast,
    ) -> None:
        self._model = model
        self._horizon = horizon
        self._device = device
        self._batch_bases = batch_bases
        self._segment = segment
        self._autocast = autocast
        self._carries_state = _carries_state(model)

    def score(self, windows: Sequence[Window]) -> NDArray[np.float64]:
        """Return the log-likelihood ratio of each change, window by window, in nats."""
        rows = sorted(self._rows(windows), key=lambda row: row.begin)
        if not rows:
            return np.empty(0)
        longest = max(len(window.codes) for window in windows)
        codes = np.zeros((len(windows), longest), np.uint8)
        for line, window in zip(codes, windows, strict=True):
            line[: len(window.codes)] = window.codes
        reference = _Nats(codes.shape)
        alternates = np.zeros(len(rows))
        with in_use(self._model, self._autocast):
            state: State | None = None
            for begin, ready in itertools.groupby(rows, key=lambda row: row.begin):
                state = self._read(codes[:, : begin + 1], reference, state)
                for row, nats in self._alternates(list(ready), windows, state):
                    alternates[row.number] = nats
            self._read(codes[:, : max(row.end for row in rows)], reference, state)
        ratios = np.empty(len(rows))
        for row in rows:
            nats = reference.sum(row.window, row.change.start, row.end)
            ratios[row.number] = nats - alternates[row.number]
        return ratios

    def _rows(self, windows: Sequence[Window]) -> Iterator[_Row]:
        """Say where the reading of each alternate begins and ends.

        It begins at a base before the change, whose logits predict the first base that differs.
        """
        segment = self._segment or self._best_segment(windows)
        number = itertools.count()
        for index, window in enumerate(windows):
            length = len(window.codes)
            for change in window.changes:
                before = max(change.start - 1, 0)
                end = length
                if self._horizon is not None:
                    end = min(length, change.end + self._horizon)
                begin = before - before % segment if self._carries_state else 0
                yield _Row(next(number), index, change, begin, end)

    def _best_segment(self, windows: Sequence[Window]) -> int:
        """Weigh the passes that each segment costs against the bases that variants read again.

        Where V variants lie in L bases, segments of K take 2 L / K passes, one of the reference and
        one of variants, and V K / 2 bases are read again: the least of both together is at
        K = 2 sqrt(L PASS / V).
        """
        each = PASS.get(self._device.type, PASS["cpu"])
        length = max(len(window.codes) for window in windows)
        count = sum(len(window.changes) for window in windows)
        return max(1, round(2 * math.sqrt(each * length / max(1, count))))

    def _alternates(
        self, rows: list[_Row], windows: Sequence[Window], state: State | None
    ) -> Iterator[tuple[_Row, float]]:
        """Read alternates that begin at one place, and yield their nats from the change on."""
        rows.sort(key=len, reverse=True)
        while rows:
            count = max(1, self._batch_bases // max(1, len(rows[0])))
            batch, rows = rows[:count], rows[count:]
            codes = np.zeros((len(batch), len(batch[0])), np.uint8)
            for line, row in zip(codes, batch, strict=True):
                line[: len(row)] = windows[row.window].changed(row.change, row.begin, row.end)
            nats = _Nats(codes.shape)
            where = torch.tensor([row.window for row in batch], device=self._device)
            self._read(codes, nats, _rows_of(state, where))
            for place, row in enumerate(batch):
                yield row, nats.sum(place, row.change.start - row.begin, len(row))

    def _read(self, codes: Codes, nats: "_Nats", state: State | None) -> State | None:
        """Read on to the last of (rows, bases) codes, which is predicted and not yet read."""
        rows, length = codes.shape
        step = max(1, self._batch_bases // rows if self._carries_state else length)
        for begin in range(nats.read, length - 1, step):
            end = min(begin + step, length - 1)
            ids = self._model.tokens(send(codes[:, begin : end + 1].copy(), self._device))
            found, state = self._model.nats(
                ids[:, :-1], ids[:, 1:], state, return_state=self._carries_state
            )
            nats.add(found)
        return state


class _Nats:
    """Minus the log-likelihood of each base of some rows, as far as they have been read.

    The first base of a row has no prediction, and counts nothing.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._values = np.zeros(shape, np.float32)
        self.read = 0

    def add(self, nats: Tensor) -> None:
        """Take those of the next bases, (rows, bases)."""
        after = self.read + nats.shape[1]
        self._values[:, self.read + 1 : after + 1] = nats.cpu().numpy()
        self.read = after

    def sum(self, row: int, start: int, end: int) -> float:
        """Add up those of a row's bases [start, end)."""
        return float(self._values[row, start:end].sum(dtype=np.float64))


def _carries_state(model: LanguageModel) -> bool:
    """Tell whether reading can go on from a state; if not, alternates are read from the start."""
    try:
        model.initial_state(1)
    except UsageError:
        return False
    return True


def _rows_of(state: State | None, where: Tensor) -> State | None:
    """Return the states of chosen rows."""
    if state is None:
        return None
    return tuple(type(part)(*(tensor.index_select(0, where) for tensor in part)) for part in state)
