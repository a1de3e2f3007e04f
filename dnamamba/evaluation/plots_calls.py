"""What a classifier called, drawn as PNG; matplotlib is imported on the first plot."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from dnamamba.evaluation.calls import Calls
from dnamamba.evaluation.contest import Row, percent
from dnamamba.evaluation.plots import BLUE, GREEN, ORANGE, new_figure, save_png

_CONTROLS: Final = (
    ("s", ORANGE, (0, (5, 2))),
    ("^", GREEN, (0, (3, 1, 1, 1))),
    ("D", "#CC79A7", (0, (1, 1))),
    ("v", "0.35", "-"),
)
"""Marker, colour and dashes of each control's line."""
_UPRIGHT: Final = 9
"""Letters of a species' name that fit below its column; longer ones are turned."""


def plot_confusion(calls: Calls, path: Path) -> None:
    """Draw windows by true and called class; the colour is the share of the true class.

    Parameters
    ----------
    calls
        Of 2 to about 10 classes.
    path
        The PNG, written atomically.
    """
    from matplotlib.ticker import PercentFormatter

    table = calls.confusion
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    size = len(calls.classes)
    figure = new_figure(max(3.6, 1.6 + 0.5 * size), width=max(5.0, 2.6 + 0.62 * size))
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        color = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=9)
    axes.set_xticks(range(size), calls.classes)
    if max(map(len, calls.classes)) > _UPRIGHT:
        axes.tick_params(axis="x", rotation=40)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), calls.classes)
    axes.tick_params(length=0)
    axes.set_xlabel("called")
    axes.set_ylabel("true")
    figure.colorbar(
        image,
        ax=axes,
        format=PercentFormatter(1, decimals=0, symbol=" %"),
        label="of the true species",
    )
    save_png(figure, path)


def plot_reliability(calls: Calls, path: Path) -> None:
    """Draw how often calls of a confidence are right, beside the diagonal.

    Parameters
    ----------
    calls
        Of two classes or more.
    path
        The PNG, written atomically.
    """
    confidence, right, count = calls.reliability().T
    figure = new_figure(4.6, width=5.0)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=(0, (1, 1)), label="as sure as right")
    error = percent(calls.calibration_error)
    axes.plot(confidence, right, color=BLUE, linewidth=1.3, zorder=2)
    axes.scatter(
        confidence,
        right,
        s=20 + 180 * count / count.max(),
        color=BLUE,
        edgecolor="white",
        zorder=3,
        label=f"calls (expected calibration error {error} points)",
    )
    for x, y, calls_there in zip(confidence, right, count, strict=True):
        axes.annotate(
            f"{calls_there:,.0f}",
            (x, y),
            xytext=(0, -14 if y > 0.5 else 10),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.set_xlim(0, 1.03)
    axes.set_ylim(-0.03, 1.05)
    axes.set_aspect("equal")
    axes.set_xlabel("confidence of the call")
    axes.set_ylabel("share of calls that are right")
    figure.legend(frameon=False, loc="outside upper center")
    save_png(figure, path)


def plot_contexts(table: Sequence[Row], path: Path, chance: float) -> None:
    """Draw accuracy over context: the model's with its interval, and the controls'.

    Parameters
    ----------
    table
        Rows of `contest.rows`: the first is the model's.
    path
        The PNG, written atomically.
    chance
        The accuracy of a call without looking.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    lines: dict[str, list[Row]] = {}
    for row in table:
        lines.setdefault(row.name, []).append(row)
    model = table[0].name
    styles = itertools.cycle(_CONTROLS)
    figure = new_figure(4.5)
    axes = figure.add_subplot()
    for name, line in lines.items():
        lengths = [row.context for row in line]
        accuracy = [row.accuracy for row in line]
        if name == model:
            ends = [(row.accuracy - row.low, row.high - row.accuracy) for row in line]
            axes.errorbar(
                lengths, accuracy, np.maximum(ends, 0).T, color=BLUE, marker="o", linewidth=1.8,
                capsize=4, zorder=4, label=name,
            )  # fmt: skip
        else:
            marker, color, dashes = next(styles)
            axes.plot(
                lengths, accuracy, color=color, marker=marker, markersize=5, linestyle=dashes,
                linewidth=1.2, label=name,
            )  # fmt: skip
    axes.axhline(chance, color="black", linestyle=(0, (1, 2)), linewidth=1, label="chance")
    axes.set_xscale("log", base=2)
    lengths = sorted({row.context for row in table})
    axes.set_xlim(lengths[0] / 1.5, lengths[-1] * 1.5)
    axes.xaxis.set_major_locator(FixedLocator(lengths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda length, _: f"{length / 1024:.4g}")
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g} %")
    if longer := [row.context for row in table if row.combined > 1]:
        axes.axvspan(min(longer) / 2, lengths[-1] * 2, color="0.93", zorder=0)
        axes.annotate(
            "evidence of windows combined", (0.99, 0.01), xycoords="axes fraction", ha="right",
            fontsize=8, color="0.4",
        )  # fmt: skip
    axes.set_xlabel("bases of a call (kb of 1,024)")
    axes.set_ylabel("called right")
    handles, names = axes.get_legend_handles_labels()
    order = sorted(range(len(names)), key=lambda index: names[index] != model)
    axes.legend(
        [handles[index] for index in order], [names[index] for index in order], frameon=False
    )
    save_png(figure, path)
