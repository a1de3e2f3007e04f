from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dnamamba.alphabet import Codes, encode
from dnamamba.inference.score_masked import MaskedScorer
from dnamamba.inference.score_window import Change, Window
from dnamamba.models.heads import LanguageModel
from tests.inference.scoring import random_codes, tiny

CLOSE = {"rtol": 0, "atol": 1e-5}
FLANK = 3
LENGTH = 40
KINDS: dict[str, dict[str, Any]] = {
    "both ways": {"bidirectional": True},
    "shared": {"bidirectional": True, "symmetry": "shared"},
    "average": {"symmetry": "average"},
    "other ids": {"ids": (6, 5, 3, 2, 1), "mask_id": 7},
}
Score = Callable[..., NDArray[np.float64]]


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return tiny(objective="masked", **KINDS[request.param])


@pytest.fixture
def score(model: LanguageModel) -> Score:
    def run(windows: Sequence[Window], batch_bases: int = 300) -> NDArray[np.float64]:
        scorer = MaskedScorer(
            model,
            flank=FLANK,
            device=torch.device("cpu"),
            batch_bases=batch_bases,
            autocast=nullcontext,
        )
        return scorer.score(windows)

    return run


def masked(model: LanguageModel, codes: Codes, places: range) -> list[float]:
    """log p of the bases in some places, which are hidden together."""
    ids = model.tokens(torch.from_numpy(codes.copy())[None])
    hidden = ids.clone()
    hidden[0, list(places)] = model.config.mask_id
    with torch.no_grad():
        found = model(hidden).log_softmax(-1)[0]
    return [float(found[t, ids[0, t]]) for t in places]


def pseudo(model: LanguageModel, codes: Codes, places: range) -> float:
    return sum(masked(model, codes, range(t, t + 1))[0] for t in places)


def by_hand(model: LanguageModel, window: Window, change: Change) -> float:
    codes, changed = window.codes, window.changed(change)
    first, last = max(0, change.start - FLANK), min(len(codes), change.end + FLANK)
    if change.gain:
        ours = pseudo(model, changed, range(first, last + change.gain))
        return ours - pseudo(model, codes, range(first, last))
    places = range(change.start, change.end)
    return sum(masked(model, changed, places)) - sum(masked(model, codes, places))


CHANGES = [
    Change(0, 1, encode("C")),
    Change(0, 1, encode("G")),
    Change(LENGTH - 1, LENGTH, encode("A")),
    Change(7, 9, encode("TG")),
    Change(8, 9, encode("T")),
    Change(20, 20, encode("ACG")),
    Change(22, 25, encode("")),
    Change(30, 32, encode("A")),
    Change(0, 0, encode("T")),
    Change(LENGTH, LENGTH, encode("GG")),
    Change(LENGTH - 2, LENGTH, encode("")),
]


@pytest.mark.parametrize("batch_bases", [1, 300])
def test_it_is_what_a_loop_by_hand_gives(
    score: Score, model: LanguageModel, batch_bases: int
) -> None:
    window = Window(random_codes(LENGTH), CHANGES)
    wanted = [by_hand(model, window, change) for change in CHANGES]
    assert np.ptp(wanted) > 0.5
    np.testing.assert_allclose(score([window], batch_bases), wanted, **CLOSE)


def test_windows_of_unlike_lengths(score: Score, model: LanguageModel) -> None:
    windows = [
        Window(random_codes(LENGTH), CHANGES[::2]),
        Window(random_codes(30, 1), []),
        Window(random_codes(30, 2), [Change(4, 5, encode("C")), Change(9, 9, encode("C"))]),
        Window(random_codes(31, 3), [Change(30, 31, encode("C"))]),
    ]
    wanted = [by_hand(model, window, change) for window in windows for change in window.changes]
    np.testing.assert_allclose(score(windows), wanted, **CLOSE)


def test_alternates_of_one_place_share_a_reading(
    score: Score, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 0
    forward = LanguageModel.forward

    def counting(self: LanguageModel, ids: torch.Tensor) -> Any:
        nonlocal rows
        rows += len(ids)
        return forward(self, ids)

    monkeypatch.setattr(LanguageModel, "forward", counting)
    window = Window(random_codes(LENGTH), [Change(5, 6, encode(base)) for base in "ACGT"])
    score([window])
    assert rows == 1
    score([Window(window.codes, [Change(5, 5, encode("AA")), Change(6, 6, encode("C"))])])
    reference, alternates = 2 * FLANK + 1, 4 * FLANK + 3
    assert rows == 1 + reference + alternates


def test_a_window_without_bases_has_no_difference(score: Score) -> None:
    window = Window(encode("A"), [Change(0, 1, encode("C"))])
    assert np.isfinite(score([window])).all()
    assert score([Window(encode(""), [])]).tolist() == []
