"""Variants under a model that predicts masked bases.

Where an allele replaces as many bases as it has, those are masked together, and the ratio is that
of the alternate's probabilities to the reference's in the one reading. Other alleles change how
long the sequence is: theirs is the difference of two pseudo-log-likelihoods (Salazar et al. 2020,
arXiv 1910.14659), that of the alternate sequence and that of the reference, summed over the allele
and the bases around it, each of which is masked in a reading of its own.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.alphabet import Codes
from dnamamba.inference.arriving import send
from dnamamba.inference.score_window import Change, Window, in_use
from dnamamba.models.heads import LanguageModel
from dnamamba.models.precision import Autocast


class _Row(NamedTuple):
    """One reading: of a window, as it is or with a change in it, some of whose bases are masked."""

    window: int
    change: int | None
    start: int
    end: int


_Read = dict[_Row, NDArray[np.float32]]
"""The log-probabilities, (masked bases, 4), that a row gives to A, C, G and T."""


class MaskedScorer:
    """Scores changes with a masked model.

    Parameters
    ----------
    model
        Of objective "masked"; its mode is restored.
    flank
        Bases on either side of an allele that is longer or shorter than what it replaces.
    device
        Where the model lies.
    batch_bases
        The most bases that are read at once; a window is read whole, however long.
    autocast
        The context of the forward pass.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        flank: int,
        device: torch.device,
        batch_bases: int,
        autocast: Autocast,
    ) -> None:
        self._model = model
        self._flank = flank
        self._device = device
        self._batch_bases = batch_bases
        self._autocast = autocast

    def score(self, windows: Sequence[Window]) -> NDArray[np.float64]:
        """Return the log-likelihood ratio of each change, window by window, in nats."""
        changes = [
            (index, number)
            for index, window in enumerate(windows)
            for number in range(len(window.changes))
        ]
        wanted = {row for place in changes for row in self._rows(windows, *place)}
        read = self._read(windows, wanted)
        return np.array([self._ratio(windows, read, *place) for place in changes], np.float64)

    def _rows(self, windows: Sequence[Window], index: int, number: int) -> Iterator[_Row]:
        """Yield the readings that a change asks for; others may ask for the same."""
        change = windows[index].changes[number]
        if not change.gain:
            yield _Row(index, None, change.start, change.end)
            return
        for sequence in (None, number):
            for place in self._around(windows[index], change, sequence is not None):
                yield _Row(index, sequence, place, place + 1)

    def _around(self, window: Window, change: Change, is_changed: bool) -> range:
        """Return the places of an allele and its flanks, in the sequence as it is or changed."""
        end = min(change.end + self._flank, len(window.codes))
        return range(max(0, change.start - self._flank), end + is_changed * change.gain)

    def _ratio(self, windows: Sequence[Window], read: _Read, index: int, number: int) -> float:
        window = windows[index]
        change = window.changes[number]
        if not change.gain:
            found = read[_Row(index, None, change.start, change.end)].astype(np.float64)
            ref = window.codes[change.start : change.end]
            bases = np.arange(len(ref))
            return float((found[bases, change.alt] - found[bases, ref]).sum())
        sums = []
        for sequence, codes in ((None, window.codes), (number, window.changed(change))):
            places = self._around(window, change, sequence is not None)
            sums.append(
                sum(float(read[_Row(index, sequence, t, t + 1)][0, codes[t]]) for t in places)
            )
        return sums[1] - sums[0]

    def _read(self, windows: Sequence[Window], wanted: set[_Row]) -> _Read:
        """Read rows, those of one length at once: padding would be something to the model."""

        def length(row: _Row) -> int:
            window = windows[row.window]
            gain = 0 if row.change is None else window.changes[row.change].gain
            return len(window.codes) + gain

        def order(row: _Row) -> tuple[int, ...]:
            change = -1 if row.change is None else row.change
            return length(row), row.window, change, row.start, row.end

        read: _Read = {}
        for bases, alike in itertools.groupby(sorted(wanted, key=order), key=length):
            count = max(1, self._batch_bases // max(1, bases))
            while batch := list(itertools.islice(alike, count)):
                read |= self._read_batch(windows, batch)
        return read

    def _read_batch(self, windows: Sequence[Window], rows: list[_Row]) -> _Read:
        sequences = [self._sequence(windows[row.window], row.change) for row in rows]
        sizes = [row.end - row.start for row in rows]
        lines = torch.arange(len(rows)).repeat_interleave(torch.tensor(sizes)).to(self._device)
        places = np.concatenate([np.arange(row.start, row.end) for row in rows])
        masked = send(places, self._device)
        with in_use(self._model, self._autocast):
            ids = self._model.tokens(send(np.stack(sequences), self._device))
            ids[lines, masked] = self._model.config.mask_id
            logits = self._model(ids)[lines, masked].float()
        bases = list(self._model.config.ids[:4])
        found = logits.log_softmax(-1)[:, bases].cpu().numpy()
        parts = np.split(found, np.cumsum(sizes)[:-1])
        return dict(zip(rows, parts, strict=True))

    def _sequence(self, window: Window, number: int | None) -> Codes:
        return window.codes if number is None else window.changed(window.changes[number])
