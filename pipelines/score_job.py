"""What scores variants and regions alike: a model, a genome, and how far off a horizon is."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from dnamamba import __version__
from dnamamba.data.region import Region
from dnamamba.data.store import Store
from dnamamba.data.variants import Variant
from dnamamba.errors import DnamambaError
from dnamamba.inference.ism import Saturation, saturate
from dnamamba.inference.score import Scorer, Scoring, collect, mean_of_strands
from dnamamba.log import logger, progress
from dnamamba.models import pretrained
from dnamamba.models.heads import LanguageModel
from dnamamba.models.hub import model_name
from dnamamba.models.precision import autocast_to
from dnamamba.pipelines.numbers import show_count
from dnamamba.pipelines.score_config import ScoreConfig

SAMPLE: Final = 32
"""Variants that are scored to the window's end too, to see what a horizon leaves out."""


@dataclass(frozen=True)
class Job:
    """A model and a genome."""

    model: LanguageModel
    store: Store
    config: ScoreConfig
    device: torch.device

    @classmethod
    def load(cls, store: Store, config: ScoreConfig, device: torch.device) -> "Job":
        """Read the model.

        Raises
        ------
        CheckpointError
            For what is no model folder.
        """
        model = pretrained.load(config.model, device)
        model.backend = config.backend
        return cls(model, store, config, device)

    def score(self, variants: Sequence[Variant], scoring: Scoring) -> NDArray[np.float64]:
        """Score variants, with a bar: (variants, 2)."""

        def parts() -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
            with progress(len(variants), "score", "variants") as bar:
                for numbers, found in self._scorer(scoring).score(self.store, variants):
                    bar.update(len(numbers))
                    yield numbers, found

        with self._within_memory():
            return collect(parts(), len(variants))

    def saturate(self, region: Region, count: int, scoring: Scoring) -> Saturation:
        """Score the substitutions of a region, with a bar; `count` is how many there are."""
        with self._within_memory(), progress(count, "score", "variants") as bar:
            return saturate(self._scorer(scoring), self.store, region, advance=bar.update)

    def draw(self, count: int) -> NDArray[np.int64]:
        """Draw the numbers of those of `count` variants that a horizon is held against."""
        rng = np.random.default_rng(self.config.seed)
        return np.sort(rng.choice(count, min(SAMPLE, count), replace=False))

    def measure_error(
        self, variants: Sequence[Variant], found: NDArray[np.float64], scoring: Scoring
    ) -> str:
        """Score variants to the window's end too, and say how far off (variants,) scores are."""
        exact = mean_of_strands(self.score(variants, scoring.to_the_end()))
        return describe_error(found, exact, scoring)

    def provenance(self, scoring: Scoring) -> dict[str, str | int]:
        """Say how scores were made."""
        masked = self.model.config.objective == "masked"
        behind = "all" if scoring.horizon is None else scoring.horizon
        return {
            "version": __version__,
            "model": model_name(self.config.model),
            "context": scoring.context,
            **({"flank": scoring.flank} if masked else {"horizon": behind}),
            "strands": scoring.strands,
            "precision": self.config.precision,
        }

    def tell_pace(self, count: int, began: float) -> None:
        """Say how fast variants were scored since `began`, a time of `time.monotonic`."""
        seconds = time.monotonic() - began
        rate = show_count(count / max(seconds, 1e-9)).strip()
        name = model_name(self.config.model)
        logger.info("%.1f s, %s variants a second, with %s", seconds, rate, name)

    def _scorer(self, scoring: Scoring) -> Scorer:
        autocast = autocast_to(self.config.precision, self.device)
        return Scorer(self.model, scoring, device=self.device, autocast=autocast)

    @contextmanager
    def _within_memory(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise DnamambaError(
                f"{self.device} is out of memory: free some of it, or give --device cpu"
            ) from error


def describe_error(found: NDArray[np.float64], exact: NDArray[np.float64], scoring: Scoring) -> str:
    """Say in words how far scores with a horizon, (variants,), are from exact ones."""
    off = np.abs(found - exact)
    said = (
        f"horizon {scoring.horizon:,} against {len(exact):,} variants read to the window's end: "
        f"median difference {np.median(off):.2g} nats, largest {off.max():.2g}"
    )
    if len(exact) < 3 or np.ptp(found) == 0 or np.ptp(exact) == 0:
        return said
    pearson = stats.pearsonr(found, exact).statistic
    spearman = stats.spearmanr(found, exact).statistic
    return f"{said}, Pearson {pearson:.4f}, Spearman {spearman:.4f}"
