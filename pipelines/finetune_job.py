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
from dnamamba.models.predictor import Predictor, PredictorConfig
from dnamamba.pipelines.finetune_config import FinetuneConfig
from dnamamba.pipelines.finetune_data import Side, Sides
from dnamamba.processes import ALONE, Processes
from dnamamba.training.loop import LoopConfig
from dnamamba.training.objectives import Outcome
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
    def autocast(self) -> Autocast:
        """The context of a forward pass."""
        return autocast_to(self.config.precision, self.device)

    @cached_property
    def order(self) -> Shuffled:
        """Which rows each step reads."""
        return Shuffled(self.sides.train.lengths, self.config.batch or 1, self.config.seed)

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
        """(rows, outputs), what each row counts."""
        outcomes = self.sides.train.outcomes
        values = outcomes.values.reshape(len(outcomes), -1)
        weights = np.ones(values.shape, np.float32)
        if self.config.class_weights == "balanced":
            weights = balanced(outcomes).reshape(values.shape)
        return weights

    @property
    def trained_on(self) -> Objective:
        """The outcomes of the training rows."""
        values = self.sides.train.outcomes.values

        def asked(step: int) -> tuple[Tensor, Tensor]:
            rows = self.order.rows(step)
            targets = torch.from_numpy(values[rows].reshape(len(rows), -1))
            return targets, torch.from_numpy(self._weights[rows])

        return Outcome(self.predictor.tokens, asked)

    def batches(self, start: int, workers: int) -> Iterator[Tensor]:
        """Read the batch of each step from `start` on, each row on a strand drawn for the step."""
        del workers
        sequences = self.sides.train.sequences
        for step in range(start, self.loop.steps):
            rows = self.order.rows(step)
            random = np.random.default_rng([self.config.seed, step])
            turned = random.random(len(rows)) < 0.5
            codes = [
                reverse_complement(sequences[row]) if turn else sequences[row]
                for row, turn in zip(rows, turned, strict=True)
            ]
            yield torch.from_numpy(padded(codes))

    def windows_of(self, step: int) -> Iterator[str]:
        """Name the rows that a step reads by their lines."""
        return (f"line {self.sides.train.numbers[row]:,}" for row in self.order.rows(step))

    def predictions(self, side: Side) -> NDArray[np.float64]:
        """Predict the sequences of a side, (rows, names)."""
        return predict_sequences(
            self.predictor, side.sequences, device=self.device, autocast=self.autocast
        )

    def score(self, stop: StopRequest) -> Score:
        """Score the valid side; bits a row."""
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
    Of the shape of the outcomes; their mean is 1.
    """
    values = outcomes.values
    if outcomes.kind == "classes":
        counts = np.bincount(values, minlength=len(outcomes.names))
        return np.asarray(len(values) / ((counts > 0).sum() * counts[values]), np.float32)
    ones = values.sum(0)
    parts = np.where((ones > 0) & (ones < len(values)), 2, 1)
    counted = np.where(values, ones, len(values) - ones)
    return np.asarray(len(values) / (parts * counted), np.float32)


def score_of(outcomes: Outcomes, found: NDArray[np.float64], config: PredictorConfig) -> Score:
    """Score predictions as training does, in bits a row.

    Of classes and labels, the share that is called right stands beside them.
    """
    values = outcomes.values
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
