"""A sequence split over processes equals the whole: outputs, states, gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from dnamamba.errors import UsageError
from dnamamba.kernels import causal_conv1d, selective_scan
from dnamamba.kernels.split import passing
from tests.kernels.scan.cases import draw
from tests.kernels.splitting import check_all

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="needs torch.distributed")


def test_parts_equal_the_whole(tmp_path: Path) -> None:
    """Four processes, and two pairs of them."""
    multiprocessing.spawn(check_all, (4, str(tmp_path / "meeting")), nprocs=4)


def test_nothing_passes_where_a_sequence_starts() -> None:
    decay = passing(torch.tensor([[-1.0, 0.0]]), torch.tensor([[2.0], [torch.inf]]))
    assert decay.tolist() == [[[pytest.approx(0.1353353), 1.0]], [[0.0, 0.0]]]


@pytest.fixture
def pair() -> Any:
    """The second of two processes, whose first is not there."""

    class Pair:
        group_name = "pair"

        def size(self) -> int:
            return 2

        def rank(self) -> int:
            return 1

    return Pair()


def test_what_cannot_be_split_is_refused(pair: Any) -> None:
    inputs: dict[str, Any] = {name: t.float() for name, t in draw(9).items()}
    with pytest.raises(
        UsageError, match=r"initial_state: give it to process 0 .* not to process 1"
    ):
        selective_scan(**inputs, group=pair)
    before = inputs.pop("initial_state")
    seq_idx = torch.zeros(2, 9, dtype=torch.int64)
    with pytest.raises(UsageError, match="seq_idx: packed sequences cannot be split"):
        selective_scan(**inputs, seq_idx=seq_idx, group=pair)
    with pytest.raises(UsageError, match='backend "reference" scans whole sequences'):
        selective_scan(**inputs, backend="reference", group=pair)
    with pytest.raises(UsageError, match=r"x has shape \(2, 2, 5\).* needs 3 positions"):
        causal_conv1d(inputs["u"][:, :2], torch.ones(5, 4), group=pair)
    with pytest.raises(UsageError, match="initial_state: give it to process 0"):
        causal_conv1d(inputs["u"], torch.ones(5, 4), initial_state=before[:, :3, :5], group=pair)
