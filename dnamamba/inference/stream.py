"""Whole contigs as one context: every window is embedded by a model that has read all before it.

A causal model passes its state from part to part, so that a contig takes the memory of one part,
whatever its length, and reading can be broken off and gone on with. A bidirectional model reads a
contig layer by layer: the residual stream lies on disk, and each block passes over it twice, from
the end and from the beginning.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnamamba.errors import UsageError
from dnamamba.files import take_space
from dnamamba.inference.arriving import one_behind
from dnamamba.inference.embed import Embedder
from dnamamba.inference.pooling import Keeper, Pooler, Reduced
from dnamamba.inference.reading import Reading
from dnamamba.models.backbone import State
from dnamamba.models.block import Block
from dnamamba.models.mixers.mamba import BiMamba, MambaState

Pooled = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Numbers of spans, and their embeddings, (spans, channels); where nothing is pooled, numbers of
bases of the contig, and theirs."""

_POOLER: Final = "pooler."
_STATE: Final = "state."


class Stream:
    """Reads one strand of a contig with a causal model; iterating yields what has been pooled.

    Parameters
    ----------
    embedder
        Of a causal model.
    reading
        The contig, and what to pool of it.

    Raises
    ------
    UsageError
        For a bidirectional model.
    """

    def __init__(self, embedder: Embedder, reading: Reading) -> None:
        if not embedder.is_causal:
            raise UsageError("a bidirectional model has no state: `spilled` reads layer by layer")
        self._embedder = embedder
        self._reading = reading
        pool = embedder.how.pool
        self._pooler = Keeper() if pool == "none" else Pooler(reading.spans, pool)
        self._end = int(reading.spans[:, 1].max(initial=0))
        self._state: State | None = None

    @property
    def place(self) -> int:
        """Bases that have been read."""
        return self._pooler.place

    def __iter__(self) -> Iterator[Pooled]:
        for part, state in one_behind(self._reduced()):
            self._state = state
            yield self._pooler.take(part)

    def _reduced(self) -> Iterator[tuple[Reduced, State | None]]:
        """Read on, and yield parts as they begin to come from the device, the state after each."""
        place = self.place
        parts = self._embedder.read(self._reading.source, self._state, place)
        while place < self._end:
            states, state = next(parts)
            yield self._pooler.reduce(place, states), state
            place += len(states)

    def tensors(self) -> dict[str, Tensor]:
        """Return what `restore` needs to go on from here."""
        tensors = {
            f"{_POOLER}{name}": torch.from_numpy(np.ascontiguousarray(value))
            for name, value in self._pooler.state().items()
        }
        for number, part in enumerate(self._state or ()):
            for name, tensor in part._asdict().items():
                tensors[f"{_STATE}{number}.{name}"] = tensor.cpu().contiguous()
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on where `tensors` were taken, of a stream of the same contig."""
        self._pooler.restore(
            {
                name.removeprefix(_POOLER): tensor.numpy()
                for name, tensor in tensors.items()
                if name.startswith(_POOLER)
            }
        )
        if any(name.startswith(_STATE) for name in tensors):
            self._state = tuple(
                MambaState(
                    *(
                        tensors[f"{_STATE}{number}.{name}"].to(self._embedder.device)
                        for name in MambaState._fields
                    )
                )
                for number in range(self._embedder.model.config.n_layer)
            )


def spilled_bytes(bases: int, d_model: int) -> int:
    """Count the bytes that `spilled` puts on disk: the stream, and one direction of one layer."""
    return 2 * 4 * bases * d_model


def spilled(embedder: Embedder, reading: Reading, folder: Path) -> Iterator[Pooled]:
    """Read one strand of a contig with a bidirectional model, layer by layer.

    Parameters
    ----------
    embedder
        Of a bidirectional model. Layers that are averaged are averaged after pooling.
    reading
        The contig, and what to pool of it.
    folder
        Where the layers lie meanwhile; `spilled_bytes` says how much there must be.

    Yields
    ------
    What has been pooled, when the last layer has been read.

    Raises
    ------
    UsageError
        For mixers that are not read part by part, the largest of averaged layers, or where nothing
        is pooled.
    OSError
        Where the disk is full.
    """
    how, backbone = embedder.how, embedder.model.backbone
    blocks = [cast(Block, layer) for layer in backbone.layers]
    for block in blocks:
        if not isinstance(block.mixer, BiMamba):
            raise UsageError(f"--stream: cannot read {type(block.mixer).__name__} part by part")
    if how.pool == "none":
        raise UsageError("--stream: a bidirectional model's states are pooled; choose a --pool")
    if how.mean and how.pool == "max":
        raise UsageError("--stream: the largest of averaged layers needs them all at once")
    shape = len(reading.source), embedder.model.config.d_model
    with _scratch(folder / "stream", shape) as stream, _scratch(folder / "back", shape) as back:
        layers = _Layers(embedder, reading, stream, back)
        layers.begin()
        pooled = {0: layers.pooled()} if 0 in how.layers else {}
        for number, block in enumerate(blocks, 1):
            layers.pass_through(block)
            if number in how.layers:
                pooled[number] = layers.pooled(normed=number == len(blocks))
    found = [pooled[layer] for layer in how.layers]
    values = np.mean(found, axis=0) if how.mean else np.concatenate(found, axis=1)
    yield np.arange(len(reading.spans)), values.astype(np.float32, copy=False)


class _Layers:
    """A contig's residual stream on disk, and the passes over it."""

    def __init__(
        self,
        embedder: Embedder,
        reading: Reading,
        stream: NDArray[np.float32],
        back: NDArray[np.float32],
    ) -> None:
        self._embedder = embedder
        self._reading = reading
        self._stream = stream
        self._back = back
        size = embedder.batch_bases
        self._parts = [
            slice(start, min(start + size, len(stream))) for start in range(0, len(stream), size)
        ]

    def begin(self) -> None:
        """Make the stream that the first block reads."""
        backbone = self._embedder.model.backbone
        for part in self._parts:
            codes = self._reading.source.fetch(part.start, part.stop)
            with self._embedder.inference():
                embedded = backbone.embed(self._embedder.ids(codes[None]))
            self._stream[part] = embedded[0].cpu().numpy()

    def pass_through(self, block: Block) -> None:
        """Add what a block makes of the stream to it."""
        mixer = cast(BiMamba, block.mixer)
        state = None
        for part in reversed(self._parts):
            with self._embedder.inference():
                mixed, state = mixer.one_way(block.norm(self._read(part)), state, back=True)
            self._back[part] = mixed[0].float().cpu().numpy()
        state = None
        for part in self._parts:
            with self._embedder.inference():
                mixed, state = mixer.one_way(block.norm(self._read(part)), state, back=False)
            self._stream[part] += mixed[0].float().cpu().numpy() + self._back[part]

    def pooled(self, *, normed: bool = False) -> NDArray[np.float32]:
        """Pool the stream, or what the final norm makes of it."""
        pooler = Pooler(self._reading.spans, self._embedder.how.pool)
        values = np.empty((len(self._reading.spans), self._stream.shape[1]), np.float32)
        for part in self._parts:
            states = self._read(part)[0]
            if normed:
                with self._embedder.inference():
                    states = self._embedder.model.backbone.norm_f(states)
            rows, found = pooler.add(states)
            values[rows] = found
        return values

    def _read(self, part: slice) -> Tensor:
        return torch.from_numpy(self._stream[part][None]).to(self._embedder.device)


@contextmanager
def _scratch(path: Path, shape: tuple[int, int]) -> Iterator[NDArray[np.float32]]:
    """Lend an array on disk, whose space is taken at once."""
    try:
        take_space(path, 4 * shape[0] * shape[1])
        yield np.memmap(path, np.float32, "r+", shape=shape)
    finally:
        path.unlink(missing_ok=True)
