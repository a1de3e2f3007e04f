"""Weights in 8 bits: outputs, gradients and adapters beside those of the model that they are of."""

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dnamamba.errors import UsageError
from dnamamba.models.adapters import AdapterConfig, Adapters, Method
from dnamamba.models.heads import LanguageModel
from dnamamba.models.mixers import fused
from dnamamba.models.mixers.hyena import HyenaConfig
from dnamamba.models.mixers.mamba2 import Mamba2Config
from dnamamba.models.mixers.mlp import MLPConfig
from dnamamba.models.quantised import (
    Bits8,
    QuantisedLinear,
    quantise,
    require_bits,
    require_torchao,
)

needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="needs torchao"
)
Build = Callable[..., LanguageModel]
FORMS: list[dict[str, Any]] = [
    {},
    {"objective": "masked", "bidirectional": True},
    {"objective": "masked", "symmetry": "shared"},
    {
        "mixers": ("mamba2", "mlp"),
        "mamba2": Mamba2Config(d_state=8, head_dim=8),
        "mlp": MLPConfig(),
    },
    {"mixers": ("hyena", "mlp"), "hyena": HyenaConfig(), "mlp": MLPConfig()},
]
IDS = torch.randint(4, (2, 12), generator=torch.Generator().manual_seed(0))
KINDS: list[Bits8] = ["int8", "fp8"]
ERROR = {"int8": 0.03, "fp8": 0.15}
"""Of outputs, relative to their own size."""


def hidden(model: LanguageModel) -> Tensor:
    found: Tensor
    found, _ = model.backbone(IDS.to(next(model.parameters()).device))
    return found.float()


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().norm() / other.detach().norm())


def move(held: Adapters) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in held.parameters():
            noise = torch.randn(parameter.shape).to(parameter.device)
            parameter += 0.05 * noise


@needs_torchao
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form) or "causal")
def test_outputs_are_close(form: dict[str, Any], kind: Bits8, tiny_model: Build) -> None:
    model = tiny_model(**form)
    before = hidden(model)
    quantise(model, kind)
    kept = [module for module in model.modules() if isinstance(module, QuantisedLinear)]
    assert kept
    assert all(each.stored.qdata.element_size() == 1 for each in kept)
    assert not any("proj.weight" in name for name in model.state_dict() if "dt_proj" not in name)
    assert 0 < distance(hidden(model), before) < ERROR[kind]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert distance(hidden(model), before) < ERROR[kind] + 0.03


def check_adapters(
    model: LanguageModel, plain: LanguageModel, method: Method, kind: Bits8, folder: Path
) -> None:
    """Hold a model in 8 bits and its plain twin against each other, with the same adapter."""
    quantise(model, kind)
    held, other = Adapters(model), Adapters(plain)
    held.add("mine", AdapterConfig(method, rank=2, state_space=True))
    move(held)
    held.save("mine", folder)
    other.load("theirs", folder)
    gradients = []
    for each in (model, plain):
        found = hidden(each)
        found.square().sum().backward()
        named = sorted((name.replace("theirs", "mine"), p) for name, p in each.named_parameters())
        gradients.append({name: p.grad for name, p in named if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
    both = [torch.cat([g.flatten() for g in each.values()]) for each in gradients]
    assert distance(*both) < 4 * ERROR[kind]
    with torch.no_grad():
        adapted = hidden(model)
        assert distance(adapted, hidden(plain)) < ERROR[kind]
        held.merge()
        assert not any(isinstance(module, QuantisedLinear) for module in model.modules())
        assert [type(module) for module in model.modules()] == [
            type(module) for module in other.merge().modules()
        ]
        torch.testing.assert_close(hidden(model), adapted, rtol=1e-3, atol=1e-4)


@needs_torchao
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_adapters_learn_are_saved_and_merged(
    method: Method, kind: Bits8, tiny_model: Build, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    check_adapters(tiny_model(), tiny_model(), method, kind, tmp_path)


@needs_torchao
def test_the_fused_block_takes_them(
    tiny_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("triton")
    calls = []
    forward = fused.FusedBlock.apply
    monkeypatch.setattr(
        fused.FusedBlock, "apply", lambda *given: calls.append(1) or forward(*given)
    )
    model, plain = tiny_model(n_layer=1), tiny_model(n_layer=1)
    model.backend = plain.backend = "triton"
    check_adapters(model, plain, "dora", "int8", tmp_path)
    assert calls


@needs_torchao
@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_adapters_on_a_gpu(
    method: Method, kind: Bits8, cuda: torch.device, tiny_model: Build, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    model, plain = tiny_model().to(cuda), tiny_model().to(cuda)
    model.backend = plain.backend = "auto"
    check_adapters(model, plain, method, kind, tmp_path)


@needs_torchao
def test_what_is_kept_takes_a_quarter_of_the_memory() -> None:
    linear = nn.Linear(256, 64)
    before = linear.weight.detach().clone()
    model = nn.ModuleDict({"mixer": nn.ModuleDict({"in_proj": linear})})
    quantise(nn.ModuleDict({"layers": model}), "int8")
    kept = model["mixer"]["in_proj"]
    stored = sum(each.nbytes for each in (kept.stored.qdata, kept.stored.scale))
    assert stored < 0.27 * before.nbytes
    assert kept.bias is linear.bias
    torch.testing.assert_close(kept.plain().weight, before, rtol=0, atol=float(before.max()) / 120)
    assert not kept.plain().weight.requires_grad


@needs_torchao
def test_torchao_is_silent_and_other_loggers_are_left(caplog: pytest.LogCaptureFixture) -> None:
    level = logging.getLogger("torchao").level
    require_torchao("this")
    assert logging.getLogger("torchao").level == level
    assert not caplog.records


def test_what_cannot_be_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="weights fp8: mps has no such numbers; take int8"):
        require_bits("fp8", torch.device("mps"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"weights int8: .*pip install 'dnamamba\[lowbit\]'"):
        require_bits("int8", torch.device("cpu"))


@needs_torchao
def test_a_model_without_projections() -> None:
    with pytest.raises(UsageError, match="no projection to keep in 8 bits"):
        quantise(nn.Linear(4, 4), "int8")
