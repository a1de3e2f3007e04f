import functools
from collections.abc import Sequence
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dnamamba.alphabet import Codes, reverse_complement
from dnamamba.errors import UsageError
from dnamamba.inference.embed import Embedder, How, Strands, parse_layers
from dnamamba.inference.pooling import Pool
from dnamamba.inference.reading import Reading, Whole
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel

CPU = torch.device("cpu")
assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=["causal", "bidirectional"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(0)
    config = ModelConfig(
        d_model=16,
        n_layer=3,
        objective="masked" if request.param == "bidirectional" else "next",
        bidirectional=request.param == "bidirectional",
    )
    return LanguageModel(config).eval()


def draw(length: int, seed: int = 0) -> Codes:
    return np.random.default_rng(seed).integers(0, 4, length, dtype=np.uint8)


def reading(codes: Codes, *spans: tuple[int, int]) -> Reading:
    return Reading(Whole(codes), np.array(spans or [(0, len(codes))]))


def embedder(model: LanguageModel, how: How | None = None, batch_bases: int = 10**6) -> Embedder:
    return Embedder(model, how or How((3,)), device=CPU, batch_bases=batch_bases)


def embed(model: LanguageModel, how: How, *readings: Reading) -> list[NDArray[np.float32]]:
    return list(embedder(model, how).embed(readings))


def hidden(model: LanguageModel, codes: Codes) -> NDArray[np.float32]:
    with torch.no_grad():
        states, _ = model.backbone(model.tokens(torch.from_numpy(codes)[None]))
    return cast(NDArray[np.float32], states[0].numpy())


def test_the_last_layer_is_pooled(model: LanguageModel) -> None:
    codes = draw(50)
    states = hidden(model, codes)
    wanted = {
        "mean": states[10:31].mean(0),
        "max": states[10:31].max(0),
        "last": states[30],
        "center": states[20],
    }
    for pool, value in wanted.items():
        (found,) = embed(model, How((3,), pool=cast(Pool, pool)), reading(codes, (10, 31)))
        assert_close(found, value[None])
    (found,) = embed(model, How((3,), pool="none"), reading(codes, (10, 31), (40, 42)))
    assert_close(found, np.concatenate([states[10:31], states[40:42]]))


@pytest.mark.parametrize("lengths", [(40, 40, 40), (7, 90, 33, 1)], ids=["alike", "unlike"])
@pytest.mark.parametrize("rc", get_args(Strands))
def test_company_changes_nothing(model: LanguageModel, lengths: Sequence[int], rc: Strands) -> None:
    how = How((1, 3), pool="max", rc=rc)
    readings = [reading(draw(length, length), (0, length)) for length in lengths]
    together = embed(model, how, *readings)
    for one, found in zip(readings, together, strict=True):
        assert_close(found, embed(model, how, one)[0])


@pytest.mark.parametrize("pool", get_args(Pool))
def test_a_long_sequence_is_read_in_parts(model: LanguageModel, pool: Pool) -> None:
    how = How((2, 3), pool=pool, rc="concat")
    one = reading(draw(100), (0, 100), (20, 60), (59, 61))
    whole = next(embedder(model, how).embed([one]))
    parts = next(embedder(model, how, batch_bases=13).embed([one]))
    assert_close(parts, whole)


def test_layers_stand_side_by_side_or_are_averaged(model: LanguageModel) -> None:
    one = reading(draw(30))
    each = [embed(model, How((layer,)), one)[0] for layer in (0, 2, 3)]
    (beside,) = embed(model, How((0, 2, 3)), one)
    assert_close(beside, np.concatenate(each, 1))
    (mean,) = embed(model, How((0, 2, 3), mean=True), one)
    assert_close(mean, np.mean(each, 0))


def test_layer_zero_is_the_embedding_of_ids(model: LanguageModel) -> None:
    codes = draw(9)
    (found,) = embed(model, How((0,), pool="none"), reading(codes))
    wanted = model.backbone.embedding(model.tokens(torch.from_numpy(codes))).detach().numpy()
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("pool", ["mean", "max", "last", "center"])
def test_the_average_of_strands_is_that_of_the_reverse_complement(
    model: LanguageModel, pool: Pool
) -> None:
    how = How((3,), pool=pool, rc="average")
    codes = draw(41)
    here = embed(model, how, reading(codes, (5, 20)))
    there = embed(model, how, reading(reverse_complement(codes), (21, 36)))
    assert_close(here, there)


def test_strands_stand_side_by_side(model: LanguageModel) -> None:
    codes = draw(41)
    (both,) = embed(model, How((3,), rc="concat"), reading(codes, (5, 20)))
    (here,) = embed(model, How((3,)), reading(codes, (5, 20)))
    (there,) = embed(model, How((3,)), reading(reverse_complement(codes), (21, 36)))
    assert_close(both, np.concatenate([here, there], 1))


def test_bases_of_the_other_strand_are_in_the_order_of_this_one(model: LanguageModel) -> None:
    codes = draw(12)
    (both,) = embed(model, How((3,), pool="none", rc="concat"), reading(codes, (1, 4), (6, 9)))
    states = hidden(model, reverse_complement(codes))[::-1]
    assert_close(both[:, 16:], np.concatenate([states[1:4], states[6:9]]))


def test_a_shared_model_is_read_strand_by_strand() -> None:
    torch.manual_seed(0)
    shared = LanguageModel(ModelConfig(16, 2, objective="masked", symmetry="shared")).eval()
    codes = draw(20)
    (both,) = embed(shared, How((2,), pool="none", rc="concat"), reading(codes))
    with torch.no_grad():
        wanted = shared.hidden(shared.tokens(torch.from_numpy(codes)[None]))[0].numpy()
    assert_close(both, wanted)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored(model: LanguageModel, training: bool) -> None:
    model.train(training)
    embed(model, How((3,)), reading(draw(8)))
    assert model.training is training


def test_columns_are_named() -> None:
    config = ModelConfig(2, 3)
    assert How((3,)).names(config) == ["0", "1"]
    assert How((1, 2), mean=True).names(config) == ["0", "1"]
    assert How((1, 3), rc="average").names(config) == ["1_0", "1_1", "3_0", "3_1"]
    assert How((3,), rc="concat").names(config) == ["0", "1", "rc_0", "rc_1"]


@pytest.mark.parametrize(
    ("text", "layers", "mean"),
    [
        ("-1", (8,), False),
        ("0", (0,), False),
        ("4,8", (4, 8), False),
        ("2-4, -1", (2, 3, 4, 8), False),
        ("mean", tuple(range(1, 9)), True),
        ("mean:4-6", (4, 5, 6), True),
        ("mean:-2,-1", (7, 8), True),
    ],
)
def test_layers_are_read(text: str, layers: tuple[int, ...], mean: bool) -> None:
    assert parse_layers(text, ModelConfig(16, 8)) == (layers, mean)


@pytest.mark.parametrize("text", ["", "9", "-10", "one", "4,4", "5-4", "mean:", "1.5", "max:1"])
def test_other_layers_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--layer"):
        parse_layers(text, ModelConfig(16, 8))


@pytest.mark.parametrize("settings", [{"pool": "MEAN"}, {"rc": "both"}])
def test_what_there_is_not_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="is not one of"):
        How((1,), **settings)
