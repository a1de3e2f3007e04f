from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dnamamba.alphabet import encode
from dnamamba.inference.score_causal import CausalScorer
from dnamamba.inference.score_window import Change, Window
from dnamamba.models.heads import LanguageModel
from dnamamba.models.mixers.mamba2 import Mamba2Config
from tests.inference.scoring import log_probabilities, random_codes, tiny, whole

CLOSE = {"rtol": 0, "atol": 1e-5}
LENGTH = 200
SEGMENT = 32

Score = Callable[..., NDArray[np.float64]]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny()


@pytest.fixture
def score(model: LanguageModel) -> Score:
    def run(
        windows: Sequence[Window],
        horizon: int | None = None,
        batch_bases: int = 512,
        segment: int | None = SEGMENT,
        model: LanguageModel = model,
    ) -> NDArray[np.float64]:
        scorer = CausalScorer(
            model,
            horizon=horizon,
            device=torch.device("cpu"),
            batch_bases=batch_bases,
            segment=segment,
            autocast=nullcontext,
        )
        return scorer.score(windows)

    return run


def changes_of(length: int) -> list[Change]:
    """Every kind of change, around every boundary of segments, and at both ends."""
    edges = {0, 1, 2, length - 3, length - 2, length - 1}
    near = {at + by for at in range(SEGMENT, length, SEGMENT) for by in (-1, 0, 1, 2)}
    found = []
    for start in sorted((edges | near) & set(range(length))):
        found.append(Change(start, start + 1, encode("G")))
        found.append(Change(start, min(start + 3, length), encode("TAC")))
        found.append(Change(start, start, encode("ACCA")))
        found.append(Change(start, min(start + 5, length), encode("")))
        found.append(Change(start, min(start + 4, length), encode("CT")))
    return [*found, Change(length, length, encode("AT")), Change(0, length - 1, encode(""))]


@pytest.mark.parametrize("batch_bases", [90, 2**14])
def test_to_the_end_it_is_the_difference_of_two_whole_windows(
    score: Score, model: LanguageModel, batch_bases: int
) -> None:
    codes = random_codes(LENGTH)
    window = Window(codes, changes_of(LENGTH))
    wanted = [whole(model, window, change) for change in window.changes]
    assert np.ptp(wanted) > 1
    np.testing.assert_allclose(score([window], batch_bases=batch_bases), wanted, **CLOSE)


@pytest.mark.parametrize("segment", [7, 1000, None])
def test_where_states_are_kept_changes_nothing(
    score: Score, model: LanguageModel, segment: int
) -> None:
    window = Window(random_codes(LENGTH), changes_of(LENGTH)[::3])
    wanted = [whole(model, window, change) for change in window.changes]
    np.testing.assert_allclose(score([window], segment=segment), wanted, **CLOSE)


@pytest.mark.parametrize(
    "options",
    [
        {"symmetry": "average"},
        {"mixers": ("mamba2", "mlp"), "mamba2": Mamba2Config(d_state=8, head_dim=16)},
        {"mixers": ("hyena", "mamba")},
    ],
)
def test_other_models_that_predict_the_next_base(score: Score, options: dict[str, Any]) -> None:
    """Hyena has no state: its alternates are read from the window's first base."""
    model = tiny(**options)
    windows = [Window(random_codes(size), changes_of(size)[::7]) for size in (LENGTH, 90)]
    wanted = [whole(model, window, change) for window in windows for change in window.changes]
    assert np.ptp(wanted) > 1
    np.testing.assert_allclose(score(windows, model=model), wanted, **CLOSE)


def test_windows_of_unlike_lengths_are_read_at_once(score: Score, model: LanguageModel) -> None:
    windows = [
        Window(random_codes(length, seed=length), changes_of(length)[:: 1 + length % 3])
        for length in (40, 200, 33, 64, 101)
    ]
    windows.insert(2, Window(random_codes(50), []))
    wanted = [whole(model, window, change) for window in windows for change in window.changes]
    np.testing.assert_allclose(score(windows), wanted, **CLOSE)
    alone = [score([window]) for window in windows]
    np.testing.assert_allclose(np.concatenate(alone), wanted, **CLOSE)


@pytest.mark.parametrize("horizon", [0, 1, 9, 60, 500])
def test_a_horizon_sums_over_the_allele_and_what_is_behind_it(
    score: Score, model: LanguageModel, horizon: int
) -> None:
    window = Window(random_codes(LENGTH), changes_of(LENGTH))
    reference = np.append(0, log_probabilities(model, window.codes))
    wanted = []
    for change in window.changes:
        alternate = np.append(0, log_probabilities(model, window.changed(change)))
        end = min(change.end + horizon, LENGTH)
        ours = alternate[change.start : end + change.gain].sum()
        wanted.append(ours - reference[change.start : end].sum())
    np.testing.assert_allclose(score([window], horizon), wanted, **CLOSE)


def test_what_leaves_nothing_to_predict_is_no_difference(score: Score) -> None:
    window = Window(encode("A"), [Change(0, 1, encode("C")), Change(0, 1, encode(""))])
    assert score([window]).tolist() == [0, 0]
    assert score([Window(random_codes(9), [])]).tolist() == []


def test_the_mode_is_restored(score: Score, model: LanguageModel) -> None:
    model.train()
    score([Window(random_codes(9), [Change(3, 4, encode("C"))])])
    assert model.training
    model.eval()
