from pathlib import Path

import numpy as np
import pytest

from dnamamba.errors import CheckpointError
from dnamamba.evaluation.calls import Calls
from dnamamba.evaluation.contest import Contest, Place, rows
from dnamamba.evaluation.contest_file import load_contests, pool, save_contests


def drawn(seed: int, windows: int) -> Calls:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet([1, 1, 1], windows)
    return Calls(("a", "b", "c"), probabilities, random.integers(0, 3, windows), np.arange(windows))


def contests(seed: int) -> tuple[list[Contest], list[Place]]:
    made = []
    for length, windows, combined in ((1024, 12, 1), (4096, 3, 4)):
        model = drawn(seed, windows)
        other = Calls(model.classes, model.probabilities[::-1], model.labels, model.loci)
        controls = {"k-mers": other, "composition": model}
        made.append(Contest(length, model, controls, combined))
    return made, [Place(f"r:{i}", f"x {i}") for i in range(12)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    before, places = contests(0)
    save_contests(tmp_path / "contests.npz", before, places)
    after, read = load_contests(tmp_path / "contests.npz")
    assert read == places
    assert list(map(str, rows(after, "m"))) == list(map(str, rows(before, "m")))
    assert [(contest.length, contest.combined) for contest in after] == [(1024, 1), (4096, 4)]
    assert list(after[0].controls) == ["k-mers", "composition"]


def test_folds_are_pooled_context_by_context() -> None:
    folds = [contests(0), contests(1)]
    pooled, places = pool(folds)
    assert [(contest.length, contest.combined) for contest in pooled] == [(1024, 1), (4096, 4)]
    assert [contest.loci for contest in pooled] == [24, 6]
    right = [part[0][0].controls["k-mers"].correct for part in folds]
    assert np.array_equal(pooled[0].controls["k-mers"].correct, np.concatenate(right))
    assert len(places) == 24


def test_a_fold_too_short_for_a_context_has_no_part_in_it() -> None:
    (one, places), (other, others) = contests(0), contests(1)
    pooled, _ = pool([(other[:1], others), (one, places)])
    assert [(contest.length, contest.loci) for contest in pooled] == [(1024, 24), (4096, 3)]
    assert np.array_equal(pooled[1].model.probabilities, one[1].model.probabilities)


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_damage_is_told(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "contests.npz"
    if content is None:
        save_contests(path, *contests(0))
        path.write_bytes(path.read_bytes()[:-200])
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"contests.npz: damaged"):
        load_contests(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_contests(tmp_path / "contests.npz")
