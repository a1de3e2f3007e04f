from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dnamamba.errors import DnamambaError
from dnamamba.evaluation import plots_calls
from dnamamba.evaluation.calls import Calls
from dnamamba.evaluation.contest import Contest, rows
from dnamamba.evaluation.plots_calls import plot_confusion, plot_contexts, plot_reliability

matplotlib = pytest.importorskip("matplotlib", reason="needs matplotlib")


def drawn(classes: int, windows: int = 120, skill: float = 1.0, loci: int = 30) -> Calls:
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, windows)
    weights = np.exp(random.normal(size=(windows, classes)) + skill * np.eye(classes)[labels])
    names = tuple(f"Canis lupus {number}" for number in range(classes))
    probabilities = weights / weights.sum(1, keepdims=True)
    return Calls(names, probabilities, labels, np.arange(windows) % loci)


def contests(lengths: tuple[int, ...], loci: int = 30) -> list[Contest]:
    controls = {f"control {number}": drawn(4, skill=0.1 * number, loci=loci) for number in range(5)}
    return [Contest(length, drawn(4, loci=loci), controls) for length in lengths]


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list:
    """What was drawn, before it was written."""
    seen = []
    save = plots_calls.save_png
    monkeypatch.setattr(
        plots_calls, "save_png", lambda figure, path: (seen.append(figure), save(figure, path))
    )
    return seen


def test_confusion_shows_each_count(tmp_path: Path, figure: list) -> None:
    for classes in (2, 10):
        calls = drawn(classes)
        path = tmp_path / f"{classes}.png"
        plot_confusion(calls, path)
        assert path.read_bytes().startswith(b"\x89PNG")
        axes = figure[-1].axes[0]
        counts = [int(text.get_text()) for text in axes.texts]
        assert counts == calls.confusion.flatten().tolist()
        assert [label.get_text() for label in axes.get_yticklabels()] == list(calls.classes)
        shares = axes.images[0].get_array()
        there = calls.confusion.sum(1) > 0
        np.testing.assert_allclose(shares[there].sum(1), 1)
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("called", "true")
    assert not list(tmp_path.glob(".*"))


def test_a_class_that_is_not_there_has_an_empty_row(tmp_path: Path, figure: list) -> None:
    calls = Calls(("a", "b"), np.array([[0.9, 0.1]]), np.array([0]), np.array([0]))
    plot_confusion(calls, tmp_path / "confusion.png")
    assert figure[0].axes[0].images[0].get_array().tolist() == [[1, 0], [0, 0]]


def test_reliability_shows_bins_counts_and_error(tmp_path: Path, figure: list) -> None:
    calls = drawn(4)
    plot_reliability(calls, tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
    axes = figure[0].axes[0]
    confidence, right, counts = calls.reliability().T
    np.testing.assert_allclose(axes.collections[0].get_offsets(), np.stack([confidence, right], 1))
    assert [text.get_text() for text in axes.texts] == [f"{count:.0f}" for count in counts]
    legend = figure[0].legends[0].get_texts()[-1].get_text()
    assert f"{100 * calls.calibration_error:.1f} points" in legend


@pytest.mark.parametrize("lengths", [(65536,), (1000,), (1024, 16384, 1 << 20)])
@pytest.mark.parametrize("loci", [1, 30])
def test_contexts(tmp_path: Path, figure: list, lengths: tuple[int, ...], loci: int) -> None:
    """One context, and one locus, whose intervals are NaN, are drawn as well."""
    table = rows(contests(lengths, loci), "mamba")
    plot_contexts(table, tmp_path / "contexts.png", 0.25)
    assert (tmp_path / "contexts.png").read_bytes().startswith(b"\x89PNG")
    axes = figure[0].axes[0]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["mamba", *(f"control {number}" for number in range(5)), "chance"]
    model = axes.containers[0].lines[0]
    assert model.get_xdata().tolist() == list(lengths)
    assert model.get_ydata().tolist() == [row.accuracy for row in table if row.name == "mamba"]
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    wanted = {(65536,): ["64"], (1000,): ["0.9766"]}
    assert ticks == wanted.get(lengths, ["1", "16", "1024"])


def test_an_interval_is_drawn_from_end_to_end(tmp_path: Path, figure: list) -> None:
    table = rows(contests((4096,)), "mamba")
    plot_contexts(table, tmp_path / "contexts.png", 0.25)
    (bars,) = figure[0].axes[0].containers[0].lines[2]
    ends = bars.get_segments()[0][:, 1]
    np.testing.assert_allclose(ends, [table[0].low, table[0].high])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "confusion.png").mkdir()
    with pytest.raises(DnamambaError, match=r"confusion\.png"):
        plot_confusion(drawn(2), tmp_path / "confusion.png")


def test_contexts_of_combined_windows_are_marked(tmp_path: Path, figure: list) -> None:
    (first, longer) = contests((1024, 4096))
    for combined, shaded in ((1, 0), (4, 1)):
        table = rows([first, replace(longer, combined=combined)], "mamba")
        plot_contexts(table, tmp_path / "contexts.png", 0.25)
        axes = figure[-1].axes[0]
        assert len(axes.patches) == shaded
        assert any("combined" in text.get_text() for text in axes.texts) == bool(shaded)
    (span,) = axes.patches
    assert span.get_x() == 2048
