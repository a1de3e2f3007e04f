"""Fits of one table under many settings, each tested on the same sequences."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnamamba.data.table import read_table
from dnamamba.evaluation.intervals import Interval, block_bootstrap
from dnamamba.log import read_metrics
from dnamamba.pipelines.finetune_config import FinetuneConfig
from dnamamba.pipelines.finetune_fit import finetune
from dnamamba.pipelines.finetune_report import PREDICTIONS
from dnamamba.pipelines.fitting import METRICS


def fit_and_test(
    train: Path, test: Path, config: FinetuneConfig, folder: Path, device: str
) -> NDArray[np.bool_] | None:
    """Fit a predictor of classes in a run folder, or take what is finished there.

    Returns
    -------
    (rows,), which sequences of TEST it calls right; None where a signal has stopped the fit.
    """
    finetune(
        train, folder, config, test=test, allow_overlap=True, resume=folder.exists(), device=device
    )
    if not (folder / PREDICTIONS).exists():
        return None
    found = read_table(folder / PREDICTIONS)
    pairs = zip(found.column("label"), found.column("predicted"), strict=True)
    return np.array([wanted == called for wanted, called in pairs])


def tuned_bits(folder: Path) -> float:
    """Return the bits of the validation that a finished fit was chosen by."""
    return min(float(bits) for bits in read_metrics(folder / METRICS)["valid_bits"] if bits)


def mean_over(right: NDArray[np.floating | np.bool_]) -> Interval:
    """Bound the mean of (seeds, rows): rows are drawn anew, each with what all seeds make of it."""
    rows = np.asarray(right, float).mean(0)
    return block_bootstrap(rows, np.ones(len(rows)), block=1)
