import builtins
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dnamamba.errors import CheckpointError, UsageError
from dnamamba.models import adapters, pretrained
from dnamamba.models.adapters import AdapterConfig, Adapters
from dnamamba.models.heads import LanguageModel
from dnamamba.models.mixers.mamba2 import Mamba2Config

pytest.importorskip("peft")

Build = Callable[..., LanguageModel]
CONFIGS = [
    AdapterConfig(),
    AdapterConfig("lora", rank=3, alpha=5, state_space=True),
    AdapterConfig("dora", rank=2),
    AdapterConfig("dora", rank=4, state_space=True),
]
FORMS: list[dict[str, Any]] = [
    {},
    {"objective": "masked", "bidirectional": True},
    {"objective": "masked", "symmetry": "shared"},
    {"mixers": ("mamba2", "mamba"), "mamba2": Mamba2Config(d_state=8, head_dim=8)},
]
IDS = torch.randint(4, (2, 37), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=FORMS, ids=lambda form: "-".join(form) or "causal")
def model(request: pytest.FixtureRequest, tiny_model: Build) -> LanguageModel:
    return tiny_model(**request.param).double().eval()


def outputs(model: LanguageModel) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS)
    return found


def train(held: Adapters, seed: int = 0) -> None:
    """Move all that is trained."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in held.parameters():
            parameter += 0.1 * torch.randn_like(parameter)


def far(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) > 1e-3


@pytest.mark.parametrize("config", CONFIGS)
def test_an_adapter_changes_nothing_at_first_and_is_what_is_trained(
    model: LanguageModel, config: AdapterConfig
) -> None:
    before, names = outputs(model), {name for name, _ in model.named_parameters()}
    held = Adapters(model)
    assert not list(held.parameters())
    held.add("mine", config)
    torch.testing.assert_close(outputs(model), before, rtol=0, atol=1e-14)
    model(IDS).square().sum().backward()
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    moved = {name for name, each in model.named_parameters() if each.grad is not None}
    assert moved == trained
    assert all(".mixer." in name for name in trained)
    assert bool(trained & names) == config.state_space
    assert any("lora_magnitude_vector" in name for name in trained) == (config.method == "dora")
    train(held)
    assert far(outputs(model), before)


@pytest.mark.parametrize("config", CONFIGS)
def test_merged_it_is_a_plain_model(
    model: LanguageModel, config: AdapterConfig, tmp_path: Path
) -> None:
    kinds = [type(module) for module in model.modules()]
    held = Adapters(model)
    held.add("mine", config)
    train(held)
    adapted = outputs(model)
    assert held.merge() is model
    assert [type(module) for module in model.modules()] == kinds
    torch.testing.assert_close(outputs(model), adapted, rtol=0, atol=1e-12)
    pretrained.save(model.float(), tmp_path / "merged", "")
    again = pretrained.load(tmp_path / "merged").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


def test_adapters_are_swapped(model: LanguageModel) -> None:
    before = outputs(model)
    held = Adapters(model)
    found: dict[str | None, Tensor] = {None: before}
    for seed, (name, config) in enumerate(zip("abcd", CONFIGS, strict=True)):
        held.add(name, config)
        torch.testing.assert_close(outputs(model), before, rtol=0, atol=1e-14)
        train(held, seed)
        found[name] = outputs(model)
    for name in ("b", None, "d", "b", "a", "c", "d", None):
        held.use(name)
        assert held.in_use == name
        torch.testing.assert_close(outputs(model), found[name], rtol=0, atol=1e-14)
        assert bool(list(held.parameters())) == (name is not None)
    assert far(found["a"], found["b"])
    assert far(found["b"], found["d"])
    held.use("b")
    held.merge()
    torch.testing.assert_close(outputs(model), found["b"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", CONFIGS)
def test_an_adapter_is_saved_alone(
    model: LanguageModel, config: AdapterConfig, tmp_path: Path
) -> None:
    weights = {name: each.clone() for name, each in model.state_dict().items()}
    held = Adapters(model)
    held.add("mine", config)
    train(held)
    adapted = outputs(model)
    held.save("mine", tmp_path)
    names = held.tensors("mine")
    assert sum(each.numel() for each in names.values()) == sum(
        each.numel() for each in held.parameters()
    )
    other = type(model)(model.config).double().eval()
    other.load_state_dict(weights)
    there = Adapters(other)
    there.add("first", AdapterConfig(rank=1))
    there.load("theirs", tmp_path)
    assert there.configs["theirs"] == config
    assert there.in_use == "theirs"
    torch.testing.assert_close(outputs(other), adapted, rtol=0, atol=1e-12)


def test_that_of_another_model_is_refused(tiny_model: Build, tmp_path: Path) -> None:
    held = Adapters(tiny_model())
    held.add("mine", AdapterConfig(rank=2, state_space=True))
    held.save("mine", tmp_path)
    model = tiny_model(d_state=8)
    before = outputs(model)
    there = Adapters(model)
    with pytest.raises(CheckpointError, match="an adapter of a model of other shapes"):
        there.load("mine", tmp_path)
    assert not there.configs
    torch.testing.assert_close(outputs(model), before)
    there.add("mine", AdapterConfig(rank=2))
    train(there)
    assert far(outputs(model), before), "the name is free again"


@pytest.mark.parametrize("damage", ["adapter.safetensors", "adapter.json"])
def test_damage_is_told(tiny_model: Build, tmp_path: Path, damage: str) -> None:
    model = tiny_model()
    held = Adapters(model)
    held.add("mine", AdapterConfig())
    held.save("mine", tmp_path)
    (tmp_path / damage).write_bytes(b"{")
    with pytest.raises(CheckpointError, match=f"{damage}: damaged"):
        held.load("other", tmp_path)
    (tmp_path / damage).unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        held.load("other", tmp_path)
    assert list(held.configs) == ["mine"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank: 0; it is 1 or more"),
        ({"alpha": 0}, "alpha: 0; it is above 0"),
        ({"dropout": 1.0}, "dropout: 1; it is from 0 to below 1"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(AdapterConfig(), **changes)


@pytest.mark.parametrize(
    ("name", "message"),
    [("mine", "has one of this name"), ("a.b", "letters, digits"), ("", "letters, digits")],
)
def test_names(tiny_model: Build, name: str, message: str) -> None:
    held = Adapters(tiny_model())
    held.add("mine", AdapterConfig())
    with pytest.raises(UsageError, match=message):
        held.add(name, AdapterConfig())
    with pytest.raises(UsageError, match="adapter 'yours': the model has mine"):
        held.use("yours")
    held.add("keys", AdapterConfig())


def test_a_model_without_projections(tiny_model: Build) -> None:
    model = tiny_model()
    for block in model.backbone.layers:
        block.mixer = nn.Identity()
    with pytest.raises(UsageError, match="no projection that an adapter could change"):
        Adapters(model)


def test_peft_is_asked_for(tiny_model: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name == "peft":
            raise ImportError(name)
        return imported(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'dnamamba\[finetune\]'"):
        adapters.require_peft()
