"""Models of other packages; test_parity.py compares what they compute."""

import sys
from collections.abc import Callable

import pytest

from dnamamba.errors import UsageError
from dnamamba.models.convert import to_transformers
from dnamamba.models.heads import LanguageModel

Build = Callable[..., LanguageModel]


def test_a_head_of_its_own_stays_apart(tiny_model: Build) -> None:
    twin = to_transformers(tiny_model(tie_embeddings=False))
    assert not twin.lm_head.weight.equal(twin.backbone.embeddings.weight)


def test_both_ways_is_refused(tiny_model: Build) -> None:
    with pytest.raises(UsageError, match="no Mamba that reads both ways"):
        to_transformers(tiny_model(bidirectional=True, objective="masked"))


def test_what_is_missing_is_named(tiny_model: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"^transformers is missing: pip install transformers$"):
        to_transformers(tiny_model())
