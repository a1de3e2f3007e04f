"""What a model makes of sequences: the hidden states of chosen layers, pooled over spans.

Sequences are read without their N (`data.known`), each from its own beginning: those that are read
at once are laid end to end in one row, whose states start anew where the next one begins. What a
sequence is read together with, or padded with, is therefore nothing to it. A causal model reads a
long one in parts, from the state before.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnamamba.alphabet import Codes
from dnamamba.errors import UsageError
from dnamamba.inference.arriving import one_behind, send
from dnamamba.inference.pooling import Keeper, Pool, Pooler, Reduced
from dnamamba.inference.reading import Reading, Source
from dnamamba.kernels.packing import sequence_index
from dnamamba.models.backbone import ModelConfig, State
from dnamamba.models.heads import LanguageModel
from dnamamba.models.precision import Autocast

Strands = Literal["none", "average", "concat"]
"""What is made of the reverse complement: it is not read, or its embedding is averaged with that of
the strand that was given, or stands behind it."""
BATCH_BASES: Final = {"cpu": 2**13, "cuda": 2**19}
"""Bases that are read at once, by the type of device."""


@dataclass(frozen=True)
class How:
    """What an embedding is made of.

    Attributes
    ----------
    layers
        0 for the embedding of ids, i for the i-th block; after the last block states are normed.
    mean
        Whether several layers are averaged; else they stand side by side.
    pool
        What is made of the states of a span.
    rc
        What is made of the reverse complement.

    Raises
    ------
    UsageError
        For a pooling or a reading of strands that there is not.
    """

    layers: tuple[int, ...]
    mean: bool = False
    pool: Pool = "mean"
    rc: Strands = "none"

    def __post_init__(self) -> None:
        for name, kind in (("pool", Pool), ("rc", Strands)):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise UsageError(f"{name}: {getattr(self, name)!r} is not one of {known}")

    def names(self, config: ModelConfig) -> list[str]:
        """Name the columns: `8_0` is channel 0 after block 8, `rc` before it on the other strand.

        A single layer, or the mean of some, goes without its number.
        """
        channels = range(config.d_model)
        if self.mean or len(self.layers) == 1:
            here = [str(channel) for channel in channels]
        else:
            here = [f"{layer}_{channel}" for layer in self.layers for channel in channels]
        return [*here, *(f"rc_{name}" for name in here)] if self.rc == "concat" else here


def parse_layers(text: str, config: ModelConfig) -> tuple[tuple[int, ...], bool]:
    """Read `--layer`: one number, several (`4,8`) side by side, or `mean:4-8`, `mean` of all.

    Numbers count blocks from 1; 0 is the embedding of ids; negative ones count from the last, -1.

    Returns
    -------
    The layers, and whether their mean is wanted.

    Raises
    ------
    UsageError
        For what is no such text, or a layer that the model does not have.
    """
    kind, colon, listed = text.partition(":")
    mean = kind.strip() == "mean"
    if mean and not colon:
        return tuple(range(1, config.n_layer + 1)), True
    try:
        ranges = [_range(part.strip()) for part in (listed if mean else text).split(",")]
    except ValueError:
        raise UsageError(
            f"--layer {text}: write a number, several (4,8), or mean:4-8; "
            f"the model has 0 to {config.n_layer}"
        ) from None
    layers = [
        layer
        for first, last in ranges
        for layer in range(_layer(first, config), _layer(last, config) + 1)
    ]
    if not layers or len(set(layers)) < len(layers):
        raise UsageError(f"--layer {text}: names no layer, or one twice")
    return tuple(layers), mean


def _range(part: str) -> tuple[int, int]:
    first, dash, last = part.rpartition("-") if "-" in part[1:] else ("", "", part)
    return int(first if dash else last), int(last)


def _layer(number: int, config: ModelConfig) -> int:
    layer = number if number >= 0 else config.n_layer + 1 + number
    if not 0 <= layer <= config.n_layer:
        raise UsageError(
            f"--layer {number}: the model has 0 to {config.n_layer}, or -1 for the last"
        )
    return layer


class _Strand:
    """One strand of sequences that are read at once, and what has been pooled of it."""

    def __init__(self, readings: Sequence[Reading], pool: Pool, channels: int) -> None:
        self.readings = readings
        self.starts = np.cumsum([0, *(len(reading.source) for reading in readings)])
        self._spans = np.concatenate(
            [reading.spans + start for reading, start in zip(readings, self.starts, strict=False)]
        )
        self._per_base = pool == "none"
        self._pooler = Keeper() if pool == "none" else Pooler(self._spans, pool)
        rows = self.starts[-1] if self._per_base else len(self._spans)
        self._values = np.empty((rows, channels), np.float32)

    def reduce(self, parts: Iterable[Tensor]) -> Iterator[Reduced]:
        """Reduce the states of all, part by part."""
        place = 0
        for part in parts:
            yield self._pooler.reduce(place, part)
            place += len(part)

    def take(self, reduced: Reduced) -> None:
        """Take a part, when it has come from the device."""
        rows, found = self._pooler.take(reduced)
        self._values[rows] = found

    @property
    def is_read(self) -> bool:
        """Whether all parts have been taken."""
        return self._pooler.place == int(self.starts[-1])

    def each(self) -> list[NDArray[np.float32]]:
        """Return the embeddings of each sequence, (spans or bases of spans, channels)."""
        counts = np.cumsum([len(reading.spans) for reading in self.readings])[:-1]
        if not self._per_base:
            return np.split(self._values, counts)
        kept = [self._values[start:end] for start, end in self._spans]
        ends = np.append(0, np.cumsum([len(part) for part in kept]))
        return np.split(np.concatenate([self._values[:0], *kept]), ends[counts])


class Embedder:
    """Embeds sequences with one model, in one way.

    Parameters
    ----------
    model
        Its mode is restored after each call; only its backbone is used, on one strand at a time.
    how
        What an embedding is made of.
    device
        Where the model lies.
    batch_bases
        The most bases that are read at once; by default as suits the device. A bidirectional model
        reads each sequence whole, however long.
    batch
        Sequences that are read at once, whatever their length; None is as many as `batch_bases`.
    autocast
        The context of the forward pass.
    """

    def __init__(
        self,
        model: LanguageModel,
        how: How,
        *,
        device: torch.device,
        batch_bases: int | None = None,
        batch: int | None = None,
        autocast: Autocast = nullcontext,
    ) -> None:
        self.model = model
        self.how = how
        self.device = device
        self.batch_bases = batch_bases or BATCH_BASES.get(device.type, BATCH_BASES["cpu"])
        self.batch = batch
        self._autocast = autocast

    @property
    def names(self) -> list[str]:
        """Names of the columns of an embedding."""
        return self.how.names(self.model.config)

    @property
    def channels(self) -> int:
        """Channels of the embedding of one strand."""
        beside = 1 if self.how.mean else len(self.how.layers)
        return beside * self.model.config.d_model

    @property
    def is_causal(self) -> bool:
        """Whether a state passes from one part of a sequence to the next."""
        return not self.model.config.bidirectional

    def embed(self, readings: Iterable[Reading]) -> Iterator[NDArray[np.float32]]:
        """Embed sequences.

        Yields
        ------
        (spans, dims) of each sequence in turn; with pool "none", (bases of all spans, dims).
        """
        return map(self.join, self.strands(readings))

    def strands(self, readings: Iterable[Reading]) -> Iterator[NDArray[np.float32]]:
        """Embed sequences, as `embed` does, but for what is made of both strands.

        Yields
        ------
        (spans or bases, strands, channels): the strand that was given, and the other if it is read.
        """
        for batch, strand, reduced in one_behind(self._reduced(readings)):
            strand.take(reduced)
            if not batch[-1].is_read:
                continue
            here, *there = (strand.each() for strand in batch)
            if not there:
                yield from (values[:, None] for values in here)
                continue
            for reading, one, other in zip(batch[0].readings, here, there[0], strict=True):
                yield np.stack([one, self._turned(other, reading.spans)], 1)

    def _reduced(
        self, readings: Iterable[Reading]
    ) -> Iterator[tuple[Sequence[_Strand], _Strand, Reduced]]:
        """Read batch after batch, and yield their parts as they begin to come from the device."""
        for batch in self._batches(readings):
            sides = [batch]
            if self.how.rc != "none":
                sides.append([reading.other_strand() for reading in batch])
            strands = [_Strand(side, self.how.pool, self.channels) for side in sides]
            for strand in strands:
                for reduced in strand.reduce(self._states(strand)):
                    yield strands, strand, reduced

    def join(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Make one embedding, (items, dims), of those of the strands."""
        if self.how.rc == "average":
            averaged: NDArray[np.float32] = values.mean(1, dtype=np.float32)
            return averaged
        return values.reshape(len(values), -1)

    def _turned(self, values: NDArray[np.float32], spans: NDArray[np.int64]) -> NDArray[np.float32]:
        """Bring bases of the other strand, span by span, into the order of this one."""
        if self.how.pool != "none":
            return values
        ends = np.cumsum(spans[:, 1] - spans[:, 0])
        return np.concatenate([part[::-1] for part in np.split(values, ends[:-1])])

    def _batches(self, readings: Iterable[Reading]) -> Iterator[list[Reading]]:
        batch: list[Reading] = []
        bases = 0
        for reading in readings:
            if batch and self._is_full(len(batch), bases + len(reading.source)):
                yield batch
                batch, bases = [], 0
            batch.append(reading)
            bases += len(reading.source)
        if batch:
            yield batch

    def _is_full(self, windows: int, bases: int) -> bool:
        return windows >= self.batch if self.batch else bases > self.batch_bases

    def _states(self, strand: _Strand) -> Iterator[Tensor]:
        """Yield the states of a strand, (bases, channels) fp32, one or more parts end to end."""
        sources = [reading.source for reading in strand.readings]
        if len(sources) == 1 and self.is_causal:
            for part, _ in self.read(sources[0]):
                yield part
            return
        codes = np.concatenate([source.fetch(0, len(source)) for source in sources])
        lengths = np.diff(strand.starts)
        if (lengths == lengths[0]).all():
            rows, packed = len(sources), None
        else:
            index = sequence_index(torch.from_numpy(strand.starts))
            rows, packed = 1, send(index.numpy(), self.device)
        states, _ = self._forward(codes.reshape(rows, -1), None, packed, return_state=False)
        yield states

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Compute without gradients, in eval mode, and restore the model's mode."""
        training = self.model.training
        if training:  # to visit all modules takes a millisecond, and batches are of thirty
            self.model.eval()
        try:
            with torch.no_grad(), self._autocast():
                yield
        finally:
            if training:
                self.model.train()

    def ids(self, codes: Codes) -> Tensor:
        """Turn store codes into ids on the model's device, int64 of the same shape."""
        return self.model.tokens(send(codes, self.device))

    def read(
        self, source: Source, state: State | None = None, start: int = 0
    ) -> Iterator[tuple[Tensor, State | None]]:
        """Read a sequence from `start` on, whose state is `state`, with a causal model.

        Yields
        ------
        The states of its parts, (bases, channels) fp32, and the state after each.
        """
        for begin in range(start, len(source), self.batch_bases):
            end = min(begin + self.batch_bases, len(source))
            more = state is not None or len(source) > self.batch_bases
            states, state = self._forward(
                source.fetch(begin, end)[None], state, None, return_state=more
            )
            yield states, state

    def _forward(
        self, codes: Codes, state: State | None, packed: Tensor | None, *, return_state: bool
    ) -> tuple[Tensor, State | None]:
        with self.inference():
            layers, after = self.model.backbone.outputs(
                self.ids(codes), self.how.layers, state, return_state=return_state, seq_idx=packed
            )
        merged = [layer.flatten(0, 1).float() for layer in layers]
        if len(merged) == 1:
            return merged[0], after
        if self.how.mean:
            return torch.stack(merged).mean(0), after
        return torch.cat(merged, 1), after
