"""A predictor: a backbone, and a linear head on what it makes of sequences of any lengths.

Sequences of a batch come padded, and are read packed end to end, each from a state of its own. In
use both strands are read and their features averaged; in training the
strand is the caller's choice. Of each base it predicts labels or numbers from that base's hidden
state alone, and there, too, from the mean of both strands.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnamamba.alphabet import INVALID
from dnamamba.errors import CheckpointError, UsageError
from dnamamba.files import write_text
from dnamamba.models import beside, pretrained
from dnamamba.models.adapters import CONFIG as ADAPTER
from dnamamba.models.adapters import Adapters
from dnamamba.models.backbone import State
from dnamamba.models.block import Recompute
from dnamamba.models.classifier import Pool
from dnamamba.models.heads import LanguageModel
from dnamamba.models.hub import model_folder

Kind = Literal["classes", "labels", "values"]
"""What is predicted: one of several classes, any of several labels, or numbers."""
PAD: Final = INVALID
"""The code behind the end of a sequence."""
_PADDED: Final = -1
"""Its id."""
_PIECE: Final = 1024
"""Bases that are summed by themselves first."""
CONFIG: Final = "predictor.json"
HEAD: Final = "predictor.safetensors"


@dataclass(frozen=True)
class PredictorConfig:
    """What is predicted, and from what.

    Attributes
    ----------
    kind
        Which of the three.
    names
        Of the classes, labels or numbers, in the order of the outputs.
    pool
        What the head sees of the final hidden states.
    per_base
        Whether labels or numbers are those of each base; the head then sees its state, and `pool`
        means nothing.
    window
        Bases of the windows that were laid around the regions it was fitted on, if any were.
    centres, scales
        Of numbers: outputs are multiplied by the scale and shifted by the centre.
    base, base_sha256
        The language model that reads, and the checksum of its weights, where the predictor's folder
        does not hold them: it is as it was, or an adapter beside the head changes it.

    Raises
    ------
    UsageError
        For a single class, classes of each base, no name, or centres and scales that are not one
        for each number.
    """

    kind: Kind
    names: tuple[str, ...]
    pool: Pool = "mean"
    centres: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    base: str | None = None
    base_sha256: str | None = None
    per_base: bool = False
    window: int | None = None

    def __post_init__(self) -> None:
        if len(self.names) < 1 + (self.kind == "classes"):
            raise UsageError(f"names: {len(self.names)} {self.kind}; there is nothing to predict")
        if self.per_base and self.kind == "classes":
            raise UsageError("classes: of each base there are labels or values; take labels")
        wanted = len(self.names) if self.kind == "values" else 0
        if not len(self.centres) == len(self.scales) == wanted:
            raise UsageError(f"centres and scales: {wanted} of each are wanted for {self.kind}")


class Packed(NamedTuple):
    """Sequences end to end.

    Attributes
    ----------
    ids
        (bases,) int64.
    sizes
        Bases of each sequence.
    """

    ids: Tensor
    sizes: list[int]

    @property
    def size(self) -> int | None:
        """Bases of each sequence where all have the same; else None."""
        return self.sizes[0] if len(set(self.sizes)) == 1 else None

    def flipped(self, complement: Tensor) -> "Packed":
        """Read the other strand, the last sequence's first."""
        return Packed(complement[self.ids.flip(0)], self.sizes[::-1])

    def sums(self, hidden: Tensor) -> Tensor:
        """Sum (bases, width) over the bases of each sequence, (sequences, width) float32."""
        if self.size:
            return hidden.view(-1, self.size, hidden.shape[1]).sum(1, dtype=torch.float32)
        # In two steps: one would have a thread go through a million bases.
        pieces = [-(-size // _PIECE) for size in self.sizes]
        within = [
            min(_PIECE, size - start) for size in self.sizes for start in range(0, size, _PIECE)
        ]
        parts = _segment_sums(hidden.float(), within)
        return _segment_sums(parts, pieces)


def _segment_sums(rows: Tensor, sizes: list[int]) -> Tensor:
    lengths = torch.tensor(sizes, device=rows.device)
    return torch.segment_reduce(rows, "sum", lengths=lengths, unsafe=True)


class Predictor(nn.Module):
    """Predicts classes, labels or numbers of sequences.

    Parameters
    ----------
    language
        The model whose backbone reads; its own head is kept as it is, and not trained.
    config
        What is predicted.
    """

    centres: Tensor
    scales: Tensor

    def __init__(self, language: LanguageModel, config: PredictorConfig) -> None:
        super().__init__()
        self.language = language
        self.config = config
        if not language.config.tie_embeddings:
            language.lm_head.requires_grad_(False)
        doubled = config.pool == "both" and not config.per_base
        width = language.config.d_model * (1 + doubled)
        self.head = nn.Linear(width, len(config.names))
        for name in ("centres", "scales"):
            values = torch.tensor(getattr(config, name), dtype=torch.float32)
            self.register_buffer(name, values, persistent=False)

    @property
    def recompute(self) -> Recompute:
        """As `LanguageModel.recompute`."""
        return self.language.recompute

    @recompute.setter
    def recompute(self, what: Recompute) -> None:
        self.language.recompute = what

    def tokens(self, codes: Tensor) -> Tensor:
        """Turn (batch, length) store codes, `PAD` behind the ends, into ids for `nats`."""
        return self.language.tokens(codes).masked_fill(codes == PAD, _PADDED)

    def nats(
        self,
        ids: Tensor,
        targets: Tensor,
        state: State | None = None,
        *,
        return_state: bool = False,
    ) -> tuple[Tensor, None]:
        """Score what sequences are, as `LanguageModel.nats` scores bases.

        Parameters
        ----------
        ids
            (batch, length), from `tokens`; one strand is read.
        targets
            (batch, 1) int64 classes, (batch, labels) 0 or 1, or (batch, numbers) floats; of each
            base (batch, length, names).

        Returns
        -------
        Of the shape of `targets`, float32: minus the log-probability of the class, or of each
        label, in nats; or half the squared error of each number, in squares of its scale. There is
        no state.

        Raises
        ------
        UsageError
            For a state: what a sequence is cannot be told of a part of it.
        """
        if state is not None or return_state:
            raise UsageError("a predictor reads sequences whole: it has no state to carry")
        inside = ids != _PADDED
        outputs = self.head(self.features(_packed(ids, inside)))
        if self.config.kind == "classes":
            nats = functional.cross_entropy(outputs, targets[:, 0], reduction="none")[:, None]
            return nats, None
        wanted = targets[inside] if self.config.per_base else targets
        if self.config.kind == "labels":
            wanted = wanted.to(outputs.dtype)
            nats = functional.binary_cross_entropy_with_logits(outputs, wanted, reduction="none")
        else:
            nats = (outputs - (wanted - self.centres) / self.scales).square() / 2
        if self.config.per_base:
            whole = nats.new_zeros(targets.shape)
            nats = whole.masked_scatter(inside[..., None], nats)
        return nats, None

    def features(self, packed: Packed) -> Tensor:
        """Return what the head sees of one strand.

        Returns
        -------
        (sequences, width) float32; of each base (bases, width), end to end.
        """
        hidden = self._hidden(packed)
        if self.config.per_base:
            return hidden.float()
        lengths = torch.tensor(packed.sizes, device=hidden.device)
        last = hidden[lengths.cumsum(0) - 1].float()
        if self.config.pool == "last":
            return last
        mean = packed.sums(hidden) / lengths[:, None]
        return mean if self.config.pool == "mean" else torch.cat([last, mean], 1)

    def _hidden(self, packed: Packed) -> Tensor:
        """Return the final hidden states, (bases, width) end to end."""
        index = None
        rows = packed.ids[None]
        if packed.size:
            rows = packed.ids.view(-1, packed.size)
        else:
            lengths = torch.tensor(packed.sizes, device=rows.device)
            numbers = torch.arange(len(lengths), device=rows.device, dtype=torch.int32)
            index = numbers.repeat_interleave(lengths, output_size=rows.shape[1])[None]
        top = self.language.config.n_layer
        (hidden,), _ = self.language.backbone.outputs(rows, (top,), seq_idx=index)
        return hidden.flatten(0, 1)

    def both_strands(self, ids: Tensor) -> Tensor:
        """Return the mean of what the head sees of either strand of ids, as `features`."""
        return self._mean_of_strands(ids, self.features)

    def _mean_of_strands(self, ids: Tensor, read: Callable[[Packed], Tensor]) -> Tensor:
        packed = _packed(ids, ids != _PADDED)
        there = read(packed.flipped(self.language.complement))
        return (read(packed) + there.flip(0)) / 2

    def predict(self, ids: Tensor) -> Tensor:
        """Read both strands of ids from `tokens`.

        Returns
        -------
        (batch, names) float64: the probability of each class or label, or the numbers; of each base
        (bases, names), those of all sequences end to end.
        """
        # The head is linear: the mean of what it says is what it says of the mean.
        outputs = self._mean_of_strands(ids, lambda each: self.head(self.features(each))).double()
        if self.config.kind == "classes":
            return outputs.softmax(1)
        if self.config.kind == "labels":
            return outputs.sigmoid()
        return outputs * self.scales + self.centres


def _packed(ids: Tensor, inside: Tensor) -> Packed:
    return Packed(ids[inside], inside.sum(1).tolist())


def save_predictor(
    predictor: Predictor, folder: Path, card: str, adapters: Adapters | None = None
) -> None:
    """Write a predictor into a folder.

    One that has a base is written without it: a head, and the adapter in use.

    Parameters
    ----------
    predictor
        What to write.
    folder
        Made where it is missing.
    card
        The model card, Markdown.
    adapters
        Those of its language model, if there are any.

    Raises
    ------
    DnamambaError
        Where the folder cannot be written.
    """
    if predictor.config.base is None:
        pretrained.save(predictor.language, folder, card)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / pretrained.CARD, card)
        if adapters is not None and adapters.in_use is not None:
            adapters.save(adapters.in_use, folder)
    beside.write_weights(folder / HEAD, predictor.head)
    beside.write_config(folder / CONFIG, predictor.config)


def is_predictor_folder(folder: Path) -> bool:
    """Tell whether `folder` holds what `save_predictor` writes."""
    return (folder / CONFIG).is_file() and (folder / HEAD).is_file()


def load_predictor(
    folder: Path | str, device: torch.device | str = "cpu", *, base: str | None = None
) -> Predictor:
    """Read a predictor that `save_predictor` wrote, in eval mode, its adapter merged.

    Parameters
    ----------
    folder
        The predictor's.
    device
        Where to put it.
    base
        Where its base lies now, if not where it was.

    Raises
    ------
    CheckpointError
        As `pretrained.load`; for a model that is no predictor, or whose head does not fit; and for
        a base that is missing, or another one than it was.
    UsageError
        For an adapter where peft is missing.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        pretrained.read_config(folder)
        raise CheckpointError(
            f"{folder}: a language model, and no predictor: fit one from it with "
            f"dnamamba finetune TRAIN -m {folder}"
        )
    config = beside.read_config(folder / CONFIG, PredictorConfig)
    if config.base is None:
        language = pretrained.load(folder, device)
    else:
        language = _load_base(folder, config, base or config.base, device)
    with torch.random.fork_rng(devices=[]):
        predictor = Predictor(language, config)
    beside.read_weights(folder / HEAD, predictor.head, "this predictor")
    return predictor.to(device).eval()


def _load_base(
    folder: Path, config: PredictorConfig, base: str, device: torch.device | str
) -> LanguageModel:
    try:
        place = model_folder(base)
        _, digest = pretrained.fingerprint(place)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder}: holds what was learnt beside {config.base}, and {base} cannot be read "
            f"({error}); say where that model is: --base MODEL"
        ) from error
    if digest != config.base_sha256:
        raise CheckpointError(
            f"{base}: is not the {config.base} that {folder} was fitted on (its SHA-256 differs); "
            "say where that model is: --base MODEL"
        )
    language = pretrained.load(base, device)
    if (folder / ADAPTER).is_file():
        adapters = Adapters(language)
        adapters.load("finetuned", folder)
        adapters.merge()
    return language
