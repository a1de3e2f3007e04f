import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dnamamba.errors import UsageError
from dnamamba.files import take_space
from dnamamba.inference.embed import Embedder, How
from dnamamba.inference.pooling import Pool
from dnamamba.inference.reading import Reading, Whole
from dnamamba.inference.stream import Stream, spilled, spilled_bytes
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel

CODES = np.random.default_rng(0).integers(0, 4, 100, dtype=np.uint8)
SPANS = np.array([(40, 60), (0, 10), (0, 91), (5, 45), (89, 90)])
assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def build(*, bidirectional: bool) -> LanguageModel:
    torch.manual_seed(0)
    if bidirectional:
        return LanguageModel(ModelConfig(16, 3, objective="masked", bidirectional=True))
    return LanguageModel(ModelConfig(16, 3))


def embedder(model: LanguageModel, how: How, batch_bases: int = 13) -> Embedder:
    return Embedder(model, how, device=torch.device("cpu"), batch_bases=batch_bases)


def reading() -> Reading:
    return Reading(Whole(CODES), SPANS)


def whole(model: LanguageModel, how: How) -> NDArray[np.float32]:
    return next(embedder(model, how, 1000).embed([reading()]))


@pytest.mark.parametrize("pool", ["mean", "max", "last", "center"])
def test_a_stream_is_the_whole(pool: Pool) -> None:
    model, how = build(bidirectional=False), How((1, 3), pool=pool)
    values = np.full((len(SPANS), 32), np.nan, np.float32)
    stream = Stream(embedder(model, how), reading())
    for rows, found in stream:
        values[rows] = found
    assert_close(values, whole(model, how))
    assert stream.place == 91  # nothing is read that is not asked for


@pytest.mark.parametrize("parts", [0, 1, 4])
def test_a_stream_goes_on_where_it_was(parts: int) -> None:
    how = How((3,))
    model = build(bidirectional=False)
    values = np.full((len(SPANS), 16), np.nan, np.float32)
    first = Stream(embedder(model, how), reading())
    for _, (rows, found) in zip(range(parts), first, strict=False):
        values[rows] = found
    second = Stream(embedder(model, how), reading())
    second.restore(first.tensors())
    for rows, found in second:
        values[rows] = found
    uninterrupted = np.full_like(values, np.nan)
    for rows, found in Stream(embedder(model, how), reading()):
        uninterrupted[rows] = found
    np.testing.assert_array_equal(values, uninterrupted)


@pytest.mark.parametrize("pool", ["mean", "max", "last", "center"])
@pytest.mark.parametrize("batch_bases", [13, 100, 10**6])
def test_layer_by_layer_is_the_whole(pool: Pool, batch_bases: int, tmp_path: Path) -> None:
    model, how = build(bidirectional=True), How((0, 1, 3), pool=pool)
    ((rows, values),) = spilled(embedder(model, how, batch_bases), reading(), tmp_path)
    assert rows.tolist() == list(range(len(SPANS)))
    assert_close(values, whole(model, how))
    assert not list(tmp_path.iterdir())


def test_averaged_layers_are_averaged(tmp_path: Path) -> None:
    model, how = build(bidirectional=True), How((1, 3), mean=True)
    ((_, values),) = spilled(embedder(model, how), reading(), tmp_path)
    assert_close(values, whole(model, how))
    with pytest.raises(UsageError, match="largest of averaged layers"):
        next(spilled(embedder(model, How((1, 3), mean=True, pool="max")), reading(), tmp_path))


def test_what_lies_on_disk_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def watched(path: Path, size: int) -> None:
        taken.append(size)
        take_space(path, size)

    monkeypatch.setattr("dnamamba.inference.stream.take_space", watched)
    list(spilled(embedder(build(bidirectional=True), How((3,))), reading(), tmp_path))
    assert sum(taken) == spilled_bytes(len(CODES), 16)


def test_what_is_not_pooled_comes_base_by_base() -> None:
    model, how = build(bidirectional=False), How((3,), pool="none")
    parts = list(Stream(embedder(model, how), reading()))
    assert np.concatenate([places for places, _ in parts]).tolist() == list(range(91))
    everything = Reading(Whole(CODES[:91]), np.array([(0, 91)]))
    (wanted,) = embedder(model, how, 1000).embed([everything])
    assert_close(np.concatenate([states for _, states in parts]), wanted)


def test_a_bidirectional_model_has_no_stream() -> None:
    with pytest.raises(UsageError, match="no state"):
        Stream(embedder(build(bidirectional=True), How((3,))), reading())
