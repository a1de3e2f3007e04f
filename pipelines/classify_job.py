"""A classifier's fit that is set up: what it reads, and how it is scored."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnamamba.data.feeder import feed
from dnamamba.data.labelled import LabelledWindows
from dnamamba.data.tracks import (
    LabelledWindow,
    Tracks,
    describe,
    group_by_locus,
    read,
    spread,
    tile_tracks,
)
from dnamamba.evaluation.calls import Calls, temperature_for
from dnamamba.evaluation.language import Objective, Score
from dnamamba.inference.classify import BATCH_BASES, classify_windows, embed_windows
from dnamamba.models.classifier import Classifier, Head
from dnamamba.models.precision import Autocast, autocast_to
from dnamamba.pipelines.classify_config import ClassifyConfig, selecting_windows, stages_of
from dnamamba.pipelines.classify_data import Sides
from dnamamba.processes import ALONE, Processes
from dnamamba.training.loop import LoopConfig
from dnamamba.training.objectives import Label
from dnamamba.training.optimizer import OptimizerConfig
from dnamamba.training.signals import StopRequest
from dnamamba.training.stages import Stage


@dataclass(frozen=True)
class Fit:
    """All that a classifier is made of, once it is set up."""

    folder: Path
    config: ClassifyConfig
    inputs: list[dict[str, Any]]
    sides: Sides
    classifier: Classifier
    device: torch.device

    @property
    def length(self) -> int:
        """Bases of a window."""
        return self.classifier.config.length

    @property
    def loop(self) -> LoopConfig:
        """How the run is cut into steps: a batch is one pass, which the model cuts up itself."""
        config = self.config
        return LoopConfig(
            steps=config.steps or 1,
            batch=config.batch or 1,
            micro_batch=config.batch or 1,
            length=self.length,
            validate_every=config.validate_every or 1,
            checkpoint_every=config.checkpoint_every or 1,
        )

    @property
    def micro_batch(self) -> int:
        """Windows that are read at once."""
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
    def windows(self) -> LabelledWindows:
        """What is trained on."""
        return LabelledWindows(
            self.sides.train,
            self.length,
            seed=self.config.seed,
            by_track=self.config.recipe == "paper",
        )

    @property
    def trained_on(self) -> Objective:
        """The classes of the training windows."""
        config = self.config
        substituted = config.substitute or 0.0
        return Label(self.classifier.tokens, self.windows.label, substituted, config.seed)

    @property
    def stages(self) -> list[Stage]:
        """The stages of its length warm-up, or one."""
        return stages_of(self.config)

    def bases(self, steps: int) -> int:
        """Count the bases that the first steps read."""
        inside = (
            (len(stage.steps[: max(0, steps - stage.steps.start)]), stage) for stage in self.stages
        )
        return sum(count * stage.batch * stage.length for count, stage in inside)

    def batches(self, start: int, workers: int) -> Iterator[Tensor]:
        """Read the batch of each step from `start` on."""
        windows = self.windows
        for stage in self.stages:
            if start < stage.steps.stop:
                yield from feed(
                    windows.of_length(stage.length),
                    range(max(start, stage.steps.start), stage.steps.stop),
                    stage.batch,
                    workers=workers,
                    pin=self.device.type == "cuda",
                )

    def windows_of(self, step: int) -> Iterator[str]:
        """Tell which windows a step reads."""
        for stage in self.stages:
            if step in stage.steps:
                windows = self.windows.of_length(stage.length)
                for index in range(stage.batch):
                    yield describe(windows.species, windows.window(step, index))

    def probabilities(
        self, species: Tracks, windows: Sequence[LabelledWindow]
    ) -> NDArray[np.float64]:
        """Classify windows, (windows, classes)."""
        return self._read(classify_windows, species, windows)

    def embeddings(self, species: Tracks, windows: Sequence[LabelledWindow]) -> NDArray[np.float32]:
        """Return what the head sees of windows, (windows, width)."""
        return self._read(embed_windows, species, windows)

    def _read(
        self,
        by: Callable[..., Iterator[NDArray[Any]]],
        species: Tracks,
        windows: Sequence[LabelledWindow],
    ) -> NDArray[Any]:
        found = by(
            self.classifier,
            (read(species, window).numpy() for window in windows),
            device=self.device,
            batch_bases=BATCH_BASES.get(self.device.type, BATCH_BASES["cpu"]),
            autocast=self.autocast,
        )
        return np.stack(list(found))

    def calls(self, species: Tracks, windows: Sequence[LabelledWindow]) -> Calls:
        """Classify windows of known species."""
        return calls_of(self.sides, species, windows, self.probabilities(species, windows))

    def centre(self, head: Head, length: int, most: int) -> None:
        """Measure the mean that a head takes from features, on windows of the training side.

        Parameters
        ----------
        head
            Is changed.
        length
            Bases of a window.
        most
            Windows of a species, at most.
        """
        windows = spread(tile_tracks(self.sides.train, length), most)
        mean = self.embeddings(self.sides.train, windows).mean(0)
        with torch.no_grad():
            head.mean.copy_(torch.from_numpy(mean))

    def score(self, stop: StopRequest) -> Score:
        """Score the model on as many valid windows as training can wait for; bits a window.

        The head is centred first, and the calls are at the temperature that suits them best: both
        are chosen anew for the model that is kept.
        """
        with stop.breaks_off():
            most = selecting_windows(self.config, len(self.sides.species))
            self.centre(self.classifier.head, self.length, most)
            calls = self.calls(self.sides.valid, spread(self.valid_windows(), most))
            stop.check(self.processes)
        calls = calls.tempered(temperature_for(calls))
        chosen = calls.probabilities[np.arange(len(calls.labels)), calls.labels]
        bits = -np.log2(np.maximum(chosen, np.finfo(float).tiny))
        return Score(bits, np.ones(len(bits), np.int64), float(calls.correct.mean()))

    def valid_windows(self, length: int | None = None) -> list[LabelledWindow]:
        """Return the windows that the model is calibrated on, and chosen on some of."""
        windows = tile_tracks(self.sides.valid, length or self.length)
        return spread(windows, self.config.test_windows or 1)

    def save_model(self, step: int) -> None:
        """Write nothing: `train` keeps the model that is best on the valid side."""


def calls_of(
    sides: Sides,
    species: Tracks,
    windows: Sequence[LabelledWindow],
    probabilities: NDArray[np.float64],
) -> Calls:
    """Put the probabilities of windows beside their species and loci."""
    return Calls(
        sides.species,
        probabilities,
        np.array([window.species for window in windows]),
        np.array(group_by_locus(species, windows)),
    )
