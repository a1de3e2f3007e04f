"""The clock of a model's passes."""

import time

import torch

from dnamamba.models.backbone import Backbone, ModelConfig
from dnamamba.pipelines.benchmark.passes import PassClock


def test_only_passes_are_timed() -> None:
    backbone = Backbone(ModelConfig(d_model=16, n_layer=2))
    ids = torch.zeros(1, 64, dtype=torch.long)
    untimed = Backbone.outputs
    clock = PassClock(torch.device("cpu"))
    with clock.running():
        time.sleep(0.05)
        assert clock.seconds == 0
        begin = time.perf_counter()
        (states,), _ = backbone.outputs(ids, (2,))
        assert 0 < clock.seconds <= time.perf_counter() - begin
    assert Backbone.outputs is untimed
    passed = clock.seconds
    assert backbone.outputs(ids, (2,))[0][0].equal(states)
    assert clock.seconds == passed
