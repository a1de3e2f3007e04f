from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dnamamba.errors import CheckpointError, UsageError
from dnamamba.models import beside, pretrained
from dnamamba.models.classifier import Pool
from dnamamba.models.heads import LanguageModel
from dnamamba.models.mixers.mamba2 import Mamba2Config
from dnamamba.models.predictor import (
    PAD,
    Kind,
    Packed,
    Predictor,
    PredictorConfig,
    is_predictor_folder,
    load_predictor,
    save_predictor,
)
from dnamamba.models.symmetry import reverse_complement

Build = Callable[..., LanguageModel]
POOLS: tuple[Pool, ...] = ("last", "mean", "both")
FORMS: list[dict[str, Any]] = [
    {},
    {"objective": "masked", "bidirectional": True},
    {"objective": "masked", "symmetry": "shared"},
    {"mixers": ("mamba2", "mamba"), "mamba2": Mamba2Config(d_state=8, head_dim=8)},
]
SIZES = (7, 1, 12, 12)
NUMBERS = {"values": ((1.0, -2.0, 0.0), (3.0, 0.5, 1.0))}
"""Centres and scales, by kind."""


def name(form: dict[str, Any]) -> str:
    """Name a form by the settings in it."""
    return "-".join(form) or "causal"


def build(model: LanguageModel, kind: Kind = "classes", pool: Pool = "mean") -> Predictor:
    config = PredictorConfig(kind, ("a", "b", "c"), pool, *NUMBERS.get(kind, ()))
    built = Predictor(model, config)
    torch.nn.init.normal_(built.head.weight)
    built.language.double()
    return built.eval()


def draw() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randint(4, (size,), dtype=torch.uint8) for size in SIZES]


def batch(sequences: list[Tensor], more: int = 0) -> Tensor:
    length = max(map(len, sequences)) + more
    return torch.stack(
        [functional.pad(each, (0, length - len(each)), value=PAD) for each in sequences]
    )


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("form", FORMS, ids=name)
def test_padding_and_neighbours_change_nothing(
    form: dict[str, Any], pool: Pool, tiny_model: Build
) -> None:
    """Sequences of a batch against each by itself, both strands, and the hidden states' mean."""
    built, sequences = build(tiny_model(**form), pool=pool), draw()
    alone = torch.cat([built.predict(built.tokens(each[None])) for each in sequences])
    for more in (0, 5):
        found = built.predict(built.tokens(batch(sequences, more)))
        torch.testing.assert_close(found, alone, atol=1e-6, rtol=1e-5)
    ids = built.language.tokens(sequences[0][None])
    strands = (ids, reverse_complement(ids, built.language.complement))
    hidden = [built.language.backbone(strand)[0][0] for strand in strands]
    seen = {
        "last": sum(each[-1] for each in hidden) / 2,
        "mean": sum(each.mean(0) for each in hidden) / 2,
    }
    wanted = torch.cat([seen[name] for name in ("last", "mean") if pool in (name, "both")])
    outputs = built.head(wanted.float()).double().softmax(0)
    torch.testing.assert_close(alone[0], outputs, atol=1e-6, rtol=1e-6)


def test_both_strands_get_the_same_prediction(tiny_model: Build) -> None:
    built, sequences = build(tiny_model()), draw()
    others = [(3 - each).flip(0) for each in sequences]
    found, other = (built.predict(built.tokens(batch(each))) for each in (sequences, others))
    torch.testing.assert_close(found, other, atol=1e-6, rtol=1e-5)
    targets = torch.zeros(4, 1).long()
    nats, others_nats = (
        built.nats(built.tokens(batch(each)), targets)[0] for each in (sequences, others)
    )
    assert not torch.allclose(nats, others_nats), "in training one strand is read"


@pytest.mark.parametrize("kind", ["classes", "labels", "values"])
@pytest.mark.parametrize("form", FORMS[:2], ids=name)
def test_losses_are_those_of_one_strand(
    form: dict[str, Any], kind: Kind, tiny_model: Build
) -> None:
    built, sequences = build(tiny_model(**form), kind), draw()
    targets = {
        "classes": torch.tensor([[2], [0], [1], [2]]),
        "labels": torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]),
        "values": torch.tensor([[1.5, 2, -3]] * 4, dtype=torch.float64),
    }[kind]
    nats, state = built.nats(built.tokens(batch(sequences)), targets)
    assert state is None
    assert nats.shape == targets.shape
    top = built.language.config.n_layer
    for row, each in enumerate(sequences):
        ids = built.language.tokens(each[None])
        (hidden,), _ = built.language.backbone.outputs(ids, (top,))
        outputs = built.head(hidden.mean(1).float())[0]
        if kind == "classes":
            wanted = -outputs.log_softmax(0)[targets[row]]
        elif kind == "labels":
            signs = 2 * targets[row] - 1
            wanted = -functional.logsigmoid(signs * outputs)
        else:
            scales = torch.tensor(built.config.scales)
            numbers = outputs * scales + torch.tensor(built.config.centres)
            wanted = ((numbers - targets[row]) / scales) ** 2 / 2
        torch.testing.assert_close(nats[row].double(), wanted.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sizes", [(2, 3000, 1024, 1, 1025), (700, 700)])
def test_sums_are_those_of_each_sequence(sizes: tuple[int, ...]) -> None:
    hidden = torch.randn(sum(sizes), 5, generator=torch.Generator().manual_seed(0))
    hidden.requires_grad_()
    packed = Packed(torch.zeros(sum(sizes), dtype=torch.int64), list(sizes))
    found = packed.sums(hidden.bfloat16())
    wanted = torch.stack([part.double().sum(0) for part in hidden.bfloat16().split(sizes)])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-5)
    factors = torch.arange(len(sizes)) + 1.0
    (found * factors[:, None]).sum().backward()
    each = factors.repeat_interleave(torch.tensor(sizes))
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad, each[:, None].expand(-1, 5))


@pytest.mark.parametrize("form", FORMS, ids=name)
def test_gradients_are_the_sums_of_sequences_alone(form: dict[str, Any], tiny_model: Build) -> None:
    built, sequences = build(tiny_model(**form)).float(), draw()
    targets = torch.tensor([[2], [0], [1], [2]])

    def gradients(each: list[Tensor], wanted: Tensor) -> dict[str, Tensor]:
        built.zero_grad()
        built.nats(built.tokens(batch(each)), wanted)[0].sum().backward()
        return {
            name: parameter.grad.clone()
            for name, parameter in built.named_parameters()
            if parameter.grad is not None
        }

    together = gradients(sequences, targets)
    alone = [gradients([each], targets[row][None]) for row, each in enumerate(sequences)]
    assert "head.weight" in together
    assert "language.backbone.embedding.weight" in together
    for name, found in together.items():
        wanted = torch.stack([each[name] for each in alone]).sum(0)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-3)


def test_predictions_are_probabilities_or_numbers(tiny_model: Build) -> None:
    codes = batch(draw())
    classes, labels, values = (
        build(tiny_model(), kind) for kind in ("classes", "labels", "values")
    )
    torch.testing.assert_close(
        classes.predict(classes.tokens(codes)).sum(1), torch.ones(4, dtype=torch.float64)
    )
    found = labels.predict(labels.tokens(codes))
    assert ((found > 0) & (found < 1)).all()
    with torch.no_grad():
        values.head.weight.zero_()
        values.head.bias.fill_(2.0)
    numbers = values.predict(values.tokens(codes))
    torch.testing.assert_close(numbers, torch.tensor([[7.0, -1.0, 2.0]] * 4).double())


@pytest.mark.parametrize("kind", ["classes", "labels", "values"])
def test_a_folder_gives_the_same_predictions(kind: Kind, tiny_model: Build, tmp_path: Path) -> None:
    built = build(tiny_model(), kind)
    built.language.float()
    save_predictor(built, tmp_path, "card")
    assert is_predictor_folder(tmp_path)
    again = load_predictor(tmp_path)
    again.language.backend = built.language.backend
    codes = batch(draw())
    assert torch.equal(again.predict(again.tokens(codes)), built.predict(built.tokens(codes)))
    assert again.config == built.config
    assert not again.training
    pretrained.load(tmp_path)
    (tmp_path / "predictor.json").unlink()
    with pytest.raises(CheckpointError, match="a language model, and no predictor: fit one from"):
        load_predictor(tmp_path)
    save_predictor(build(tiny_model(), kind, "both"), tmp_path / "both", "card")
    (tmp_path / "both" / "predictor.safetensors").replace(tmp_path / "predictor.safetensors")
    (tmp_path / "both" / "predictor.json").replace(tmp_path / "other.json")
    beside.write_config(tmp_path / "predictor.json", built.config)
    with pytest.raises(CheckpointError, match="damaged, or not of this predictor"):
        load_predictor(tmp_path)


def test_what_is_refused(tiny_model: Build) -> None:
    refused: tuple[tuple[Kind, tuple[str, ...], str], ...] = (
        ("classes", ("a",), "1 classes; there is nothing to predict"),
        ("labels", (), "0 labels; there is nothing to predict"),
        ("values", ("a",), "1 of each are wanted for values"),
    )
    for kind, names, fault in refused:
        with pytest.raises(UsageError, match=fault):
            PredictorConfig(kind, names)
    with pytest.raises(UsageError, match="0 of each are wanted for classes"):
        PredictorConfig("classes", ("a", "b"), centres=(1.0, 2.0), scales=(1.0, 1.0))
    built = build(tiny_model())
    with pytest.raises(UsageError, match="it has no state to carry"):
        built.nats(built.tokens(batch(draw())), torch.zeros(4, 1).long(), return_state=True)


def build_per_base(model: LanguageModel, kind: Kind) -> Predictor:
    config = PredictorConfig(kind, ("a", "b", "c"), "mean", *NUMBERS.get(kind, ()), per_base=True)
    built = Predictor(model, config)
    torch.nn.init.normal_(built.head.weight)
    built.language.double()
    return built.eval()


@pytest.mark.parametrize("form", FORMS, ids=name)
def test_bases_are_predicted_alone_and_from_both_strands(
    form: dict[str, Any], tiny_model: Build
) -> None:
    """Sequences of a batch against each by itself, and against the strands' hidden states."""
    built, sequences = build_per_base(tiny_model(**form), "labels"), draw()
    found = built.predict(built.tokens(batch(sequences, 3)))
    seen = built.both_strands(built.tokens(batch(sequences, 3)))
    assert found.shape == (sum(SIZES), 3)
    top = built.language.config.n_layer
    apart = zip(sequences, found.split(SIZES), seen.split(SIZES), strict=True)
    for each, predicted, features in apart:
        ids = built.language.tokens(each[None])
        strands = (ids, reverse_complement(ids, built.language.complement))
        here, there = (built.language.backbone.outputs(s, (top,))[0][0][0] for s in strands)
        mean = (here + there.flip(0)).float() / 2
        torch.testing.assert_close(features, mean, atol=1e-6, rtol=1e-5)
        wanted = built.head(mean).sigmoid().double()
        torch.testing.assert_close(predicted, wanted, atol=1e-6, rtol=1e-5)
        turned = built.predict(built.tokens((3 - each).flip(0)[None])).flip(0)
        torch.testing.assert_close(turned, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["labels", "values"])
def test_losses_of_bases_are_those_of_their_own_states(kind: Kind, tiny_model: Build) -> None:
    built, sequences = build_per_base(tiny_model(), kind), draw()
    ids = built.tokens(batch(sequences))
    targets = torch.randint(2, (*ids.shape, 3)).double()
    nats, _ = built.nats(ids, targets)
    assert nats.shape == targets.shape
    top = built.language.config.n_layer
    for row, each in enumerate(sequences):
        (hidden,), _ = built.language.backbone.outputs(built.language.tokens(each[None]), (top,))
        outputs, here = built.head(hidden[0].float()), targets[row, : len(each)]
        if kind == "labels":
            wanted = -functional.logsigmoid((2 * here - 1) * outputs)
        else:
            centres, scales = map(torch.tensor, NUMBERS["values"])
            wanted = ((outputs * scales + centres - here) / scales) ** 2 / 2
        torch.testing.assert_close(
            nats[row, : len(each)].double(), wanted.double(), atol=1e-5, rtol=1e-5
        )


def test_a_folder_of_bases_gives_the_same_predictions(tiny_model: Build, tmp_path: Path) -> None:
    built = build_per_base(tiny_model(), "values")
    built.language.float()
    save_predictor(built, tmp_path, "card")
    again = load_predictor(tmp_path)
    again.language.backend = built.language.backend
    codes = batch(draw())
    assert torch.equal(again.predict(again.tokens(codes)), built.predict(built.tokens(codes)))
    with pytest.raises(UsageError, match="of each base there are labels or values"):
        PredictorConfig("classes", ("a", "b"), per_base=True)
