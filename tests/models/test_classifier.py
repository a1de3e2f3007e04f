import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from dnamamba.errors import CheckpointError, UsageError
from dnamamba.models import classifier as module
from dnamamba.models.classifier import (
    Classifier,
    ClassifierConfig,
    Head,
    Pool,
    is_classifier_folder,
    load_classifier,
    read_classifier_config,
    save_classifier,
)
from dnamamba.models.heads import LanguageModel
from dnamamba.models.pretrained import is_model_folder, load, save
from dnamamba.models.symmetry import reverse_complement

Build = Callable[..., LanguageModel]
Draw = Callable[..., torch.Tensor]
POOLS: tuple[Pool, ...] = ("last", "mean", "both")
FORMS: list[dict[str, Any]] = [
    {},
    {"objective": "masked", "bidirectional": True},
    {"objective": "masked", "symmetry": "shared"},
    {"symmetry": "average", "tie_embeddings": False},
]


def build(model: LanguageModel, pool: Pool = "mean", **options: Any) -> Classifier:
    settings = {"contexts": (8, 64), "temperatures": (2.0, 2.0), "threshold": 0.5, **options}
    built = Classifier(model, ClassifierConfig(("a", "b", "c"), pool=pool, **settings))
    for head in built.heads:
        torch.nn.init.normal_(head.weight)
        torch.nn.init.normal_(head.bias)
    return built.eval()


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_the_head_sees_the_last_position_or_the_mean(
    form: dict[str, Any], pool: Pool, tiny_model: Build, random_ids: Draw
) -> None:
    built, ids = build(tiny_model(**form).double(), pool), random_ids(23)
    hidden, _ = built.language.backbone(ids)
    seen = {"last": hidden[:, -1], "mean": hidden.mean(1)}
    wanted = torch.cat([seen[name] for name in ("last", "mean") if pool in (name, "both")], 1)
    torch.testing.assert_close(built.features(ids), wanted.float())


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_windows_read_in_parts_give_the_same_features(
    form: dict[str, Any],
    pool: Pool,
    tiny_model: Build,
    random_ids: Draw,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In parts that do not divide the length; at once where both ways are read."""
    built, ids = build(tiny_model(**form).double(), pool), random_ids(50)
    whole = built.features(ids)
    monkeypatch.setattr(module, "SEGMENT", {"cpu": 16 * len(ids)})
    monkeypatch.setattr(module, "SCORED", 10)
    lengths: list[int] = []
    built.language.backbone.layers[0].register_forward_pre_hook(
        lambda _, given: lengths.append(given[0].shape[1])
    )
    with torch.no_grad():
        torch.testing.assert_close(built.features(ids), whole)
    assert lengths == ([50] if form.get("bidirectional") else [16, 16, 16, 2])
    lengths.clear()
    torch.testing.assert_close(built.features(ids), whole)
    assert lengths == [50]


@pytest.mark.parametrize("pool", POOLS)
def test_gradients_are_those_of_the_hidden_states(
    pool: Pool, tiny_model: Build, random_ids: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCORED", 10)
    built, ids = build(tiny_model(), pool), random_ids(23)
    targets = torch.tensor([[2], [0]])
    parameters = {name: each for name, each in built.named_parameters() if each.requires_grad}
    nats, state = built.nats(ids, targets)
    other = reverse_complement(ids, built.language.complement)
    both = torch.stack([built.language.backbone(strand)[0] for strand in (ids, other)])
    seen = {"last": both[:, :, -1].mean(0), "mean": both.mean((0, 2))}
    features = torch.cat([seen[name] for name in ("last", "mean") if pool in (name, "both")], 1)
    wanted = functional.cross_entropy(built.head(features), targets[:, 0], reduction="none")
    assert state is None
    assert nats.shape == (2, 1)
    torch.testing.assert_close(nats[:, 0], wanted)
    torch.testing.assert_close(
        dict(zip(parameters, torch.autograd.grad(nats.sum(), parameters.values()), strict=True)),
        dict(zip(parameters, torch.autograd.grad(wanted.sum(), parameters.values()), strict=True)),
        rtol=1e-4,
        atol=1e-6,
    )


def test_a_temperature_belongs_to_a_context(tiny_model: Build, random_ids: Draw) -> None:
    config = ClassifierConfig(("a", "b"), (8, 32, 128), temperatures=(4.0, 2.0, 0.5))
    assert (config.shortest, config.length) == (8, 128)
    wanted = {4: 4, 8: 4, 16: 8**0.5, 32: 2, 64: 1, 128: 0.5, 500: 0.5}
    for bases, temperature in wanted.items():
        assert config.temperature(bases) == pytest.approx(temperature)
    assert ClassifierConfig(("a", "b"), (8, 32)).temperature(20) == 1
    built = build(tiny_model(), contexts=(8, 16), temperatures=(4.0, 1.0))
    for bases, temperature in ((8, 4.0), (16, 1.0)):
        ids = random_ids(bases)
        wanted_here = torch.softmax(built.logits(ids).double() / temperature, 1)
        torch.testing.assert_close(built.probabilities(ids), wanted_here)


@pytest.mark.parametrize(
    ("contexts", "temperatures", "fault"),
    [((), (), "one or more"), ((32, 8), (), "increasing"), ((8, 32), (1.0,), "for each context")],
)
def test_contexts_that_make_no_sense(
    contexts: tuple[int, ...], temperatures: tuple[float, ...], fault: str
) -> None:
    with pytest.raises(UsageError, match=fault):
        ClassifierConfig(("a", "b"), contexts, temperatures=temperatures)


def test_the_head_standardises_features() -> None:
    head = Head(3, 2)
    features = torch.randn(5, 3)
    torch.testing.assert_close(head(features), features @ head.weight.T + head.bias)
    with torch.no_grad():
        head.mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
        head.scale.copy_(torch.tensor([0.5, 4.0, 1.0]))
    standard = (features - torch.tensor([1.0, 2.0, 3.0])) / torch.tensor([0.5, 4.0, 1.0])
    torch.testing.assert_close(head(features), standard @ head.weight.T + head.bias)
    assert set(head.state_dict()) == {"weight", "bias", "mean", "scale"}


@pytest.mark.parametrize("at_once", [None, 40, 20, 7])
def test_training_centres_a_batch_on_itself(
    at_once: int | None, tiny_model: Build, random_ids: Draw
) -> None:
    """However many windows are read at once; gradients know the mean."""
    built = build(tiny_model(), "both").train()
    ids, targets = random_ids(20, batch=5), torch.tensor([[0], [1], [2], [2], [1]])
    parameters = {name: each for name, each in built.named_parameters() if each.requires_grad}
    features = built.both_strands(ids)
    logits = functional.linear(features - features.mean(0), built.head.weight, built.head.bias)
    wanted = functional.cross_entropy(logits, targets[:, 0], reduction="none")
    lengths: list[int] = []
    built.language.backbone.layers[0].register_forward_pre_hook(
        lambda _, given: lengths.append(len(given[0]))
    )
    built.bases_at_once = at_once
    nats, _ = built.nats(ids, targets)
    torch.testing.assert_close(nats[:, 0], wanted)
    assert max(lengths) == min(5, max(1, (at_once or 100) // 20))
    torch.testing.assert_close(
        dict(zip(parameters, torch.autograd.grad(nats.sum(), parameters.values()), strict=True)),
        dict(zip(parameters, torch.autograd.grad(wanted.sum(), parameters.values()), strict=True)),
        rtol=1e-4,
        atol=1e-6,
    )
    assert built.head.mean.abs().max() == 0, "the mean of use is measured, not trained"
    moved = functional.linear(features + 1 - (features + 1).mean(0), built.head.weight)
    torch.testing.assert_close(moved + built.head.bias, logits, msg="what all share is no evidence")


def test_each_context_has_a_head(tiny_model: Build, random_ids: Draw) -> None:
    built = build(tiny_model(), contexts=(8, 32, 64), temperatures=(1.0, 1.0, 1.0))
    for head in built.heads:
        torch.nn.init.normal_(head.weight)
    nearest = {4: 0, 8: 0, 15: 0, 17: 1, 32: 1, 45: 1, 46: 2, 64: 2, 500: 2}
    for bases, number in nearest.items():
        assert built.head_for(bases) is built.heads[number], bases
        ids = random_ids(bases)
        torch.testing.assert_close(built.logits(ids), built.heads[number](built.both_strands(ids)))
    assert built.head is built.heads[2]
    fresh = build(tiny_model(), contexts=(8, 32), temperatures=())
    assert fresh.head_for(8) is fresh.head, "the others are not fitted yet"


def test_a_part_of_a_window_has_no_class(tiny_model: Build, random_ids: Draw) -> None:
    built, ids, targets = build(tiny_model()), random_ids(8), torch.zeros(2, 1, dtype=torch.int64)
    with pytest.raises(UsageError, match="reads windows whole"):
        built.nats(ids, targets, return_state=True)
    with pytest.raises(UsageError, match="reads windows whole"):
        built.nats(ids, targets, built.language.initial_state(2))


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_both_strands_have_the_same_bits(
    form: dict[str, Any], pool: Pool, tiny_model: Build, random_ids: Draw
) -> None:
    built, ids = build(tiny_model(**form), pool), random_ids(33, batch=3)
    other = reverse_complement(ids, built.language.complement)
    with torch.no_grad():
        here, there = built.probabilities(ids), built.probabilities(other)
        strands = [built.head_for(33)(built.features(strand)) for strand in (ids, other)]
    assert torch.equal(here, there)
    assert (strands[0] - strands[1]).abs().max() > 1e-3
    assert here.dtype == torch.float64
    torch.testing.assert_close(here, torch.softmax((strands[0] + strands[1]).double() / 4, 1))


def test_an_untied_head_of_bases_is_not_trained(tiny_model: Build, random_ids: Draw) -> None:
    for tied in (True, False):
        built = build(tiny_model(tie_embeddings=tied))
        built.nats(random_ids(9), torch.tensor([[0], [1]]))[0].sum().backward()
        without = [name for name, p in built.named_parameters() if p.grad is None]
        assert without == [
            *([] if tied else ["language.lm_head.weight"]),
            *(f"heads.0.{name}" for name in ("weight", "bias", "mean", "scale")),
            "heads.1.mean",
            "heads.1.scale",
        ]
        assert all(p.requires_grad != (name in without) for name, p in built.named_parameters())


def test_autocast_is_close_and_gives_fp32_features(tiny_model: Build, random_ids: Draw) -> None:
    built, ids = build(tiny_model(), "both"), random_ids(50)
    with torch.no_grad():
        exact = built.logits(ids)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features, logits = built.features(ids), built.logits(ids)
    assert features.dtype == logits.dtype == torch.float32
    assert 1e-5 < (logits - exact).norm() / exact.norm() < 0.02


def test_what_is_recomputed_is_the_backbones(tiny_model: Build) -> None:
    built = build(tiny_model())
    built.recompute = "block"
    assert built.recompute == built.language.recompute == "block"


@pytest.fixture
def folder(tiny_model: Build, tmp_path: Path) -> Path:
    save_classifier(build(tiny_model(), "both"), tmp_path / "run", "# A card\n")
    return tmp_path / "run"


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("threshold", [None, 0.75])
def test_round_trip_is_bitwise(
    pool: Pool, threshold: float | None, tiny_model: Build, random_ids: Draw, tmp_path: Path
) -> None:
    built = build(tiny_model(), pool, threshold=threshold)
    save_classifier(built, tmp_path / "a", "card\n")
    again = load_classifier(tmp_path / "a")
    assert again.config == built.config
    assert not again.training
    for name, weight in built.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    save_classifier(again, tmp_path / "b", "card\n")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_classifiers_folder_is_a_model_folder(tiny_model: Build, folder: Path) -> None:
    assert is_model_folder(folder)
    assert is_classifier_folder(folder)
    weight = tiny_model().backbone.embedding.weight
    assert torch.equal(load(folder).backbone.embedding.weight, weight)
    save(tiny_model(), folder.parent / "language", "")
    assert not is_classifier_folder(folder.parent / "language")


def test_loading_leaves_the_random_state(folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_classifier(folder)
    assert torch.equal(torch.rand(3), expected)


def refuse(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_classifier(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_language_model_is_no_classifier(tiny_model: Build, tmp_path: Path) -> None:
    save(tiny_model(), tmp_path / "model", "")
    refuse(tmp_path / "model", "a language model, and no classifier: fit one from it with dnamamba")
    refuse(tmp_path / "none", "no such folder")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"classifier\.json: damaged"),
        ("[1]", r"classifier\.json: damaged"),
        ("3", r"classifier\.json: damaged"),
        ("\xff", r"classifier\.json: damaged"),
        ('{"format": 2}', r"format is 2, and this dnamamba reads 1; pip install -U"),
        ("{}", "format is None"),
        ('{"format": 1, "classes": ["a"]}', r"classifier\.json: missing contexts"),
        ('{"format": 1, "class": ["a"]}', "unknown setting 'class'; did you mean 'classes'"),
        ('{"format": 1, "classes": "a"}', "'a' is not a list"),
        ('{"format": 1, "pool": "max"}', "'max' is not one of 'last', 'mean', 'both'"),
    ],
)
def test_a_damaged_description_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "classifier.json").write_bytes(text.encode("latin-1"))
    refuse(folder, message)


def test_a_damaged_head_is_refused(folder: Path) -> None:
    path = folder / "classifier.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refuse(folder, r"classifier\.safetensors: damaged, or not of this classifier; fit it again")
    save_file({"weight": torch.zeros(3, 32)}, path)
    refuse(folder, "damaged, or not of this classifier")
    path.unlink()
    refuse(folder, r"classifier\.safetensors: no such file")


def test_a_head_of_other_classes_is_refused(folder: Path) -> None:
    path = folder / "classifier.json"
    values = json.loads(path.read_text())
    assert list(values) == sorted(values)
    path.write_text(json.dumps({**values, "classes": ["a", "b"]}))
    assert read_classifier_config(folder).classes == ("a", "b")
    refuse(folder, "damaged, or not of this classifier")
