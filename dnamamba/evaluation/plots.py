"""Curves as PNG, where matplotlib is installed."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnamamba.files import atomic_path
from dnamamba.log import logger


def plot_loss(
    metrics: Mapping[str, Sequence[str]], baselines: Mapping[str, float], path: Path
) -> bool:
    """Draw training and held-out bits per base over the bases seen, above the baselines.

    Parameters
    ----------
    metrics
        Columns of a metrics.tsv: bases, train_bits, valid_bits, valid_low, valid_high.
    baselines
        Name to held-out bits per base, each a level line.
    path
        The PNG, written atomically.

    Returns
    -------
    Whether there is a picture: without matplotlib a message says how to get one.
    """
    if importlib.util.find_spec("matplotlib") is None:
        logger.info("no %s: matplotlib is missing; pip install 'dnamamba[plot]'", path.name)
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    columns = {name: _numbers(metrics[name]) for name in metrics}
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    trained = ~np.isnan(columns["train_bits"])
    bases, bits = columns["bases"][trained], columns["train_bits"][trained]
    axes.plot(bases, bits, color="0.8", linewidth=0.8)
    axes.plot(bases, _smooth(bits), color="0.45", linewidth=1.2, label="training")
    held = ~np.isnan(columns["valid_bits"])
    low, middle, high = (columns[f"valid_{name}"][held] for name in ("low", "bits", "high"))
    axes.fill_between(columns["bases"][held], low, high, color="tab:blue", alpha=0.2, linewidth=0)
    axes.plot(columns["bases"][held], middle, color="tab:blue", marker=".", label="held out")
    for number, (name, level) in enumerate(baselines.items()):
        axes.axhline(level, color=f"C{number + 1}", linestyle="--", linewidth=1.0, label=name)
    axes.set_xlabel("bases seen")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylabel("bits per base")
    axes.set_ylim(top=min(2.1, axes.get_ylim()[1]))
    axes.legend(frameon=False)
    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure)
        figure.savefig(temporary, format="png", dpi=120)
    return True


def _numbers(cells: Sequence[str]) -> NDArray[np.float64]:
    return np.array([float(cell) if cell else np.nan for cell in cells])


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over a running window of a fiftieth of the run."""
    width = max(1, len(values) // 50)
    sums = np.cumsum(np.concatenate([np.zeros(1), values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))
