"""Folders that transformers wrote give the logits and gradients of transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Mamba2Config, Mamba2ForCausalLM, MambaConfig, MambaForCausalLM

from dnamamba.errors import CheckpointError
from dnamamba.models.formats.vocabulary import Vocabulary
from dnamamba.models.pretrained import load
from tests.models.formats.folders import CHARACTERS, stir, write_config, write_tokenizer

LENGTHS = (1, 2, 63, 65, 130)


def mamba(**options: Any) -> Any:
    sizes = {"vocab_size": 16, "hidden_size": 24, "num_hidden_layers": 2, "state_size": 4}
    return MambaForCausalLM(MambaConfig(**{**sizes, "use_cache": False, **options}))


def mamba2(**options: Any) -> Any:
    sizes = {
        "vocab_size": 16, "hidden_size": 24, "num_hidden_layers": 2, "state_size": 6,
        "head_dim": 8, "num_heads": 6, "n_groups": 1, "chunk_size": 16,
    }  # fmt: skip
    return Mamba2ForCausalLM(Mamba2Config(**{**sizes, "use_cache": False, **options}))


def published(twin: Any, folder: Path) -> Path:
    stir(twin)
    twin.save_pretrained(folder)
    write_tokenizer(folder, CHARACTERS)
    return folder


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    ("build", "options"),
    [
        (mamba, {}),
        (mamba, {"expand": 3, "conv_kernel": 3, "time_step_rank": 5, "layer_norm_epsilon": 1e-3}),
        (mamba, {"tie_word_embeddings": False}),
        (mamba2, {}),
        (mamba2, {"n_groups": 3, "conv_kernel": 3, "tie_word_embeddings": True}),
        (mamba2, {"expand": 4, "num_heads": 12, "layer_norm_epsilon": 1e-3}),
    ],
    ids=["mamba", "mamba-sizes", "mamba-untied", "mamba2", "mamba2-groups", "mamba2-wide"],
)
def test_logits_and_gradients(
    build: Any, options: dict[str, Any], length: int, tmp_path: Path
) -> None:
    twin = build(**options)
    model = load(published(twin, tmp_path / "model"))
    model.backend = "chunked"
    ids = torch.randint(0, 12, (2, length), generator=torch.Generator().manual_seed(1))
    logits, theirs = model(ids), twin(ids).logits
    torch.testing.assert_close(logits, theirs, rtol=0, atol=1e-4)

    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    (logits * weights).sum().backward()
    (theirs * weights).sum().backward()
    expected = {name: parameter.grad for name, parameter in twin.named_parameters()}
    compared = 0
    for name, parameter in model.named_parameters():
        reference = expected[name.replace("backbone.embedding.", "backbone.embeddings.")]
        error = (parameter.grad - reference).norm()
        assert error <= 1e-3 * reference.norm() + 1e-6, f"{name}: {error:.1e}"
        compared += 1
    assert compared == len(expected)


@pytest.mark.parametrize("build", [mamba, mamba2])
def test_a_step_equals_a_longer_read(build: Any, tmp_path: Path) -> None:
    model = load(published(build(), tmp_path / "model"))
    ids = torch.randint(0, 12, (2, 40), generator=torch.Generator().manual_seed(1))
    whole = model(ids)
    first, state = model(ids[:, :33], return_state=True)
    torch.testing.assert_close(first, whole[:, :33], rtol=0, atol=1e-5)
    for t in range(33, 40):
        logits, state = model.step(ids[:, t], state)
        torch.testing.assert_close(logits, whole[:, t], rtol=0, atol=1e-5)


def test_ids_come_from_the_tokenizer(tmp_path: Path) -> None:
    model = load(published(mamba(), tmp_path / "model"))
    assert model.config.ids == (7, 8, 9, 10, 11)
    assert model.config.mask_id == 3
    assert model.config.objective == "next"


def test_ids_that_are_nowhere_are_asked_for(tmp_path: Path) -> None:
    folder = published(mamba(), tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer file says .*--ids A,C,G,T,N"):
        load(folder)
    model = load(folder, ids=Vocabulary((2, 3, 4, 5, 6)))
    assert (model.config.ids, model.config.mask_id) == ((2, 3, 4, 5, 6), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_bias": True}, "use_bias is True, and what is here reads False"),
        ({"use_conv_bias": False}, "use_conv_bias is False"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', and what is here reads 'silu' or 'swish'"),
        ({"intermediate_size": 40}, "intermediate_size is 40"),
        ({"model_type": "falcon_mamba"}, r"'falcon_mamba' is not known; known: dnamamba, "),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    twin = mamba()
    folder = published(twin, tmp_path / "model")
    write_config(folder, {**twin.config.to_dict(), **changes})
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)


def test_missing_and_surplus_weights_are_named(tmp_path: Path) -> None:
    twin = mamba()
    twin.extra = nn.Linear(2, 2)
    folder = published(twin, tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"has unknown extra\.bias and 1 more"):
        load(folder)
    write_config(folder, {**twin.config.to_dict(), "num_hidden_layers": 3})
    with pytest.raises(
        CheckpointError, match=r"lacks backbone\.layers\.2\.mixer\.A_log and 9 more"
    ):
        load(folder)
