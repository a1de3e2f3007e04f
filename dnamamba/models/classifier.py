"""A classifier of sequences: a backbone, and a linear head on what it makes of a window.

Both strands are read and their features averaged, in training as in use, so that a window and its
reverse complement get the same call, and what tells strands apart is no noise. On disk a classifier
is a model folder with two files more: classifier.json and classifier.safetensors, the heads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dnamamba.errors import CheckpointError, UsageError
from dnamamba.models import beside, pretrained
from dnamamba.models.backbone import State
from dnamamba.models.block import Recompute
from dnamamba.models.heads import SCORED, LanguageModel
from dnamamba.models.symmetry import reverse_complement

Pool = Literal["last", "mean", "both"]
"""What the head sees of the final hidden states: the last position, the mean, or the two."""
CONFIG: Final = "classifier.json"
HEADS: Final = "classifier.safetensors"
SEGMENT: Final = {"cpu": 2**16, "cuda": 2**19}
"""Bases that are read at a time where no gradient is asked for, each from the state before."""


@dataclass(frozen=True)
class ClassifierConfig:
    """What a classifier tells apart, and how.

    Attributes
    ----------
    classes
        Names, in the order of the logits.
    contexts
        Bases of the windows that it was tested on, increasing; the last are those that it was
        fitted on. It makes no call of fewer than the first.
    pool
        What the head sees.
    temperatures
        What logits are divided by in use (Guo et al., arXiv 1706.04599, section 4.2), at each
        context: a short window says less than the one it was cut from. Each context has a head of
        its own, too; empty until both are chosen, and the last head alone is of use.
    threshold
        The least probability of a call; None where no threshold made calls right often enough, and
        every call is unsure.
    """

    classes: tuple[str, ...]
    contexts: tuple[int, ...]
    pool: Pool = "mean"
    temperatures: tuple[float, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not self.contexts or sorted(set(self.contexts)) != list(self.contexts):
            raise UsageError(f"contexts {self.contexts}: give one or more, increasing")
        if self.temperatures and len(self.temperatures) != len(self.contexts):
            raise UsageError(f"temperatures {self.temperatures}: give one for each context")

    @property
    def shortest(self) -> int:
        """Bases of the shortest windows that it was tested on."""
        return self.contexts[0]

    @property
    def length(self) -> int:
        """Bases of the windows that it was fitted on."""
        return self.contexts[-1]

    def temperature(self, bases: int) -> float:
        """Return what the logits of a window are divided by; 1 before it is calibrated.

        Between two contexts its logarithm is interpolated, over that of the bases.
        """
        if not self.temperatures:
            return 1.0
        logs = np.log(self.contexts), np.log(self.temperatures)
        return float(np.exp(np.interp(np.log(bases), *logs)))


class Head(nn.Linear):
    """A linear layer on standardised features.

    What tells classes apart may be a thousandth of a feature: without its scale, no learning rate
    would suit both the head and the backbone.

    Attributes
    ----------
    mean, scale
        (in_features,) float32: what is taken from features, and what they are divided by then; 0
        and 1 until they are measured, and no gradient trains them.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        # Parameters, not buffers: a checkpoint has them.
        self.mean = nn.Parameter(torch.zeros(in_features), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(in_features), requires_grad=False)
        nn.init.normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor, mean: Tensor | None = None) -> Tensor:
        """Return (batch, out_features) logits of (batch, in_features) features, in fp32.

        `mean` is taken from them in place of the head's own.
        """
        with torch.autocast(features.device.type, enabled=False):
            return super().forward((features - (self.mean if mean is None else mean)) / self.scale)


class Classifier(nn.Module):
    """Tells classes apart.

    Parameters
    ----------
    language
        The model whose backbone reads; its own head is kept as it is, and not trained.
    config
        The classes.

    Attributes
    ----------
    heads
        One for each context; the last is trained.
    bases_at_once
        How many `nats` reads at a time; each part is read again in the backward. None reads all at
        once.
    """

    def __init__(self, language: LanguageModel, config: ClassifierConfig) -> None:
        super().__init__()
        self.language = language
        self.config = config
        if not language.config.tie_embeddings:
            language.lm_head.requires_grad_(False)
        width = language.config.d_model * (2 if config.pool == "both" else 1)
        self.heads = nn.ModuleList(Head(width, len(config.classes)) for _ in config.contexts)
        for head in self.heads[:-1]:
            head.requires_grad_(False)
        self.bases_at_once: int | None = None

    @property
    def head(self) -> Head:
        """The head of the longest context, which is trained."""
        return cast("Head", self.heads[-1])

    def head_for(self, bases: int) -> Head:
        """Return the head of the context that is nearest, as a ratio, to a window's `bases`."""
        if not self.config.temperatures:
            return self.head
        ratios = np.abs(np.log(np.array(self.config.contexts) / bases))
        return cast("Head", self.heads[int(ratios.argmin())])

    @property
    def recompute(self) -> Recompute:
        """As `LanguageModel.recompute`."""
        return self.language.recompute

    @recompute.setter
    def recompute(self, what: Recompute) -> None:
        self.language.recompute = what

    def tokens(self, codes: Tensor) -> Tensor:
        """As `LanguageModel.tokens`."""
        return self.language.tokens(codes)

    def nats(
        self,
        ids: Tensor,
        targets: Tensor,
        state: State | None = None,
        *,
        return_state: bool = False,
    ) -> tuple[Tensor, None]:
        """Score classes, as `LanguageModel.nats` scores bases.

        In training mode the mean of the batch's own features is taken from them, and gradients know
        it (Ioffe & Szegedy, arXiv 1502.03167): a learning backbone would move the features of all
        windows together by more than classes differ. So a batch has to be whole.

        Parameters
        ----------
        ids
            (batch, length) int64 of whole windows; in training mode, those of all classes.
        targets
            (batch, 1) int64, their classes.

        Returns
        -------
        Minus the log-probability of each class in nats, (batch, 1) float32; there is no state.

        Raises
        ------
        UsageError
            For a state: a window's class cannot be told of a part of it.
        """
        if state is not None or return_state:
            raise UsageError("a classifier reads windows whole: it has no state to carry")
        features = self._in_parts(ids)
        logits = self.head(features, features.mean(0) if self.training else None)
        return functional.cross_entropy(logits, targets[:, 0], reduction="none")[:, None], None

    def _in_parts(self, ids: Tensor) -> Tensor:
        """Return the mean of both strands' features, some windows at a time."""
        at_once = self.bases_at_once or ids.numel()
        parts = torch.split(ids, max(1, at_once // ids.shape[1]))
        if len(parts) == 1:
            return self.both_strands(ids)
        return torch.cat(
            [checkpoint(self.both_strands, part, use_reentrant=False) for part in parts]
        )

    def features(self, ids: Tensor) -> Tensor:
        """Read one strand, (batch, length) ids; what the head sees, (batch, width) float32."""
        one_way = not self.language.config.bidirectional
        size = ids.shape[1]
        if one_way and not torch.is_grad_enabled():
            size = max(1, SEGMENT.get(ids.device.type, SEGMENT["cpu"]) // len(ids))
        sums = []
        state: State | None = None
        parts = torch.split(ids, size, 1)
        for part in parts:
            stream, state = self.language.backbone.stream(part, state, return_state=len(parts) > 1)
            if self.config.pool != "last":
                sums.append(self._sum(stream))
        last: Tensor = self.language.backbone.norm_f(stream[:, -1:])[:, 0].float()
        if self.config.pool == "last":
            return last
        mean = torch.stack(sums).sum(0) / ids.shape[1]
        return mean if self.config.pool == "mean" else torch.cat([last, mean], 1)

    def _sum(self, stream: Tensor) -> Tensor:
        """Sum normed hidden states over positions, a part at a time, and again in the backward."""

        def normed_sum(part: Tensor) -> Tensor:
            normed: Tensor = self.language.backbone.norm_f(part)
            return normed.sum(1, dtype=torch.float32)

        parts = torch.split(stream, max(1, SCORED // len(stream)), 1)
        sums = [checkpoint(normed_sum, part, use_reentrant=False) for part in parts]
        return torch.stack(sums).sum(0)

    def both_strands(self, ids: Tensor) -> Tensor:
        """Return the mean of both strands' features, (batch, width) float32."""
        here = self.features(ids)
        return (here + self.features(reverse_complement(ids, self.language.complement))) / 2

    def logits(self, ids: Tensor) -> Tensor:
        """Read both strands of (batch, length) ids; the mean of their logits, (batch, classes)."""
        logits: Tensor = self.head_for(ids.shape[1])(self.both_strands(ids))
        return logits

    def probabilities(self, ids: Tensor) -> Tensor:
        """Return calibrated probabilities of the classes, (batch, classes) float64.

        Parameters
        ----------
        ids
            (batch, length) int64.
        """
        temperature = self.config.temperature(ids.shape[1])
        return torch.softmax(self.logits(ids).double() / temperature, 1)


def save_classifier(classifier: Classifier, folder: Path, card: str) -> None:
    """Write a classifier into a folder; parameters and errors as in `pretrained.save`."""
    pretrained.save(classifier.language, folder, card)
    beside.write_weights(folder / HEADS, classifier.heads)
    beside.write_config(folder / CONFIG, classifier.config)


def is_classifier_folder(folder: Path) -> bool:
    """Tell whether `folder` holds what `save_classifier` writes."""
    return pretrained.is_model_folder(folder) and (folder / CONFIG).is_file()


def load_classifier(folder: Path | str, device: torch.device | str = "cpu") -> Classifier:
    """Read a classifier that `save_classifier` wrote, in eval mode.

    Raises
    ------
    CheckpointError
        As `pretrained.load`; and for a model that is no classifier, or whose heads do not fit.
    """
    folder = Path(folder)
    language = pretrained.load(folder, device)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{folder}: a language model, and no classifier: fit one from it with "
            f"dnamamba classify --species SHEET -m {folder}"
        )
    config = read_classifier_config(folder)
    with torch.random.fork_rng(devices=[]):
        classifier = Classifier(language, config)
    beside.read_weights(folder / HEADS, classifier.heads, "this classifier")
    return classifier.to(device).eval()


def read_classifier_config(folder: Path) -> ClassifierConfig:
    """Read the classifier.json of a folder.

    Raises
    ------
    CheckpointError
        If it cannot be read, or is of another format.
    """
    return beside.read_config(folder / CONFIG, ClassifierConfig)
