"""Curves of a run as PNG, where matplotlib is installed."""

import importlib.util
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.files import atomic_path
from dnamamba.log import logger, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart; lines of a kind differ in dashes.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
_LEVELS: Final = ((ORANGE, (0, (5, 2))), (GREEN, (0, (1, 1))))
_ABOVE: Final = 1.05
"""The top of a loss curve, in times of what chance needs."""
_RAW: Final[dict[str, Any]] = {"color": "0.8", "linewidth": 0.8}
_SMOOTH: Final[dict[str, Any]] = {"color": "0.4", "linewidth": 1.3}


def plot_run(folder: Path, unit: str = "base", chance: float = 2.0) -> list[Path]:
    """Draw loss.png and throughput.png of a run folder, finished or not.

    Parameters
    ----------
    folder
        Holds metrics.tsv, and baselines.tsv where the baselines are scored.
    unit, chance
        What bits are counted per, and how many of them chance needs.

    Returns
    -------
    What was drawn: nothing before the first step; no throughput where no row tells of it. Without
    matplotlib nothing either, and a message says how to get it.

    Raises
    ------
    DnamambaError
        Where the folder cannot be written.
    """
    metrics = read_metrics(folder / "metrics.tsv")
    if not any(metrics.get("train_bits", ())):
        return []
    loss, throughput = folder / "loss.png", folder / "throughput.png"
    if importlib.util.find_spec("matplotlib") is None:
        logger.info("no %s: matplotlib is missing; pip install 'dnamamba[plot]'", loss.name)
        return []
    drawn = [loss]
    baselines = _best_baselines(folder / "baselines.tsv")
    plot_loss(metrics, baselines, loss, unit=unit, chance=chance)
    if any(metrics.get("bases_per_second", ())):
        plot_throughput(metrics, throughput)
        drawn.append(throughput)
    return drawn


def _best_baselines(path: Path) -> dict[str, float]:
    """Return the bits per base of the simplest model of a baselines.tsv, and of the best."""
    if not path.is_file():
        return {}
    table = read_metrics(path)
    levels = dict(zip(table["model"], map(float, table["bits_per_base"]), strict=True))
    shown = [next(iter(levels)), min(levels, key=levels.__getitem__)]
    return {name: levels[name] for name in shown}


def plot_loss(
    metrics: Mapping[str, Sequence[str]],
    baselines: Mapping[str, float],
    path: Path,
    *,
    unit: str = "base",
    chance: float = 2.0,
) -> None:
    """Draw training and held-out bits over the bases read, above the baselines.

    Parameters
    ----------
    metrics
        Columns of a metrics.tsv: bases, train_bits, valid_bits, valid_low, valid_high.
    baselines
        Name to held-out bits per base, each a level line; two at most.
    path
        The PNG, written atomically.
    unit, chance
        As for `plot_run`.
    """
    figure = new_figure(4.5)
    axes = figure.add_subplot()
    bases, (bits,) = _columns(metrics, "train_bits")
    axes.plot(bases, bits, **_RAW)
    axes.plot(bases, _smooth(bits), **_SMOOTH, label="training")
    bases, (middle, low, high) = _columns(metrics, "valid_bits", "valid_low", "valid_high")
    axes.fill_between(bases, low, high, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(bases, middle, color=BLUE, marker=".", label="held out")
    for (name, level), (color, dashes) in zip(baselines.items(), _LEVELS, strict=False):
        axes.axhline(level, color=color, linestyle=dashes, linewidth=1.2, label=name)
    axes.set_ylabel(f"bits per {unit}")
    top = axes.get_ylim()[1]
    bottom = min([*bits, *low[~np.isnan(low)], *baselines.values()])
    if bottom < _ABOVE * chance:  # the first steps, far above, would flatten all that follows
        top = min(_ABOVE * chance, top)
    axes.set_ylim(bottom - 0.05 * (top - bottom), top)
    axes.legend(frameon=False)
    _finish(figure, axes, path)


def plot_throughput(metrics: Mapping[str, Sequence[str]], path: Path) -> None:
    """Draw how fast bases were trained on, and below it the time spent waiting for them.

    Parameters
    ----------
    metrics
        Columns of a metrics.tsv: bases, bases_per_second, wait_share.
    path
        The PNG, written atomically.
    """
    figure = new_figure(4.5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bases, (rate, waited) = _columns(metrics, "bases_per_second", "wait_share")
    above.plot(bases, rate, **_RAW)
    above.plot(bases, 1 / _smooth(1 / rate), **_SMOOTH)  # the mean of the times
    above.set_ylabel("bases per second")
    above.yaxis.set_major_formatter(_engineering())
    above.set_ylim(bottom=0)
    below.plot(bases, 100 * waited, **_RAW)
    below.plot(bases, 100 * _smooth(waited), color=BLUE, linewidth=1.3)
    below.axhline(2, color=ORANGE, linestyle=_LEVELS[0][1], linewidth=1.2)
    below.set_ylabel("waiting for\nthe feeder (%)")
    below.set_ylim(0, max(4.0, 1.1 * 100 * float(waited.max())))
    _finish(figure, below, path)


def plot_scaling(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the time and memory of training steps over the length of their windows.

    Parameters
    ----------
    rows
        Each a step's path, recompute, length, step_ms and peak_gib; without figures it is left out.
    path
        The PNG, written atomically.
    """
    figure = new_figure(4.0)
    panels = figure.subplots(1, 2)
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["step_ms"]:
            mode = f", {row['recompute']}" if row["path"] != "attention" else " alone"
            lines.setdefault(f"{row['path']}{mode}", []).append(row)
    markers = (("o", BLUE), ("s", ORANGE), ("^", GREEN), ("D", "0.4"))
    for (name, line), (marker, color) in zip(lines.items(), itertools.cycle(markers), strict=False):
        lengths = [row["length"] for row in line]
        for axes, column in zip(panels, ("step_ms", "peak_gib"), strict=True):
            values = [row[column] for row in line]
            axes.plot(lengths, values, marker=marker, color=color, linewidth=1.3, label=name)
    for axes, label in zip(panels, ("milliseconds a step", "peak memory (GiB)"), strict=True):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("bases of a window")
        axes.set_ylabel(label)
    panels[0].legend(frameon=False)
    save_png(figure, path)


def new_figure(height: float, width: float = 7.0) -> "Figure":
    """Begin a figure of so many inches, 120 pixels each."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_png(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _engineering() -> Any:
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


def _finish(figure: "Figure", lowest: "Axes", path: Path) -> None:
    """Label the axis that all plots share, and write the PNG."""
    lowest.set_xlabel("bases read")
    lowest.xaxis.set_major_formatter(_engineering())
    save_png(figure, path)


def _columns(
    metrics: Mapping[str, Sequence[str]], *names: str
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Return the bases of the rows that have the first of the columns, and those columns."""
    columns = [_numbers(metrics[name]) for name in ("bases", *names)]
    there = ~np.isnan(columns[1])
    bases, *values = (column[there] for column in columns)
    return bases, values


def _numbers(cells: Sequence[str]) -> NDArray[np.float64]:
    return np.array([float(cell) if cell else np.nan for cell in cells])


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over a running window of a fiftieth of the run."""
    width = max(1, len(values) // 50)
    sums = np.cumsum(np.concatenate([np.zeros(1), values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))
