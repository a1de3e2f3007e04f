from typing import Any, get_args

import pytest
import torch

from dnamamba.config import from_dict, to_dict
from dnamamba.errors import UsageError
from dnamamba.models.backbone import Backbone, ModelConfig, _Lookup, decay_groups
from dnamamba.models.block import Recompute
from dnamamba.models.heads import LanguageModel
from dnamamba.models.presets import preset

TINY = {"d_model": 16, "n_layer": 2}


def test_config_defaults_are_the_papers() -> None:
    config = ModelConfig(d_model=130, n_layer=2)
    assert (config.d_state, config.d_conv, config.expand) == (16, 4, 2)
    assert config.d_inner == 260
    assert config.rank == 9
    assert config.tie_embeddings


def test_config_survives_a_dictionary() -> None:
    config = ModelConfig(**TINY, ids=(7, 8, 9, 10, 11), mask_id=3, vocab_size=12, dt_rank=5)
    values = to_dict(config)
    values["ids"] = list(values["ids"])
    assert from_dict(ModelConfig, values, "here") == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 0}, "d_model: 0 is below 1"),
        ({"n_layer": -1}, "n_layer: -1 is below 1"),
        ({"d_state": 0}, "d_state"),
        ({"d_conv": 0}, "d_conv"),
        ({"expand": 0}, "expand"),
        ({"dt_rank": 0}, "dt_rank: 0 is below 1"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"norm_eps": 0.0}, "norm_eps"),
        ({"norm_eps": float("nan")}, "norm_eps"),
        ({"objective": "previous"}, "objective: 'previous' is not one of next, masked"),
        ({"symmetry": "mirror"}, "symmetry: 'mirror' is not one of none, shared, average"),
        ({"ids": (0, 1, 2, 3)}, "ids"),
        ({"ids": (0, 1, 2, 2, 4)}, "ids"),
        ({"ids": (0, 1, 2, 3, 3)}, "ids"),
        ({"ids": (0, 1, 2, 3, 8)}, "ids: 8 is not in vocab_size 8"),
        ({"ids": (0, 1, 2, 3, -1)}, "ids: -1 is not in vocab_size 8"),
        ({"mask_id": 8}, "mask_id: 8 is not in vocab_size 8"),
        ({"mask_id": 3}, "mask_id: 3 is the id of a base"),
        ({"bidirectional": True}, "objective: .next. would see .* bidirectional"),
        ({"symmetry": "shared"}, "objective: .next. would see .* symmetry .shared"),
    ],
)
def test_config_names_the_wrong_field(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ModelConfig(**{**TINY, **options})


def test_next_base_may_average_its_embeddings() -> None:
    assert ModelConfig(**TINY, symmetry="average").objective == "next"


def test_names_are_those_of_published_checkpoints() -> None:
    names = set(LanguageModel(ModelConfig(d_model=16, n_layer=1)).state_dict())
    block = "backbone.layers.0"
    mixer = ("in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight")
    mixer += ("dt_proj.bias", "A_log", "D", "out_proj.weight")
    assert names == {
        "backbone.embedding.weight",
        f"{block}.norm.weight",
        *(f"{block}.mixer.{name}" for name in mixer),
        "backbone.norm_f.weight",
        "lm_head.weight",
    }


def test_initialisation_scales_with_depth() -> None:
    torch.manual_seed(0)
    deep = Backbone(ModelConfig(d_model=128, n_layer=16, vocab_size=512))
    assert deep.embedding.weight.std().item() == pytest.approx(0.02, rel=0.02)
    for layer in deep.layers:
        projection = layer.mixer.out_proj.weight
        bound = 256**-0.5 / 4  # kaiming_uniform(a=sqrt(5)) of 256 inputs, over sqrt(16 blocks)
        assert projection.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert layer.mixer.in_proj.weight.abs().max().item() == pytest.approx(128**-0.5, rel=0.01)
        assert (layer.norm.weight == 1).all()


def test_initialisation_is_a_function_of_the_seed() -> None:
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(Backbone(ModelConfig(**TINY)).state_dict())
    same = [torch.equal(models[0][name], models[1][name]) for name in models[0]]
    other = torch.equal(models[0]["embedding.weight"], models[2]["embedding.weight"])
    assert all(same)
    assert not other


def kind(name: str) -> str:
    *_, module, last = name.split(".")
    return last if last in ("A_log", "D") else f"{module}.{last}"


@pytest.mark.parametrize("bidirectional", [False, True])
def test_weight_decay_spares_what_mamba_spares(bidirectional: bool) -> None:
    objective = "masked" if bidirectional else "next"
    config = ModelConfig(**TINY, bidirectional=bidirectional, objective=objective)
    model = LanguageModel(config)
    decayed, spared = decay_groups(model, 0.1)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {kind(names[id(p)]) for p in decayed["params"]} == {
        "embedding.weight",
        "in_proj.weight",
        "conv1d.weight",
        "x_proj.weight",
        "dt_proj.weight",
        "out_proj.weight",
    }
    assert {kind(names[id(p)]) for p in spared["params"]} == {
        "norm.weight",
        "conv1d.bias",
        "dt_proj.bias",
        "A_log",
        "D",
        "norm_f.weight",
    }
    count = sum(p.numel() for group in (decayed, spared) for p in group["params"])
    assert count == model.parameters_count


def test_weight_decay_groups_leave_frozen_parameters_out() -> None:
    model = LanguageModel(ModelConfig(**TINY))
    model.backbone.embedding.requires_grad_(False)
    ids = [id(p) for group in decay_groups(model, 0.1) for p in group["params"]]
    assert id(model.backbone.embedding.weight) not in ids


def test_the_lookup_of_ids_has_the_gradient_of_an_embedding() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 5, (3, 40), generator=generator)
    weight = torch.randn(8, 6, generator=generator, dtype=torch.float64).requires_grad_()
    rows = _Lookup.apply(weight, ids)
    wanted = torch.nn.functional.embedding(ids, weight)
    assert torch.equal(rows, wanted)
    dy = torch.randn(3, 40, 6, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(rows, weight, dy), torch.autograd.grad(wanted, weight, dy)
    )


@pytest.mark.gpu
@pytest.mark.parametrize("recompute", get_args(Recompute))
def test_two_steps_on_a_gpu_are_the_same_bit_for_bit(
    recompute: Recompute, cuda: torch.device
) -> None:
    """Long enough for atomics, were there any, to come in another order."""
    torch.manual_seed(0)
    model = LanguageModel(preset("250k")).to(cuda)
    model.recompute = recompute
    ids = torch.randint(0, 5, (2, 100_000), device=cuda)
    found = []
    for _ in range(2):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            nats, _ = model.nats(ids, ids.roll(-1, 1))
        found.append([nats, *torch.autograd.grad(nats.mean(), list(model.parameters()))])
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)
