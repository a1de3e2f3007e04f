"""What a scoring job is asked for, and whether the model can do it."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

import click

from dnamamba.errors import UsageError
from dnamamba.inference.score import FLANK, Scoring, Strands
from dnamamba.models import pretrained
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.classifier import is_classifier_folder
from dnamamba.models.hub import model_folder
from dnamamba.pipelines.numbers import Count

EXACT: Final = 2**14
"""Contexts up to this one are read to their end unless a horizon is given."""
HORIZON: Final = 2**12
"""Bases behind an allele that are read in longer ones."""


@dataclass(frozen=True)
class ScoreConfig:
    """Settings of `dnamamba score`.

    Raises
    ------
    UsageError
        For a value that is none of its kind, or out of range.
    """

    model: str = ""
    """A model folder."""
    context: int = 4096
    """Bases of a window."""
    horizon: str | None = None
    """Bases behind an allele that a causal model reads, or `all`; None is what suits context."""
    strands: Strands = "both"
    flank: int | None = None
    """Bases on either side of an indel that a masked model is asked for; None is `FLANK`."""
    skip_mismatches: bool = False
    """Whether records with another REF than the genome are passed over."""
    precision: Literal["fp32", "bf16"] = "fp32"
    backend: str = "auto"
    seed: int = 0
    """Draws the variants that a horizon is held against."""

    def __post_init__(self) -> None:
        for name, kind in (("strands", Strands), ("precision", Literal["fp32", "bf16"])):
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise UsageError(f"{name}: {getattr(self, name)!r} is not one of {known}")
        self._scoring(read_horizon(self.horizon, self.context))

    def scoring(self, config: ModelConfig) -> Scoring:
        """Return what a score of this model is made of.

        Raises
        ------
        UsageError
            For a setting that is of another kind of models.
        """
        if config.objective == "masked":
            if self.horizon is not None:
                raise UsageError(
                    "--horizon: a masked model reads each window whole; leave it out, or take a "
                    "model that predicts the next base"
                )
            return self._scoring(None)
        if self.flank is not None:
            raise UsageError(
                "--flank: is for masked models; for one that predicts the next base give --horizon"
            )
        return self._scoring(read_horizon(self.horizon, self.context))

    def _scoring(self, horizon: int | None) -> Scoring:
        flank = FLANK if self.flank is None else self.flank
        return Scoring(self.context, horizon, self.strands, flank)


def read_horizon(text: str | None, context: int) -> int | None:
    """Read `--horizon`: a count, `all` (None), or by default what suits a context.

    Raises
    ------
    UsageError
        For another text.
    """
    if text is None:
        return None if context <= EXACT else HORIZON
    if text == "all":
        return None
    try:
        return Count().convert(text, None, None)
    except click.BadParameter as error:
        raise UsageError(f"--horizon {text}: give a number of bases, or all") from error


def read_model_config(model: str) -> ModelConfig:
    """Read the config of the language model that is to score.

    Raises
    ------
    UsageError
        Where none is given, or it is a classifier.
    CheckpointError
        For what is no model folder.
    """
    if not model:
        raise UsageError("-m MODEL: a model folder is wanted; dnamamba pretrain GENOME makes one")
    folder = model_folder(model)
    if is_classifier_folder(folder) or is_classifier_folder(folder / "fold-1"):
        raise UsageError(
            f"{model}: a classifier, which gives no probability to bases; give a language model, "
            "from dnamamba pretrain"
        )
    if not pretrained.is_model_folder(folder):
        pretrained.load(folder)  # says what is missing
    return pretrained.read_config(folder)
