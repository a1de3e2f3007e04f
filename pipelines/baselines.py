"""The Markov models that a pretrained model is compared with."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnamamba.data.windows import HeldOutWindows, TrainingWindows
from dnamamba.evaluation.language import Objective, Score, score_baseline
from dnamamba.evaluation.markov import Markov
from dnamamba.evaluation.report import Result, best_order, summarise, write_results
from dnamamba.files import atomic_path
from dnamamba.log import logger
from dnamamba.training.monitor import count_text, duration_text


@dataclass(frozen=True)
class Baselines:
    """Markov models of order 0 to 12, fitted where the model trains, scored where it is scored.

    Attributes
    ----------
    scores
        Order 0 first.
    bases
        Bases they were fitted on.
    seconds
        Time it took.
    """

    scores: list[Score]
    bases: int
    seconds: float

    def results(self) -> list[Result]:
        """Return a row for each order."""
        return [
            summarise(f"order-{order} Markov", score, self.bases, self.seconds)
            for order, score in enumerate(self.scores)
        ]


def fit_baselines(
    folder: Path, windows: TrainingWindows, held_out: HeldOutWindows, objective: Objective
) -> Baselines:
    """Fit and score the Markov models; a resume reads the scores back.

    Parameters
    ----------
    folder
        The run folder; baselines.tsv and baselines.npz are written there.
    windows
        They are fitted on all that these can reach.
    held_out, objective
        What is scored: the bases of these windows that the objective asks about.
    """
    path = folder / "baselines.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as saved:
            scores = [Score(bits, saved["counts"]) for bits in saved["bits"]]
            return Baselines(scores, int(saved["bases"]), float(saved["seconds"]))
    began = time.monotonic()
    sources = windows.sources
    bases = sum(len(region) for source in sources for region in source.regions)
    logger.info("fitting Markov models of order 0 to 12 on %sb, both strands", count_text(bases))
    markov = Markov.fit(
        source.store.codes(region.contig)[region.start : region.end]
        for source in sources
        for region in source.regions
    )
    scores = score_baseline(markov, held_out, objective)
    baselines = Baselines(scores, bases, time.monotonic() - began)
    write_results(folder / "baselines.tsv", baselines.results())
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez(
            handle,
            bits=np.stack([score.bits for score in scores]),
            counts=scores[0].bases,
            bases=bases,
            seconds=baselines.seconds,
        )
    order = best_order(scores)
    logger.info(
        "the best has order %d: held out %.4f bits per base (%s)",
        order,
        scores[order].bits_per_base,
        duration_text(baselines.seconds),
    )
    return baselines
