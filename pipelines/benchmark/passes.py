"""The time of a model's passes in a job that does more than that."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from dnamamba.models.backbone import Backbone


class PassClock:
    """Adds up what backbones take, from ids on the device to hidden states on the device.

    Parameters
    ----------
    device
        Where they compute. A GPU is waited for before and after each pass, which takes its own
        time: a job is not timed by the same clock.

    Attributes
    ----------
    seconds
        Of all calls of `Backbone.outputs` while it ran.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time the passes that are made meanwhile."""
        outputs = Backbone.outputs

        def timed(*arguments: Any, **options: Any) -> Any:
            begin = self._now()
            result = outputs(*arguments, **options)
            self.seconds += self._now() - begin
            return result

        with patch.object(Backbone, "outputs", timed):
            yield

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
