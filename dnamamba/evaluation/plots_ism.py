"""What each base of a region is worth to a model, drawn as a logo."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from dnamamba.alphabet import LETTERS, Codes, N
from dnamamba.evaluation.plots import ORANGE, new_figure, save_png
from dnamamba.log import logger

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.path import Path as Outline

LONGEST: Final = 200
"""Bases that are drawn as letters; of more, `PART` around the greatest."""
PART: Final = 100
COLORS: Final = ("#009600", "#0000FF", "#D17105", "#FF0000")
"""Of A, C, G and T, as genome browsers have them."""
_COLUMNS: Final = 2000
"""The most steps of a track; one of several bases shows the least, the greatest and the mean."""
_BASE: Final = 0.1
"""Inches of a letter."""
_MARGIN: Final = 1.0


def plot_ism(
    reference: Codes, importance: NDArray[np.float64], contig: str, start: int, path: Path
) -> list[Path]:
    """Draw a region's bases as letters, as high as they are important.

    Below 0 they hang upside down. A region longer than `LONGEST` is drawn as a track, and below it
    the letters around its greatest place.

    Parameters
    ----------
    reference
        (bases,) uint8 store codes without soft mask.
    importance
        (bases,), in nats; NaN is not drawn.
    contig, start
        Where the first base lies, 0-based.
    path
        The PNG, written atomically.

    Returns
    -------
    What was drawn: nothing without matplotlib, and a message says how to get it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        logger.info("no %s: matplotlib is missing; pip install 'dnamamba[plot]'", path.name)
        return []
    heights = np.nan_to_num(importance)
    if len(heights) <= LONGEST:
        figure = new_figure(2.5, _MARGIN + _BASE * max(20, len(heights)))
        logo = figure.subplots()
        _draw_letters(logo, reference, heights, start)
    else:
        figure = new_figure(4.5, _MARGIN + _BASE * PART)
        track, logo = figure.subplots(2, 1)
        shown = _around_greatest(heights)
        _draw_track(track, heights, start)
        ends = start + shown.start + 0.5, start + shown.stop + 0.5
        track.axvspan(*ends, color=ORANGE, alpha=0.4)
        _draw_letters(logo, reference[shown], heights[shown], start + shown.start)
    logo.set_xlabel(f"{contig}, 1-based")
    save_png(figure, path)
    return [path]


def _around_greatest(heights: NDArray[np.float64]) -> slice:
    first = min(max(0, int(heights.argmax()) - PART // 2), len(heights) - PART)
    return slice(first, first + PART)


def _draw_track(axes: "Axes", heights: NDArray[np.float64], start: int) -> None:
    size = -(-len(heights) // _COLUMNS)
    firsts = np.arange(0, len(heights), size)
    edges = start + 0.5 + np.append(firsts, len(heights))
    mean = np.add.reduceat(heights, firsts) / np.diff(edges)
    axes.stairs(np.maximum.reduceat(heights, firsts), edges, fill=True, color="0.8")
    axes.stairs(np.minimum.reduceat(heights, firsts), edges, fill=True, color="0.8")
    axes.stairs(mean, edges, fill=True, color="0.4")
    _finish(axes, start, len(heights))


def _draw_letters(axes: "Axes", reference: Codes, heights: NDArray[np.float64], start: int) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.transforms import Affine2D

    outlines = [_outline(letter) for letter in LETTERS[:N]]
    for place, (code, height) in enumerate(zip(reference.tolist(), heights.tolist(), strict=True)):
        if height:
            there = Affine2D().scale(0.95, height).translate(start + place + 0.525, 0)
            outline = outlines[code].transformed(there)
            axes.add_patch(PathPatch(outline, facecolor=COLORS[code], linewidth=0))
    _finish(axes, start, len(heights))


def _outline(letter: str) -> "Outline":
    """Return a letter of width and height 1 whose lower left corner is the origin."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    outline = TextPath((0, 0), letter, size=1, prop=FontProperties(weight="bold"))
    box = outline.get_extents()
    unit = Affine2D().translate(-box.x0, -box.y0).scale(1 / box.width, 1 / box.height)
    found: Outline = outline.transformed(unit)
    return found


def _finish(axes: "Axes", start: int, bases: int) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.axhline(0, color="0.3", linewidth=0.6)
    axes.autoscale_view(scalex=False)
    axes.set(xlim=(start + 0.5, start + bases + 0.5), ylabel="importance (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.spines[["top", "right"]].set_visible(False)
