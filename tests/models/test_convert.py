"""Models of other packages; test_parity.py compares what they compute."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dnamamba.errors import UsageError
from dnamamba.models.convert import save_transformers, to_transformers
from dnamamba.models.heads import LanguageModel
from dnamamba.models.mixers.hyena import HyenaConfig
from dnamamba.models.mixers.mamba2 import Mamba2Config
from dnamamba.models.pretrained import load
from tests.models.formats.folders import stir

Build = Callable[..., LanguageModel]
MAMBA2 = {"mixers": ("mamba2",), "d_state": 16, "mamba2": Mamba2Config(d_state=4, head_dim=8)}
DNA = {"vocab_size": 16, "ids": (7, 8, 9, 10, 11), "mask_id": 3}


def test_a_head_of_its_own_stays_apart(tiny_model: Build) -> None:
    twin = to_transformers(tiny_model(tie_embeddings=False))
    assert not twin.lm_head.weight.equal(twin.backbone.embeddings.weight)


@pytest.mark.parametrize(
    "options", [{}, {"tie_embeddings": False}, MAMBA2, {**MAMBA2, **DNA}], ids=str
)
@torch.no_grad()
def test_a_folder_for_transformers(
    tiny_model: Build, options: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny_model(**options)
    stir(model)
    save_transformers(model, tmp_path / "theirs", "card\n")
    twin = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    ids = tokenizer("ACGTNacgtnRY[MASK]", return_tensors="pt").input_ids
    a, c, g, t, n = model.config.ids
    assert ids.tolist() == [[a, c, g, t, n, a, c, g, t, n, n, n, model.config.mask_id]]
    assert tokenizer.decode(ids[0, :4]) == "ACGT"
    torch.testing.assert_close(twin(ids).logits, model(ids), rtol=0, atol=1e-4)

    again = load(tmp_path / "theirs")
    assert again.config == model.config
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bidirectional": True, "objective": "masked"}, "no Mamba that reads both ways"),
        ({"objective": "masked"}, '"masked": transformers\' Mamba predicts next'),
        ({"mixers": ("mamba", "mlp")}, "no model of the blocks mamba, mlp"),
        ({"mixers": ("hyena",), "hyena": HyenaConfig(16)}, "no model of the blocks hyena"),
        ({"norm": "layer"}, "norms by RMSNorm"),
    ],
)
def test_what_it_has_no_equal_of_is_refused(
    tiny_model: Build, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        save_transformers(tiny_model(**options), tmp_path / "theirs", "")
    assert not (tmp_path / "theirs").exists()


def test_what_is_missing_is_named(tiny_model: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"^transformers is missing: pip install transformers$"):
        to_transformers(tiny_model())
