"""What processes cannot share, and sizes that they can."""

import re
from dataclasses import replace

import pytest
import torch

from dnamamba.errors import UsageError
from dnamamba.pipelines.pretrain_config import PretrainConfig, choose_sizes, require_shareable
from dnamamba.processes import Processes

CONFIG = PretrainConfig(preset="250k", length=64, batch=4)


@pytest.mark.parametrize(
    ("size", "parts", "changes", "fault"),
    [
        (3, 1, {}, "batch 4: 3 processes cannot take as many windows each; give a multiple of 3"),
        (2, 2, {"symmetry": "average"}, "both strands of a window have to lie on one process"),
        (2, 2, {"tbptt": 16}, "a window is split, or read in segments by --tbptt, not both"),
        (4, 4, {"length_warmup": 8}, "parts of 8 bases would be shorter than the 3 that"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    size: int, parts: int, changes: dict[str, object], fault: str
) -> None:
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    require_shareable(config, Processes())
    with pytest.raises(UsageError, match=re.escape(fault)):
        require_shareable(config, Processes(0, size, parts))


def test_all_faults_are_told_at_once() -> None:
    config = replace(CONFIG, tbptt=16, batch=3)
    with pytest.raises(UsageError, match=r"batch 3: 2 .*; --sequence-parallel 2: a window"):
        require_shareable(config, Processes(0, 4, 2))


@pytest.mark.parametrize(("size", "parts", "batch"), [(1, 1, 4), (3, 1, 6), (6, 2, 6), (4, 4, 4)])
def test_a_batch_that_nobody_gave_can_be_shared(size: int, parts: int, batch: int) -> None:
    sizes = choose_sizes(PretrainConfig(), torch.device("cpu"), [10**6], Processes(0, size, parts))
    assert sizes.batch == batch
    require_shareable(sizes, Processes(0, size, parts))
