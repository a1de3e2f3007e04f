"""The language model: a backbone, and a head that predicts bases.

What is unusual here is the reverse complement. With symmetry "shared" both strands are always read
and their logits summed, as in Caduceus, so that logits(RC(x)) = RC(logits(x)). With "average" both
are read outside training: the hidden states are averaged over the strands, and so are the logits of
a masked model. The logits of a next-base model stay those of the given strand, because the other
strand has seen the base to predict; average the likelihoods of whole sequences instead.
"""

from typing import Final, Literal, get_args, overload

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dnamamba.alphabet import BASE, N
from dnamamba.errors import UsageError
from dnamamba.kernels.dispatch import BACKENDS
from dnamamba.models.backbone import Backbone, ModelConfig, State
from dnamamba.models.block import Block, Recompute
from dnamamba.models.mixers.mamba import SelectiveSSM
from dnamamba.models.symmetry import both_strands, complement_map, part_strands

SCORED: Final = 2**16
"""Positions whose logits `LanguageModel.nats` holds at a time."""


class LanguageModel(nn.Module):
    """Predicts the next base, or masked ones, from ids.

    Parameters
    ----------
    config
        The model's identity.
    """

    code_to_id: Tensor
    complement: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight
        codes = torch.tensor([config.ids[min(code & BASE, N)] for code in range(256)])
        self.register_buffer("code_to_id", codes, persistent=False)
        complement = complement_map(config.ids, config.vocab_size)
        self.register_buffer("complement", complement, persistent=False)
        self._backend = "auto"
        self._recompute: Recompute = "none"
        self._group: ProcessGroup | None = None

    @property
    def backend(self) -> str:
        """How selective scans run; no part of the model's identity."""
        return self._backend

    @backend.setter
    def backend(self, name: str) -> None:
        if name not in BACKENDS:
            raise UsageError(f"backend: {name!r} is not one of {', '.join(BACKENDS)}")
        self._backend = name
        for module in self.modules():
            if isinstance(module, SelectiveSSM):
                module.backend = name

    @property
    def group(self) -> ProcessGroup | None:
        """Processes that hold a part of every sequence each, in order; None for whole sequences."""
        return self._group

    @group.setter
    def group(self, group: ProcessGroup | None) -> None:
        if group is not None and self.config.symmetry != "none":
            raise UsageError(
                f'symmetry "{self.config.symmetry}": both strands of a sequence have to lie on one '
                "process"
            )
        self._group = group
        for module in self.modules():
            if isinstance(module, SelectiveSSM):
                module.group = group

    @property
    def recompute(self) -> Recompute:
        """What the backward makes again instead of keeping it; no part of the model's identity."""
        return self._recompute

    @recompute.setter
    def recompute(self, what: Recompute) -> None:
        if what not in get_args(Recompute):
            raise UsageError(f"recompute: {what!r} is not one of {', '.join(get_args(Recompute))}")
        self._recompute = what
        for module in self.modules():
            if isinstance(module, Block):
                module.recompute = what

    @property
    def parameters_count(self) -> int:
        """Number of parameters; a tied weight counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def tokens(self, codes: Tensor) -> Tensor:
        """Turn uint8 store codes of any shape into int64 ids; the soft mask is dropped."""
        return self.code_to_id[codes.long()]

    @overload
    def hidden(
        self, ids: Tensor, state: State | None = None, *, return_state: Literal[False] = False
    ) -> Tensor: ...

    @overload
    def hidden(
        self, ids: Tensor, state: State | None = None, *, return_state: Literal[True]
    ) -> tuple[Tensor, State]: ...

    def hidden(
        self, ids: Tensor, state: State | None = None, *, return_state: bool = False
    ) -> Tensor | tuple[Tensor, State]:
        """Embed ids.

        Parameters
        ----------
        ids
            (batch, length) int64.
        state
            What came before, from `initial_state` or an earlier call; nothing by default.
        return_state
            Return the state after the last id too.

        Returns
        -------
        Final normed hidden states, (batch, length, d_hidden). With symmetry "shared" d_hidden is
        2 d_model: this strand's channels, then the other's at the same position, so that the
        reverse complement of the input swaps the halves and reverses the length. With "average",
        outside training, they are the mean over strands: only the length is reversed.

        Raises
        ------
        UsageError
            For a state where the model reads more than one way.
        """
        both = self.config.symmetry == "shared" or self._averages
        if state is not None or return_state:
            self._require_one_way(both)
        if not both:
            hidden, after = self.backbone(ids, state, return_state=return_state)
            return (hidden, after) if return_state else hidden
        here, there = self._read_both(ids)
        return (here + there) / 2 if self._averages else torch.cat([here, there], dim=-1)

    @overload
    def forward(
        self, ids: Tensor, state: State | None = None, *, return_state: Literal[False] = False
    ) -> Tensor: ...

    @overload
    def forward(
        self, ids: Tensor, state: State | None = None, *, return_state: Literal[True]
    ) -> tuple[Tensor, State]: ...

    def forward(
        self, ids: Tensor, state: State | None = None, *, return_state: bool = False
    ) -> Tensor | tuple[Tensor, State]:
        """Predict: parameters, state and errors as in `hidden`.

        Returns
        -------
        Logits (batch, length, vocab_size), fp32 under autocast too. Those at position t are for
        base t + 1 where the objective is "next", and for base t where it is "masked".
        """
        if state is not None or return_state:
            self._require_one_way(self._predicts_from_both)
        if not self._predicts_from_both:
            hidden, after = self.backbone(ids, state, return_state=return_state)
            return (self._predict(hidden), after) if return_state else self._predict(hidden)
        return self._logits(*self._read_both(ids))

    def nats(
        self,
        ids: Tensor,
        targets: Tensor,
        state: State | None = None,
        *,
        return_state: bool = False,
    ) -> tuple[Tensor, State | None]:
        """Score targets, without the logits of the whole sequence at any one time.

        The final norm, the head and the cross entropy run over `SCORED` positions at a time, and
        again in the backward: what is kept is the residual stream.

        Parameters
        ----------
        ids, state, return_state
            As in `forward`; errors too.
        targets
            (batch, length) int64, what the logits of `forward` should predict.

        Returns
        -------
        Minus the log-likelihood of each target in nats, (batch, length) float32, and the state
        after the last id if asked for.
        """
        if state is not None or return_state:
            self._require_one_way(self._predicts_from_both)
        both = self._predicts_from_both
        read = both_strands(ids, self.complement) if both else ids
        stream, after = self.backbone.stream(read, state, return_state=return_state)
        streams = part_strands(stream) if both else (stream,)
        positions = max(1, SCORED // len(ids))
        parts = zip(
            zip(*(torch.split(stream, positions, 1) for stream in streams), strict=True),
            torch.split(targets, positions, 1),
            strict=True,
        )
        nats = [
            checkpoint(self._score, part, asked, use_reentrant=False, preserve_rng_state=False)
            for part, asked in parts
        ]
        return torch.cat(nats, 1), after

    def _score(self, streams: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        logits = self._logits(*(self.backbone.norm_f(stream) for stream in streams))
        return cross_entropy(logits, targets)

    def initial_state(self, batch: int) -> State:
        """Return the state before the first base, for `batch` sequences; errors as in `step`."""
        self._require_one_way(self._predicts_from_both)
        return self.backbone.initial_state(batch)

    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one id of each sequence, (batch,); equals `forward` on a sequence of one.

        Returns
        -------
        Logits (batch, vocab_size), and the state after the ids.

        Raises
        ------
        UsageError
            Where the model reads more than one way.
        """
        self._require_one_way(self._predicts_from_both)
        hidden, state = self.backbone.step(ids, state)
        return self._predict(hidden), state

    @property
    def _averages(self) -> bool:
        return self.config.symmetry == "average" and not self.training

    @property
    def _predicts_from_both(self) -> bool:
        return self.config.symmetry == "shared" or (
            self._averages and self.config.objective == "masked"
        )

    def _require_one_way(self, both: bool) -> None:
        if both or self.config.bidirectional:
            what = f'symmetry "{self.config.symmetry}"' if both else "bidirectional"
            raise UsageError(f"{what}: a model that reads more than one way has no state to carry")

    def _read_both(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden, _ = self.backbone(both_strands(ids, self.complement))
        return part_strands(hidden)

    def _logits(self, here: Tensor, there: Tensor | None = None) -> Tensor:
        """Predict from the normed hidden states of one strand, or of both."""
        logits = self._predict(here)
        if there is None:
            return logits
        logits = logits + self._predict(there)[..., self.complement]
        return logits / 2 if self._averages else logits

    def _predict(self, hidden: Tensor) -> Tensor:
        """Apply the head in the weight's precision: it is small, and its rounding shows in bits."""
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = self.lm_head(hidden.to(self.lm_head.weight.dtype))
        return logits


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target in nats, computed in fp32.

    Parameters
    ----------
    logits
        (batch, length, vocabulary), any floating dtype.
    targets
        (batch, length) int64 ids.

    Returns
    -------
    (batch, length) float32.
    """
    flat = functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), reduction="none"
    )
    return flat.view_as(targets)
