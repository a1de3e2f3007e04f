import numpy as np
import pytest
import torch

from dnamamba.inference.arriving import Arriving, one_behind, send

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_an_item_is_yielded_when_the_next_has_been_begun() -> None:
    begun: list[int] = []

    def items(count: int) -> list[tuple[int, int]]:
        begun.clear()
        made = (begun.append(number) or number for number in range(count))
        return [(item, len(begun)) for item in one_behind(made)]

    assert items(0) == []
    assert items(1) == [(0, 1)]
    assert items(4) == [(0, 2), (1, 3), (2, 4), (3, 4)]


def test_there_and_back() -> None:
    device = torch.device("cpu")
    assert np.array_equal(Arriving(send(VALUES, device)).numpy(), VALUES)


@pytest.mark.gpu
def test_nobody_waits_for_what_is_on_its_way(cuda: torch.device) -> None:
    """What was begun before something slow is here before that is done."""
    sent = send(VALUES, cuda)
    early = Arriving(sent * 2)
    slow = torch.randn(8192, 8192, device=cuda)
    for _ in range(40):
        slow = torch.tanh(slow @ slow)
    done = torch.cuda.Event()
    done.record()
    late = Arriving(sent * 3)
    assert np.array_equal(early.numpy(), 2 * VALUES)
    assert not done.query()
    assert np.array_equal(late.numpy(), 3 * VALUES)
    assert done.query()
