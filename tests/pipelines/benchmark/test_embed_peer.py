"""Windows as transformers embeds them."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from dnamamba.alphabet import Codes
from dnamamba.errors import DnamambaError
from dnamamba.inference.embed import Embedder, How
from dnamamba.inference.reading import Reading, Whole
from dnamamba.models import pretrained
from dnamamba.models.heads import LanguageModel
from dnamamba.pipelines.benchmark import embed_peer
from dnamamba.pipelines.benchmark.embed_peer import Peer

NO_LIMIT = {"limit": 1e6, "memory": 1e15}


@pytest.fixture
def model(backbone: Path) -> LanguageModel:
    return pretrained.load(backbone)


@pytest.fixture
def peer(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Peer:
    monkeypatch.setattr(embed_peer, "PROBE", 16)
    return Peer(model, nullcontext)


@pytest.fixture
def windows() -> list[Codes]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 4, size, np.uint8) for size in (64, 64, 64, 40, 64)]


def test_embeddings_are_ours(peer: Peer, model: LanguageModel, windows: list[Codes]) -> None:
    ours = Embedder(model, How((2,)), device=torch.device("cpu"))
    readings = [Reading(Whole(codes), np.array([[0, len(codes)]])) for codes in windows]
    found = peer.read(windows, 2, **NO_LIMIT)
    assert found.bases == 296
    assert "time is up" not in found.note
    expected = np.concatenate(list(ours.embed(readings)))
    np.testing.assert_allclose(found.embeddings, expected, rtol=0, atol=1e-5)


def test_so_many_windows_are_read_as_there_is_time_for(peer: Peer, windows: list[Codes]) -> None:
    peer._embed = timed(peer, seconds_per_base=1.0)
    found = peer.read(windows, 1, limit=130, memory=1e15)
    assert [len(codes) for codes in found.codes] == [64, 64]
    assert found.note.endswith("2 of 5 windows: time is up")


def test_so_many_bases_are_read_as_there_is_time_for(peer: Peer, windows: list[Codes]) -> None:
    peer._embed = timed(peer, seconds_per_base=1.0)
    found = peer.read(windows, 2, limit=60, memory=1e15)
    assert [len(codes) for codes in found.codes] == [30, 30]
    assert found.note.endswith("the first 30 bases of 2 windows: time is up")


def test_what_does_not_fit_is_refused(peer: Peer, windows: list[Codes]) -> None:
    with pytest.raises(
        DnamambaError, match=r"^a window would take .* of memory, and there are 0 GiB$"
    ):
        peer.read(windows, 2, limit=60, memory=0)


def timed(peer: Peer, seconds_per_base: float) -> object:
    embed = peer._embed

    def embed_at_a_rate(windows: list[Codes], batch: int) -> object:
        return embed(windows, batch)[0], seconds_per_base * sum(map(len, windows))

    return embed_at_a_rate
