import random

import numpy as np
import pytest

from dnamamba.data.groups import assign_folds
from dnamamba.errors import InputError


def test_groups_stay_whole_and_folds_are_alike() -> None:
    groups = [f"chr{number}" for number in range(1, 23) for _ in range(10 * (23 - number))]
    folds = assign_folds(groups, 5, "x.csv")
    for name in set(groups):
        assert len({fold for fold, group in zip(folds, groups, strict=True) if group == name}) == 1
    sizes = np.bincount(folds, minlength=5)
    assert sizes.max() - sizes.min() <= 20
    shuffled = list(enumerate(groups))
    random.Random(0).shuffle(shuffled)
    again = assign_folds([group for _, group in shuffled], 5, "x.csv")
    assert [folds[row] for row, _ in shuffled] == again.tolist(), "the order of rows is nothing"


def test_as_many_folds_as_groups() -> None:
    assert sorted(assign_folds(["b", "a", "c", "b"], 3, "x.csv").tolist()) == [0, 0, 1, 2]
    with pytest.raises(InputError, match=r"3 groups \(a, b, c\) cannot fill 4 folds"):
        assign_folds(["b", "a", "c", "b"], 4, "x.csv")
