"""New DNA from a causal model, base by base, in memory that does not depend on the length.

A base is drawn from what the model says of the next one, and read in turn: one step from the state
before, however much has been made. On a GPU some steps are captured in a CUDA graph, because
launching their many small kernels takes longer than they do; nothing waits for a single base.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dnamamba.alphabet import Codes
from dnamamba.errors import UsageError
from dnamamba.inference.arriving import Arriving, one_behind, send
from dnamamba.inference.reading import Source
from dnamamba.models.backbone import State
from dnamamba.models.heads import LanguageModel

BASES: Final = 4
"""What is drawn: A, C, G or T; never N or an id that stands for no base."""
BLOCK: Final = {"cpu": 2**5, "cuda": 2**10}
"""Bases of each sequence that are made before they are fetched, by the type of device."""
CAPTURED: Final = 8
"""Steps in a CUDA graph: the states are copied back to where it finds them once for all."""
PROMPT_BASES: Final = 2**14
"""Bases of a prompt that are read at once."""


@dataclass(frozen=True)
class Sampler:
    """How the next base is drawn from the probabilities of the four.

    Attributes
    ----------
    temperature
        Logits are divided by it; 0 takes the likeliest base.
    top_k
        Only so many of the likeliest bases are drawn, 1 to 4.
    top_p
        Of these, only the fewest likeliest whose probabilities reach this share, above 0 and up to
        1 (nucleus sampling, Holtzman et al. 2019, arXiv 1904.09751).

    Raises
    ------
    UsageError
        For a value out of range.
    """

    temperature: float = 1.0
    top_k: int = BASES
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"temperature {self.temperature:g}: give 0 (the likeliest) or more")
        if not 1 <= self.top_k <= BASES:
            raise UsageError(f"top-k {self.top_k}: there are four bases; give 1 to 4")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p {self.top_p:g}: give a share above 0 and up to 1")

    def weights(self, logits: Tensor) -> Tensor:
        """Weigh bases by their logits, both (sequences, 4).

        Returns
        -------
        What the bases are drawn in proportion to; 0 for those that are never drawn.
        """
        if self.temperature == 0:
            likeliest = logits.argmax(-1, keepdim=True)
            return torch.zeros_like(logits).scatter_(-1, likeliest, 1.0)
        above = logits - logits.amax(-1, keepdim=True)
        weights = (above / self.temperature).softmax(-1)
        if self.top_k == BASES and self.top_p == 1:
            return weights
        kept, order = weights.sort(stable=True, descending=True)
        kept = kept[:, : self.top_k]
        before = kept.cumsum(-1) - kept
        kept = kept.where(before < self.top_p * kept.sum(-1, keepdim=True), 0)
        return torch.zeros_like(weights).scatter_(-1, order[:, : self.top_k], kept)


class Start(NamedTuple):
    """Where a sequence begins: after a prompt.

    Attributes
    ----------
    state
        Of one sequence, after the prompt.
    logits
        (1, vocabulary), what the model says of the next base.
    """

    state: State
    logits: Tensor


class Made(NamedTuple):
    """What has been made of sequences since the last time.

    Attributes
    ----------
    codes
        (sequences, bases) uint8 store codes, A, C, G and T alone.
    nats
        (sequences, bases) float32, minus the log-likelihood of each base under the model itself,
        whatever the sampler: what `LanguageModel.nats` gives.
    """

    codes: Codes
    nats: NDArray[np.float32]


def require_generative(model: LanguageModel, name: str) -> None:
    """Raise a UsageError for a model, called `name`, that has no next base or no state."""
    if model.config.objective != "next":
        raise UsageError(
            f"{name}: predicts masked bases from what lies on either side; models that predict the "
            "next base generate: dnamamba pretrain GENOME --objective next"
        )
    model.initial_state(1)


def random_stream(seed: int, number: int, prompt: int = 0) -> np.random.Generator:
    """Return the random numbers of one sequence, the same whatever is made beside it.

    Parameters
    ----------
    seed
        Any integer; its lowest 64 bits count.
    number, prompt
        Of the sequence among those of its prompt, and of the prompt.
    """
    # A counter-based generator (Salmon et al. 2011, Philox); the lowest word counts its draws.
    key = np.array([seed % 2**64, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, number, prompt]))


def read_prompt(model: LanguageModel, prompt: Source, *, part: int = PROMPT_BASES) -> Start:
    """Read what sequences are to continue, on the strand that is given.

    Parameters
    ----------
    model
        One of the next base; its mode is restored.
    prompt
        A base at least, without N: `data.known.Known` leaves them out.
    part
        Bases that are read at once, from the state before.
    """
    device = next(model.parameters()).device
    state = model.initial_state(1)
    for start in range(0, len(prompt), part):
        codes = prompt.fetch(start, min(start + part, len(prompt)))
        with _inference(model):
            logits, state = model(model.tokens(send(codes[None], device)), state, return_state=True)
    return Start(state, logits[:, -1])


def generate(
    model: LanguageModel,
    length: int,
    randoms: Sequence[np.random.Generator],
    starts: Sequence[Start] | None = None,
    *,
    sampler: Sampler | None = None,
    block: int | None = None,
) -> Iterator[Made]:
    """Make sequences side by side, a block of bases at a time.

    Parameters
    ----------
    model
        One of the next base; its mode is restored.
    length
        Bases of each sequence, 1 or more.
    randoms
        The random numbers of each, from `random_stream`.
    starts
        What each continues. Without, the first base of each is one of four, all as likely,
        whatever the sampler: no model was trained to say what a sequence begins with.
    sampler
        How bases are drawn; by default as the model has them.
    block
        Bases that are made before they are fetched, on a GPU rounded up to `CAPTURED`; by default
        as suits the device.

    Yields
    ------
    Blocks, end to end; the first base without a prompt comes by itself.

    Raises
    ------
    UsageError
        For a model that has no next base, or no state, or a length below 1.
    """
    require_generative(model, "the model")
    if length < 1:
        raise UsageError(f"length {length}: give 1 base or more")
    device = next(model.parameters()).device
    if starts is None:
        first = np.stack([random.integers(BASES, size=1, dtype=np.uint8) for random in randoms])
        yield Made(first, np.full(first.shape, math.log(BASES), np.float32))
        length -= 1
    if not length:
        return
    with _inference(model):
        if starts is None:
            ids = model.tokens(send(first[:, 0], device))
            logits, state = model.step(ids, model.initial_state(len(randoms)))
        else:
            logits = torch.cat([start.logits for start in starts])
            state = _side_by_side([start.state for start in starts])
    block = min(length, block or BLOCK.get(device.type, BLOCK["cpu"]))
    if device.type == "cuda":
        # Whole graphs, so that none but the last block makes more than is asked for.
        block += -block % CAPTURED
    growth = _Growth(model, sampler or Sampler(), Start(state, logits), block)
    sizes = (min(block, length - place) for place in range(0, length, block))
    for codes, nats in one_behind(growth.grow(_uniforms(randoms, size)) for size in sizes):
        yield Made(codes.numpy().T, nats.numpy().T)


class _Growth:
    """Sequences that grow side by side on a device, which is not waited for.

    Parameters
    ----------
    model, sampler
        As for `generate`.
    start
        States and logits of all sequences; overwritten.
    block
        The most bases that are made at once; on a GPU a multiple of `CAPTURED`.
    """

    def __init__(self, model: LanguageModel, sampler: Sampler, start: Start, block: int) -> None:
        self._model, self._sampler = model, sampler
        self._state, self._logits = start
        self._device = device = start.logits.device
        self._ids = torch.tensor(model.config.ids[:BASES], device=device)
        shape = block, len(start.logits)
        self._uniforms = torch.zeros(shape, device=device)
        self._codes = torch.zeros(shape, dtype=torch.uint8, device=device)
        self._nats = torch.zeros(shape, device=device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)
        self._graph = self._captured() if device.type == "cuda" else None

    def grow(self, uniforms: NDArray[np.float32]) -> tuple[Arriving, Arriving]:
        """Make a base for each of the random numbers (bases, sequences); give codes and nats."""
        bases = len(uniforms)
        with _inference(self._model):
            self._uniforms[:bases] = send(uniforms, self._device)
            self._place.zero_()
            # The last graph of all may make more than was asked for: it is not looked at.
            for _ in range(0, bases, CAPTURED if self._graph else 1):
                if self._graph:
                    self._graph.replay()
                else:
                    self._logits, self._state = self._step(self._logits, self._state)
            return Arriving(self._codes[:bases].clone()), Arriving(self._nats[:bases].clone())

    def _step(self, logits: Tensor, state: State) -> tuple[Tensor, State]:
        """Draw a base of each sequence, note it, and read it."""
        uniforms = self._uniforms.index_select(0, self._place)
        weights = self._sampler.weights(logits.index_select(1, self._ids).float())
        codes = _draw(weights, uniforms.T)
        ids = self._ids[codes]
        nats = functional.cross_entropy(logits.float(), ids, reduction="none")
        self._codes.index_copy_(0, self._place, codes.to(torch.uint8)[None])
        self._nats.index_copy_(0, self._place, nats[None])
        self._place += 1
        return self._model.step(ids, state)

    def _captured(self) -> torch.cuda.CUDAGraph:
        """Capture `CAPTURED` steps, which begin and end in the tensors that there are now."""
        here = torch.cuda.current_stream(self._device)
        beside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        beside.wait_stream(here)
        graph = torch.cuda.CUDAGraph()
        with _inference(self._model), torch.cuda.device(self._device):
            # Kernels are compiled and libraries set up before a capture; the result is dropped.
            with torch.cuda.stream(beside):
                self._step(*self._step(self._logits, self._state))
            here.wait_stream(beside)
            with torch.cuda.graph(graph):
                logits, state = self._logits, self._state
                for _ in range(CAPTURED):
                    logits, state = self._step(logits, state)
                self._logits.copy_(logits)
                for before, after in zip(_tensors(self._state), _tensors(state), strict=True):
                    before.copy_(after)
        return graph


def _draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Invert the cumulative distribution: a base without weight is never drawn.

    Parameters
    ----------
    weights
        (sequences, 4), not normalised.
    uniforms
        (sequences, 1) in [0, 1).

    Returns
    -------
    (sequences,) int64 store codes.
    """
    sums = weights.cumsum(-1)
    return (uniforms * sums[:, -1:] >= sums[:, :-1]).sum(-1)


def _uniforms(randoms: Sequence[np.random.Generator], bases: int) -> NDArray[np.float32]:
    """Draw from each stream in turn, (bases, streams) in [0, 1)."""
    drawn = np.stack([random.random(bases, dtype=np.float32) for random in randoms], 1)
    return np.ascontiguousarray(drawn)


def _side_by_side(states: Sequence[State]) -> State:
    """Join states of one sequence each along the batch."""
    return tuple(
        type(parts[0])(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
        for parts in zip(*states, strict=True)
    )


def _tensors(state: State) -> Iterator[Tensor]:
    for part in state:
        yield from part


@contextmanager
def _inference(model: LanguageModel) -> Iterator[None]:
    """Compute without gradients, in eval mode, and restore the model's mode."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():  # a step of small ops is a tenth faster than without gradients
            yield
    finally:
        model.train(training)
