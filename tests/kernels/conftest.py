"""What tests of several kernels share."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make what is newly allocated NaN, so that what is never written shows."""

    def poison(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: Any, **keywords: Any) -> Tensor:
            tensor = make(*args, **keywords)
            return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

        return made

    for home, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
        monkeypatch.setattr(home, name, poison(getattr(home, name)))
