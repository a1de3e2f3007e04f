"""What a model is (its config), and the stack of blocks from ids to normed hidden states."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnamamba.errors import UsageError
from dnamamba.models.block import Block, LayerNorm, RMSNorm
from dnamamba.models.mixers import Mixer
from dnamamba.models.mixers.hyena import Hyena, HyenaConfig
from dnamamba.models.mixers.mamba import BiMamba, Mamba
from dnamamba.models.mixers.mamba2 import Mamba2, Mamba2Config
from dnamamba.models.mixers.mlp import MLP, MLPConfig

MixerName = Literal["mamba", "mamba2", "hyena", "mlp"]
Norm = Literal["rms", "layer"]
Objective = Literal["next", "masked"]
Symmetry = Literal["none", "shared", "average"]
State = tuple[Any, ...]
"""The state of every block's mixer, first block first."""


@dataclass(frozen=True)
class ModelConfig:
    """The identity of a model: all that is needed to rebuild it around its weights.

    Raises
    ------
    UsageError
        For a value out of range, or two that do not fit together; names the field.
    """

    d_model: int
    """Channels of the residual stream."""
    n_layer: int
    """Blocks (Mamba's are twice the layers that the paper's sizes count)."""
    mixers: tuple[MixerName, ...] = ("mamba",)
    """What blocks are made of, in turn: a pattern that repeats."""
    d_state: int = 16
    """States of each channel of a Mamba block, as the next three are its sizes."""
    d_conv: int = 4
    """Width of the causal convolution, in bases."""
    expand: int = 2
    """d_inner / d_model."""
    dt_rank: int | None = None
    """Rank of the projection that makes delta; None is ceil(d_model / 16)."""
    vocab_size: int = 8
    ids: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Store code (A, C, G, T, N) to model id."""
    mask_id: int = 5
    """The id that hides a base from a masked model."""
    objective: Objective = "next"
    """What the model is trained to predict: the next base, or masked bases."""
    bidirectional: bool = False
    """Every block reads both ways (BiMamba)."""
    symmetry: Symmetry = "none"
    """Reverse complement: `shared` is equivariant by construction, with both strands read through
    the same weights (Caduceus-PS); `average` reads one strand in training and both in use."""
    tie_embeddings: bool = True
    """The head's weight is the embedding's."""
    norm: Norm = "rms"
    """What norms the stream before each block and in the end: RMSNorm or LayerNorm."""
    norm_eps: float = 1e-5
    mamba2: Mamba2Config | None = None
    """Sizes of blocks of the other kinds, where the pattern has them; None takes their defaults."""
    hyena: HyenaConfig | None = None
    mlp: MLPConfig | None = None

    def __post_init__(self) -> None:
        self.validate()

    @property
    def d_inner(self) -> int:
        """Channels inside a mixer."""
        return self.expand * self.d_model

    @property
    def rank(self) -> int:
        """Rank of delta's projection, resolved."""
        return self.dt_rank if self.dt_rank is not None else math.ceil(self.d_model / 16)

    @property
    def carries_state(self) -> bool:
        """Whether what was read comes down to a state, from which reading can go on."""
        one_way = not self.bidirectional and self.symmetry == "none"
        return one_way and "hyena" not in self.mixers

    @property
    def d_hidden(self) -> int:
        """Channels of `LanguageModel.hidden`: d_model for each strand that it keeps."""
        return 2 * self.d_model if self.symmetry == "shared" else self.d_model

    def validate(self) -> None:
        """Raise a UsageError for the first field that cannot be."""
        for name in ("d_model", "n_layer", "d_state", "d_conv", "expand", "vocab_size", "rank"):
            if getattr(self, name) < 1:
                field = "dt_rank" if name == "rank" else name
                raise UsageError(f"{field}: {getattr(self, name)} is below 1")
        if not 0 < self.norm_eps < 1:
            raise UsageError(f"norm_eps: {self.norm_eps} is not between 0 and 1")
        for name, kind in (("objective", Objective), ("symmetry", Symmetry), ("norm", Norm)):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise UsageError(f"{name}: {getattr(self, name)!r} is not one of {known}")
        self._validate_mixers()
        self._validate_ids()
        if self.objective == "next":
            _refuse_future(self.bidirectional, "bidirectional")
            _refuse_future(self.symmetry == "shared", 'symmetry "shared"')

    def _validate_mixers(self) -> None:
        for name in self.mixers:
            if name not in get_args(MixerName):
                known = ", ".join(get_args(MixerName))
                raise UsageError(f"mixers: {name!r} is not one of {known}")
        if not self.mixers or self.n_layer % len(self.mixers):
            raise UsageError(
                f"mixers: a pattern of {len(self.mixers)} does not divide n_layer {self.n_layer}"
            )
        for name in ("mamba2", "hyena", "mlp"):
            if getattr(self, name) is not None and name not in self.mixers:
                raise UsageError(f"{name}: no block of the pattern {self.mixers} is one")
        if self.bidirectional and set(self.mixers) != {"mamba"}:
            raise UsageError('bidirectional: mixers other than "mamba" read one way')

    def _validate_ids(self) -> None:
        if len(self.ids) != 5 or len(set(self.ids[:4])) != 4 or self.ids[4] in self.ids[:4]:
            raise UsageError(f"ids: {self.ids} are not five different ids, for A, C, G, T and N")
        for name, ids in (("ids", self.ids), ("mask_id", (self.mask_id,))):
            outside = [value for value in ids if not 0 <= value < self.vocab_size]
            if outside:
                raise UsageError(f"{name}: {outside[0]} is not in vocab_size {self.vocab_size}")
        if self.mask_id in self.ids:
            raise UsageError(f"mask_id: {self.mask_id} is the id of a base in ids {self.ids}")


def _refuse_future(wrong: bool, what: str) -> None:
    if wrong:
        raise UsageError(
            f'objective: "next" would see the base that it predicts with {what}; '
            'use objective "masked"'
        )


class Backbone(nn.Module):
    """Embedding, blocks and final norm; parameters are named as published checkpoints name them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        pattern = config.mixers * (config.n_layer // len(config.mixers))
        self.layers = nn.ModuleList(Block(_mixer(config, kind), _norm(config)) for kind in pattern)
        self.norm_f = _norm(config)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Keep the residual stream's variance independent of depth (GPT-2's rule, as in Mamba)."""
        nn.init.normal_(self.embedding.weight, std=0.02)
        for mixer in self._mixers():
            mixer.out_proj.weight /= math.sqrt(len(self.layers))

    def _mixers(self) -> list[Mixer]:
        return [cast(Mixer, layer.mixer) for layer in self.layers]

    def embed(self, ids: Tensor) -> Tensor:
        """Look ids up, of any shape: the residual stream before the first block, fp32 or fp64."""
        weight = self.embedding.weight
        x: Tensor = _Lookup.apply(weight, ids) if ids.is_cuda else self.embedding(ids)  # type: ignore[no-untyped-call]
        return x.to(torch.promote_types(x.dtype, torch.float32))

    def forward(
        self, ids: Tensor, state: State | None = None, *, return_state: bool = False
    ) -> tuple[Tensor, State | None]:
        """Read ids (batch, length), which continue `state`.

        Returns
        -------
        Normed hidden states (batch, length, d_model), and the state after them if asked for.
        """
        stream, after = self.stream(ids, state, return_state=return_state)
        return self.norm_f(stream), after

    def stream(
        self,
        ids: Tensor,
        state: State | None = None,
        *,
        return_state: bool = False,
    ) -> tuple[Tensor, State | None]:
        """Do what `forward` does, but for the final norm: the residual stream after all blocks."""
        states: list[Any] = []
        last = deque(self._read(ids, state, return_state, None, states), maxlen=1).pop()
        return _sum(*last), tuple(states) if return_state else None

    def outputs(
        self,
        ids: Tensor,
        layers: Sequence[int],
        state: State | None = None,
        *,
        return_state: bool = False,
        seq_idx: Tensor | None = None,
    ) -> tuple[list[Tensor], State | None]:
        """Read ids (batch, length), and give what chosen layers make of them.

        Parameters
        ----------
        ids, state, return_state
            As in `forward`.
        layers
            0 for the embedding, i for the residual stream after the i-th block; after the last one
            it is normed, as `forward` gives it.
        seq_idx
            (batch, length) int32: which of the sequences that are packed into a row a position
            belongs to, from `kernels.sequence_index`.

        Returns
        -------
        (batch, length, d_model) of each layer, in the order asked for, and the state.
        """
        last = len(self.layers)
        found: dict[int, Tensor] = {}
        states: list[Any] = []
        passed = self._read(ids, state, return_state, seq_idx, states)
        for number, (x, residual) in enumerate(passed):
            if number in layers:
                stream = _sum(x, residual)
                found[number] = self.norm_f(stream) if number == last else stream
        return [found[layer] for layer in layers], tuple(states) if return_state else None

    def _read(
        self,
        ids: Tensor,
        state: State | None,
        return_state: bool,
        seq_idx: Tensor | None,
        states: list[Any],
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the two summands of the stream, before each block and in the end."""
        x = self.embed(ids)
        residual: Tensor | None = None
        yield x, residual
        before = state if state is not None else (None,) * len(self.layers)
        for layer, remembered in zip(self.layers, before, strict=True):
            x, residual, after = layer(
                x, residual, remembered, return_state=return_state, seq_idx=seq_idx
            )
            states.append(after)
            yield x, residual

    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one id of each sequence, (batch,); returns (batch, d_model) and the next state."""
        x = self.embed(ids)
        residual: Tensor | None = None
        states = []
        for layer, before in zip(self.layers, state, strict=True):
            x, residual, after = cast(Block, layer).step(x, residual, before)
            states.append(after)
        return self.norm_f(_sum(x, residual)), tuple(states)

    def initial_state(self, batch: int) -> State:
        """Return the state before the first base."""
        return tuple(mixer.initial_state(batch) for mixer in self._mixers())


def _sum(x: Tensor, residual: Tensor | None) -> Tensor:
    return x if residual is None else x + residual


class _Lookup(torch.autograd.Function):
    """Rows by their ids, with a gradient that is the same in every run.

    PyTorch's own adds a row's gradients up in the order in which a GPU comes to them.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.rows = len(weight)
        return functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (ids,) = ctx.saved_tensors
        rows = torch.arange(ctx.rows, device=ids.device)
        taken = (rows[:, None] == ids.flatten()).to(gradients[0].dtype)
        return taken @ gradients[0].flatten(0, -2), None


def detached(state: State | None) -> State | None:
    """Return a state through which no gradient passes."""
    if state is None:
        return None
    return tuple(type(part)(*(tensor.detach() for tensor in part)) for part in state)


def _mixer(config: ModelConfig, kind: MixerName) -> nn.Module:
    if kind == "mamba2":
        return Mamba2(config.d_model, config.mamba2 or Mamba2Config(), config.norm_eps)
    if kind == "hyena":
        return Hyena(config.d_model, config.hyena or HyenaConfig())
    if kind == "mlp":
        return MLP(config.d_model, config.mlp or MLPConfig())
    mamba = BiMamba if config.bidirectional else Mamba
    return mamba(config.d_model, config.d_state, config.d_conv, config.expand, config.rank)


def _norm(config: ModelConfig) -> RMSNorm | LayerNorm:
    kind = LayerNorm if config.norm == "layer" else RMSNorm
    return kind(config.d_model, config.norm_eps)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Part a model's parameters into optimiser groups: with weight decay, and without.

    Vectors (biases, norms, D) and what a module names in `no_weight_decay` (A_log) do not decay, as
    in Mamba's training; matrices, the convolution and the embedding do.
    """
    spared = {
        id(getattr(module, name))
        for module in model.modules()
        for name in cast("tuple[str, ...]", getattr(module, "no_weight_decay", ()))
    }
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1 and id(p) not in spared]
    rest = [p for p in parameters if p.ndim <= 1 or id(p) in spared]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
