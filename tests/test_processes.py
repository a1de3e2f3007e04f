"""Who does what, alone and among others; agreement itself is tested in tests/training."""

import pytest
import torch

from dnamamba.errors import UsageError
from dnamamba.processes import ALONE, Processes, join

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
