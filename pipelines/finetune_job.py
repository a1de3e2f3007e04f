"""A fine-tuning that is set up: what it reads, and how it is scored."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnamamba.alphabet import reverse_complement
from dnamamba.data.outcomes import Outcomes
from dnamamba.data.shuffled import Shuffled
from dnamamba.evaluation.language import Objective, Score
from dnamamba.inference.predict import padded, predict_sequences
from dnamamba.models.adapters import Adapters
from dnamamba.models.precision import Autocast, autocast_to
from dnamamba.models.predictor import PAD, Predictor, PredictorConfig
from dnamamba.pipelines.finetune_config import FinetuneConfig
from dnamamba.pipelines.finetune_sides import Side, Sides
from dnamamba.processes import ALONE, Processes
from dnamamba.training.loop import LoopConfig
from dnamamba.training.objectives import BaseOutcome, Outcome
from dnamamba.training.optimizer import OptimizerConfig
from dnamamba.training.signals import StopRequest

_TINY: Final = np.finfo(float).tiny


@dataclass(frozen=True)
class Fit:
    """All that a predictor is made of, once it is set up; a `Job`."""

    folder: Path
    config: FinetuneConfig
    inputs: list[dict[str, Any]]
    sides: Sides
    predictor: Predictor
    adapters: Adapters | None
    device: torch.device

    @property
    def loop(self) -> LoopConfig:
        """How the run is cut into steps."""
        config = self.config
        return LoopConfig(
            steps=config.steps or 1,
            batch=config.batch or 1,
            micro_batch=self.micro_batch,
            length=int(self.sides.train.lengths.max()),
            validate_every=config.validate_every or 1,
            checkpoint_every=config.checkpoint_every or 1,
            # A head that is sure of a few labels is far off on others: patience ends that.
            exploded_bits=math.inf,
            padding=PAD,
        )

    @property
    def micro_batch(self) -> int:
        """Rows that are read at once, of the longest."""
        return self.config.micro_batch or 1

    @property
    def optimizer(self) -> OptimizerConfig:
        """AdamW and its schedule."""
        return self.config.optimizer

    @property
    def precision(self) -> str:
        """Of a forward pass."""
        return self.config.precision

    @property
    def processes(self) -> Processes:
        """Who trains it: one process."""
        return ALONE

    @property
    def unit(self) -> str:
        """What is scored: sequences or bases."""
        return "base" if self.predictor.config.per_base else "sequence"

    @property
    def autocast(self) -> Autocast:
        """The context of a forward pass."""
        return autocast_to(self.config.precision, self.device)

    @cached_property
    def order(self) -> Shuffled:
        """Which rows each step reads."""
        return Shuffled(len(self.sides.train), self.config.batch or 1, self.config.seed)

    @cached_property
    def _read(self) -> NDArray[np.int64]:
        lengths = self.sides.train.lengths
        steps = range(self.loop.steps)
        each = [0, *(int(lengths[self.order.rows(step)].sum()) for step in steps)]
        return np.cumsum(each)

    def bases(self, steps: int) -> int:
        """Count the bases that the first steps read."""
        return int(self._read[steps])

    @cached_property
    def _weights(self) -> NDArray[np.float32]:
        """(rows, outputs), what each row counts, or each base."""
        outcomes = self.sides.train.outcomes
        values = outcomes.values.reshape(len(outcomes.values), -1)
        if self.config.class_weights == "balanced":
            return balanced(outcomes).reshape(values.shape)
        return np.broadcast_to(np.float32(1), values.shape)

    @property
    def trained_on(self) -> Objective:
        """The outcomes of the training rows, or of their bases."""
        if self.predictor.config.per_base:
            return BaseOutcome(self.predictor.tokens, self._asked_of_bases)
        values = self.sides.train.outcomes.values

        def asked(step: int) -> tuple[Tensor, Tensor]:
            rows = self.order.rows(step)
            targets = torch.from_numpy(values[rows].reshape(len(rows), -1))
            return targets, torch.from_numpy(self._weights[rows])

        return Outcome(self.predictor.tokens, asked)

    def _asked_of_bases(self, step: int) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        outcomes = self.sides.train.outcomes
        rows = self.order.rows(step)
        asked = []
        for row, turn in zip(rows, self._turned(step), strict=True):
            here = outcomes.span(row)
            wanted, counts = outcomes.values[here], self._weights[here]
            asked.append((wanted[::-1], counts[::-1]) if turn else (wanted, counts))
        return asked

    def _turned(self, step: int) -> NDArray[np.bool_]:
        """Draw which rows of a step are read on the other strand."""
        random = np.random.default_rng([self.config.seed, step])
        return np.asarray(random.random(len(self.order.rows(step))) < 0.5)

    def batches(self, start: int, workers: int) -> Iterator[Tensor]:
        """Read the batch of each step from `start` on, each row on a strand drawn for the step."""
        del workers
        sequences = self.sides.train.sequences
        for step in range(start, self.loop.steps):
            rows = self.order.rows(step)
            codes = [
                reverse_complement(sequences[row]) if turn else sequences[row]
                for row, turn in zip(rows, self._turned(step), strict=True)
            ]
            yield torch.from_numpy(padded(codes))

    def windows_of(self, step: int) -> Iterator[str]:
        """Name the rows that a step reads by their lines."""
        return (f"line {self.sides.train.numbers[row]:,}" for row in self.order.rows(step))

    def predictions(self, side: Side) -> NDArray[np.float64]:
        """Predict the sequences of a side, (rows, names), or their bases, (bases, names)."""
        return predict_sequences(
            self.predictor, side.sequences, device=self.device, autocast=self.autocast
        )

    def score(self, stop: StopRequest) -> Score:
        """Score the valid side; bits a row, or a base."""
        with stop.breaks_off():
            found = self.predictions(self.sides.valid)
            stop.check(self.processes)
        return score_of(self.sides.valid.outcomes, found, self.predictor.config)

    def save_model(self, step: int) -> None:
        """Write nothing: the run keeps the model that is best on the valid side."""


def balanced(outcomes: Outcomes) -> NDArray[np.float32]:
    """Weigh rows so that every class, or both values of every label, count the same.

    Returns
    -------
    Of the shape of the outcomes; their mean is 1, over what is known.
    """
    values = outcomes.values
    if outcomes.kind == "classes":
        counts = np.bincount(values, minlength=len(outcomes.names))
        return np.asarray(len(values) / ((counts > 0).sum() * counts[values]), np.float32)
    ones, known = np.nansum(values, 0), len(values) - np.isnan(values).sum(0)
    parts = np.where((ones > 0) & (ones < known), 2, 1)
    counted = np.where(values == 1, ones, known - ones)
    return np.asarray(known / np.maximum(parts * counted, 1), np.float32)


def score_of(outcomes: Outcomes, found: NDArray[np.float64], config: PredictorConfig) -> Score:
    """Score predictions as training does, in bits a row, or a base.

    Of classes and labels, the share that is called right stands beside them. Bases count where
    their labels are known, once for each.
    """
    values = outcomes.values
    if outcomes.sizes is not None:
        return _score_of_bases(outcomes, outcomes.sizes, found, config)
    if outcomes.kind == "classes":
        nats = -np.log(np.maximum(found[np.arange(len(found)), values], _TINY))
        accuracy = float((found.argmax(1) == values).mean())
    elif outcomes.kind == "labels":
        nats = -np.log(np.maximum(np.where(values, found, 1 - found), _TINY)).mean(1)
        accuracy = float(((found > 0.5) == values).mean())
    else:
        nats = (((found - values) / np.array(config.scales)) ** 2).mean(1) / 2
        accuracy = math.nan
    return Score(nats / math.log(2), np.ones(len(nats), np.int64), accuracy)


def _score_of_bases(
    outcomes: Outcomes,
    sizes: NDArray[np.int64],
    found: NDArray[np.float64],
    config: PredictorConfig,
) -> Score:
    values, accuracy = outcomes.values, math.nan
    known = ~np.isnan(values)
    if outcomes.kind == "labels":
        nats = -np.log(np.maximum(np.where(values == 1, found, 1 - found), _TINY))
        accuracy = float(((found > 0.5) == values)[known].mean())
    else:
        nats = ((found - values) / np.array(config.scales)) ** 2 / 2
    rows = np.repeat(np.arange(len(sizes)), sizes)
    sums = np.bincount(rows, np.where(known, nats, 0).sum(1), len(sizes))
    counts = np.bincount(rows, known.sum(1), len(sizes)).astype(np.int64)
    return Score(sums / math.log(2), counts, accuracy)
