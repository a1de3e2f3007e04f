"""Who does what, alone and among others; agreement itself is tested in tests/training."""

from collections import Counter

import pytest
import torch

from dnamamba.errors import DnamambaError, UsageError
from dnamamba.processes import ALONE, LostProcessError, Processes, _is_news, join

CPU = torch.device("cpu")


@pytest.mark.parametrize(("size", "parts"), [(1, 1), (4, 1), (4, 2), (4, 4), (6, 3)])
def test_windows_and_positions_are_shared_out_once(size: int, parts: int) -> None:
    everyone = [Processes(rank, size, parts) for rank in range(size)]
    read = [
        (window, position)
        for processes in everyone
        for window in processes.share(12)
        for position in range(100)[processes.part(100)]
    ]
    assert sorted(read) == [(window, position) for window in range(12) for position in range(100)]
    sizes = {len(range(100)[processes.part(100)]) for processes in everyone}
    assert max(sizes) - min(sizes) <= 1


def test_parts_of_a_window_lie_on_neighbours_in_order() -> None:
    everyone = [Processes(rank, 4, 2) for rank in range(4)]
    assert [processes.reader for processes in everyone] == [0, 0, 1, 1]
    assert [processes.part(9) for processes in everyone[:2]] == [slice(0, 4), slice(4, 9)]


def test_alone_there_is_nobody_to_agree_with() -> None:
    tensor = torch.ones(2)
    assert ALONE.add(tensor) is tensor
    assert ALONE.largest(3, 0.5) == [3, 0.5]
    assert ALONE.on_first(lambda: "done") == "done"
    with join(CPU) as (processes, device):
        assert processes is ALONE
        assert device is CPU


def test_alone_no_window_can_be_split() -> None:
    with (
        pytest.raises(UsageError, match=r"--sequence-parallel 2: does not divide .*, 1; torchrun"),
        join(CPU, 2),
    ):
        pytest.fail("it went on")


class Overtaken:
    """A store on which another process says its error after the first `calls` of this one."""

    def __init__(self, calls: int, other: DnamambaError) -> None:
        self.counts: Counter[str] = Counter()
        self.calls, self.other = calls, other
        self.said: bool | None = None

    def add(self, key: str, amount: int, /) -> int:
        if self.calls == 0 and self.said is None:
            self.said = False  # what follows are calls of the other
            self.said = _is_news(self, self.other)
        self.calls -= 1
        self.counts[key] += amount
        return self.counts[key]


@pytest.mark.parametrize("calls", [0, 1])
@pytest.mark.parametrize(
    ("mine", "other", "told"),
    [
        (UsageError("x"), UsageError("x"), 1),
        (UsageError("x"), UsageError("y"), 2),
        (LostProcessError("x"), LostProcessError("x"), 1),
    ],
    ids=("alike", "unlike", "lost"),
)
def test_an_error_of_all_is_said_once_whoever_overtakes(
    mine: DnamambaError, other: DnamambaError, told: int, calls: int
) -> None:
    store = Overtaken(calls, other)
    said = _is_news(store, mine)
    if store.said is None:
        store.said = _is_news(store, other)
    assert said + store.said == told


def test_who_lost_another_is_silent_where_the_cause_was_told() -> None:
    store = Overtaken(-1, UsageError("x"))
    assert _is_news(store, UsageError("x"))
    assert not _is_news(store, LostProcessError("y"))
