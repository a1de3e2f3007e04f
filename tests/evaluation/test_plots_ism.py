from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dnamamba.alphabet import encode
from dnamamba.evaluation import plots_ism
from dnamamba.evaluation.plots_ism import COLORS, LONGEST, PART, plot_ism


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ism.png"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was drawn, before it was written."""
    pytest.importorskip("matplotlib")
    seen: list[Any] = []
    save = plots_ism.save_png
    monkeypatch.setattr(
        plots_ism, "save_png", lambda figure, path: (seen.append(figure), save(figure, path))
    )
    return seen


def drawn(axes: Any) -> list[tuple[str, float, float, float]]:
    """Each letter's colour, where it stands and how far it reaches below and above 0."""
    from matplotlib.colors import to_hex

    boxes = [(patch, patch.get_path().get_extents()) for patch in axes.patches]
    return [
        (to_hex(patch.get_facecolor()).upper(), (box.x0 + box.x1) / 2, box.y0, box.y1)
        for patch, box in boxes
    ]


def test_letters_are_as_high_as_important(path: Path, figures: list[Any]) -> None:
    heights = np.array([1, -0.5, 2, np.nan, 0, 3])
    assert plot_ism(encode("ACGNAT"), heights, "chr1", 100, path) == [path]
    assert path.read_bytes().startswith(b"\x89PNG")
    (axes,) = figures[0].axes
    wanted = [
        (COLORS[0], 101, 0, 1),
        (COLORS[1], 102, -0.5, 0),
        (COLORS[2], 103, 0, 2),
        (COLORS[3], 106, 0, 3),
    ]
    assert len(axes.patches) == len(wanted)
    for found, each in zip(drawn(axes), wanted, strict=True):
        assert found[0] == each[0]
        assert found[1:] == pytest.approx(each[1:])
    assert axes.get_xlim() == (100.5, 106.5)
    low, high = axes.get_ylim()
    assert low < -0.5
    assert high > 3
    assert axes.get_xlabel() == "chr1, 1-based"


def of_length(length: int, top: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    heights = np.random.default_rng(0).uniform(-1, 1, length)
    heights[top] = 5
    heights[length // 3] = np.nan
    return np.arange(length, dtype=np.uint8) % 4, heights


@pytest.mark.parametrize(
    ("length", "top", "first"),
    [
        (LONGEST + 1, 3, 0),
        (LONGEST + 1, LONGEST, LONGEST + 1 - PART),
        (12_345, 6000, 6000 - PART // 2),
    ],
)
def test_a_long_region_is_a_track_and_its_greatest_place(
    path: Path, figures: list[Any], length: int, top: int, first: int
) -> None:
    reference, heights = of_length(length, top)
    plot_ism(reference, heights, "chr1", 1000, path)
    track, logo = figures[0].axes
    assert track.get_xlim() == (1000.5, 1000.5 + length)
    assert logo.get_xlim() == (1000.5 + first, 1000.5 + first + PART)
    high, low, mean, shown = track.patches
    assert (high.get_data().values.max(), low.get_data().values.min()) == (5, np.nanmin(heights))
    assert high.get_data().edges[-1] == 1000.5 + length
    assert len(high.get_data().values) <= 2000
    size = -(-length // 2000)
    ends = heights[:size].mean(), heights[-1 - (length - 1) % size :].mean()
    assert mean.get_data().values[[0, -1]].tolist() == pytest.approx(ends)
    assert (shown.get_x(), shown.get_width()) == (1000.5 + first, PART)
    letters = drawn(logo)
    known = ~np.isnan(heights[first : first + PART])
    np.testing.assert_allclose(
        [low + high for *_, low, high in letters], heights[first : first + PART][known]
    )
    assert [color for color, *_ in letters] == [
        COLORS[code] for code in reference[first : first + PART][known]
    ]


def test_the_longest_that_is_drawn_as_letters(path: Path, figures: list[Any]) -> None:
    plot_ism(*of_length(LONGEST, 3), "chr1", 0, path)
    assert len(figures[0].axes) == 1


@pytest.mark.parametrize("heights", [[0.0], [2.5], [0.0, 0.0], [np.nan, -1e-9]])
def test_little_is_drawn_too(path: Path, heights: list[float], figures: list[Any]) -> None:
    plot_ism(encode("A" * len(heights)), np.array(heights), "chr1", 0, path)
    assert path.stat().st_size > 1000


def test_without_matplotlib_it_is_said(
    path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert plot_ism(encode("A"), np.ones(1), "chr1", 0, path) == []
    assert not path.exists()
    assert messages[-1] == "no ism.png: matplotlib is missing; pip install 'dnamamba[plot]'"
