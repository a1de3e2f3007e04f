"""Several processes train one model as one alone does: losses, gradients, weights, checkpoints."""

from pathlib import Path

import pytest
import torch.distributed as dist

from tests.training.distributing import MEETINGS, check_all

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="needs torch.distributed")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MEETINGS))
def test_processes_learn_what_one_alone_learns(tmp_path: Path, name: str) -> None:
    """DDP, FSDP, split windows and both, for every way to train; the last decimal is free."""
    check_all(name, tmp_path)
