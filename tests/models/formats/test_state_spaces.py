"""The authors' own layout: their config, pytorch_model.bin, and names that are ours already."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from dnamamba.errors import CheckpointError
from dnamamba.models.pretrained import load
from tests.models.formats.folders import (
    CHARACTERS,
    stir,
    write_config,
    write_tokenizer,
    write_weights,
)
from tests.models.formats.test_transformers import mamba, mamba2

ONE = {
    "d_model": 24, "n_layer": 2, "vocab_size": 12, "ssm_cfg": {"d_state": 4}, "rms_norm": True,
    "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8,
}  # fmt: skip
TWO = {
    **ONE,
    "ssm_cfg": {"layer": "Mamba2", "d_state": 6, "headdim": 8},
    "d_intermediate": 0,
    "attn_layer_idx": [],
    "attn_cfg": {},
    "tie_embeddings": True,
}


def published(
    folder: Path, about: dict[str, Any], twin: Any, name: str = "pytorch_model.bin"
) -> Path:
    stir(twin)
    write_config(folder, about)
    write_tokenizer(folder, CHARACTERS)
    renamed = {
        key.replace("backbone.embeddings.", "backbone.embedding."): weight
        for key, weight in twin.state_dict().items()
    }
    write_weights(folder, renamed, name)
    return folder


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize(("about", "build"), [(ONE, mamba), (TWO, mamba2)], ids=["1", "2"])
def test_logits(about: dict[str, Any], build: Any, name: str, tmp_path: Path) -> None:
    twin = build()
    model = load(published(tmp_path / "model", about, twin, name))
    model.backend = "chunked"
    ids = torch.randint(0, 12, (2, 70), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(ids), twin(ids).logits, rtol=0, atol=1e-4)
    assert model.config.vocab_size == 16


def test_weights_in_parts(tmp_path: Path) -> None:
    folder = published(tmp_path / "model", ONE, mamba())
    whole = load(folder)
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    (folder / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    parts = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(names)}
    for part in set(parts.values()):
        write_weights(folder, {n: tensors[n] for n in names if parts[n] == part}, part)
    write_config(tmp_path / "other", {"weight_map": parts})
    index = folder / "pytorch_model.bin.index.json"
    (tmp_path / "other" / "config.json").rename(index)
    for name, weight in load(folder).state_dict().items():
        assert torch.equal(weight, whole.state_dict()[name])
    (folder / "pytorch_model-1.bin").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model-1\.bin is missing; fetch"):
        load(folder)


class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was executed",)


@pytest.mark.parametrize("protocol", [2, 4, "zip"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, protocol: int | str) -> None:
    folder = published(tmp_path / "model", ONE, mamba())
    path = folder / "pytorch_model.bin"
    if protocol == "zip":
        torch.save({"w": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps({"w": Bomb()}, protocol=protocol))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: .*") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert "weights_only=False" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 100, 2000])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_weights_that_are_cut_short(tmp_path: Path, name: str, keep: int) -> None:
    folder = published(tmp_path / "model", ONE, mamba(), name)
    path = folder / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"cut short|more than tensors"):
        load(folder)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    folder = published(tmp_path / "model", ONE, mamba())
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"no weights: none of model\.safetensors, pytorch"):
        load(folder)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({**ONE, "rms_norm": False}, "rms_norm is False"),
        ({**ONE, "ssm_cfg": {"layer": "Mamba3"}}, "layer is 'Mamba3', not Mamba1 or Mamba2"),
        ({**ONE, "ssm_cfg": {"bias": True}}, "ssm_cfg: bias is True"),
        ({**TWO, "d_intermediate": 96}, "d_intermediate is 96"),
        (
            {**TWO, "ssm_cfg": {"layer": "Mamba2", "norm_before_gate": True}},
            "norm_before_gate is True",
        ),
        ({**ONE, "d_model": 0}, "d_model: 0 is below 1"),
    ],
)
def test_what_cannot_be_is_named(about: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = published(tmp_path / "model", about, mamba())
    with pytest.raises(CheckpointError, match=message):
        load(folder)
