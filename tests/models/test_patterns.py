"""Patterns of blocks: what holds of one kind of mixer holds of several in turn."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dnamamba.errors import UsageError
from dnamamba.models.block import Recompute
from dnamamba.models.heads import LanguageModel
from dnamamba.models.mixers.hyena import HyenaConfig
from dnamamba.models.mixers.mamba2 import Mamba2Config
from dnamamba.models.mixers.mlp import MLPConfig

Build = Callable[..., LanguageModel]

PATTERNS = {
    "mamba2": {"mixers": ("mamba2",), "mamba2": Mamba2Config(d_state=4, head_dim=8)},
    "mamba-mlp": {"mixers": ("mamba", "mlp"), "mlp": MLPConfig(expand=2), "norm": "layer"},
    "mamba-mamba2": {"mixers": ("mamba", "mamba2"), "mamba2": Mamba2Config(8, 3, 2, 16)},
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_steps_streams_and_packs_as_it_reads(
    tiny_model: Build, random_ids: Callable[..., Tensor], pattern: str
) -> None:
    model = tiny_model(n_layer=4, **PATTERNS[pattern])
    ids = random_ids(90)
    whole = model(ids)
    first, state = model(ids[:, :70], return_state=True)
    torch.testing.assert_close(first, whole[:, :70], rtol=0, atol=1e-4)
    rest, _ = model(ids[:, 70:], state, return_state=True)
    torch.testing.assert_close(rest, whole[:, 70:], rtol=0, atol=1e-4)
    state = model.initial_state(2)
    for t in range(12):
        logits, state = model.step(ids[:, t], state)
        torch.testing.assert_close(logits, whole[:, t], rtol=0, atol=1e-4)
    seq_idx = (torch.arange(90) // 33).int().expand(2, -1)
    (packed,), _ = model.backbone.outputs(ids, [4], seq_idx=seq_idx)
    (alone,), _ = model.backbone.outputs(ids[:, 33:66], [4])
    torch.testing.assert_close(packed[:, 33:66], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("recompute", ["scan", "block"])
def test_recomputing_a_pattern_changes_no_gradient(
    tiny_model: Build, random_ids: Callable[..., Tensor], pattern: str, recompute: Recompute
) -> None:
    ids = random_ids(70)
    gradients = []
    for what in ("none", recompute):
        model = tiny_model(n_layer=4, **PATTERNS[pattern])
        model.recompute = what
        model(ids).square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixers": ("mamba", "rwkv")}, r"mixers: 'rwkv' is not one of mamba, mamba2, hyena, mlp"),
        ({"mixers": ("mamba", "mlp", "mlp")}, "pattern of 3 does not divide n_layer 4"),
        ({"mixers": ()}, "pattern of 0 does not divide"),
        ({"mamba2": Mamba2Config()}, "mamba2: no block of the pattern"),
        (
            {"mixers": ("mamba2",), "bidirectional": True, "objective": "masked"},
            'bidirectional: mixers other than "mamba" read one way',
        ),
        ({"norm": "batch"}, "norm: 'batch' is not one of rms, layer"),
        ({"mixers": ("mamba2",), "mamba2": Mamba2Config(head_dim=24)}, "24 does not divide the 32"),
        (
            {"mixers": ("mamba2",), "mamba2": Mamba2Config(head_dim=8, groups=3)},
            "3 does not divide 4",
        ),
    ],
)
def test_patterns_that_cannot_be(tiny_model: Build, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny_model(n_layer=4, **options)


def test_sizes_below_one_are_named() -> None:
    for build, message in (
        (lambda: Mamba2Config(groups=0), "mamba2: groups: 0 is below 1"),
        (lambda: MLPConfig(expand=0), "mlp: expand: 0 is below 1"),
        (lambda: HyenaConfig(order=1), "hyena: order: 1 is below 2"),
    ):
        with pytest.raises(UsageError, match=message):
            build()
