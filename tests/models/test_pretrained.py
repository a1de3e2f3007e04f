import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dnamamba.errors import CheckpointError, DnamambaError
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.models.pretrained import is_model_folder, load, model_card, read_config, save

Build = Callable[..., LanguageModel]


@pytest.fixture
def folder(tiny_model: Build, tmp_path: Path) -> Path:
    save(tiny_model(), tmp_path / "model", "# A card\n")
    return tmp_path / "model"


def edit_config(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))


def refuse(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tie_embeddings": False},
        {"objective": "masked", "bidirectional": True, "symmetry": "shared"},
        {"vocab_size": 16, "ids": (7, 8, 9, 10, 11), "mask_id": 3, "dt_rank": 2, "norm_eps": 1e-6},
    ],
)
def test_round_trip_is_bitwise(tiny_model: Build, tmp_path: Path, options: dict[str, Any]) -> None:
    model = tiny_model(**options)
    save(model, tmp_path / "a", "card\n")
    again = load(tmp_path / "a")
    assert again.config == model.config
    assert not again.training
    assert again.backend == "auto"
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    tied = again.lm_head.weight is again.backbone.embedding.weight
    assert tied == model.config.tie_embeddings
    save(again, tmp_path / "b", "card\n")
    for file in ("config.json", "model.safetensors", "README.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_tied_weight_is_stored_once(folder: Path) -> None:
    names = set(load_file(folder / "model.safetensors"))
    assert "backbone.embedding.weight" in names
    assert "lm_head.weight" not in names


def test_config_is_sorted_and_named(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    assert list(values) == sorted(values)
    assert (values["model_type"], values["format"]) == ("dnamamba", 1)
    assert "backend" not in values
    assert read_config(folder) == ModelConfig(d_model=16, n_layer=2, d_state=4)


def test_saving_leaves_other_files_and_no_temporary_ones(tiny_model: Build, folder: Path) -> None:
    (folder / "metrics.tsv").write_text("step\n")
    before = (folder / "model.safetensors").read_bytes()
    save(tiny_model(seed=1), folder, "# Another\n")
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "config.json", "metrics.tsv", "model.safetensors"}
    assert (folder / "README.md").read_text() == "# Another\n"
    assert (folder / "model.safetensors").read_bytes() != before


def test_a_failed_save_keeps_the_old_weights(
    tiny_model: Build, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / "model.safetensors").read_bytes()

    def fill_the_disk(path: Path, content: bytes) -> int:
        with path.open("wb") as handle:
            handle.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(DnamambaError, match=r"disk full while writing .*model\.safetensors"):
        save(tiny_model(seed=1), folder, "# A card\n")
    assert (folder / "model.safetensors").read_bytes() == before
    assert len(list(folder.iterdir())) == 3


def test_loading_leaves_the_random_state(folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(str(folder))
    assert torch.equal(torch.rand(3), expected)


def test_bf16_weights_load_into_fp32(folder: Path, tiny_model: Build) -> None:
    save(tiny_model().bfloat16(), folder, "")
    model = load(folder)
    assert model.lm_head.weight.dtype == torch.float32
    expected = tiny_model().backbone.embedding.weight.bfloat16().float()
    assert torch.equal(model.backbone.embedding.weight, expected)


def test_no_such_folder(tmp_path: Path) -> None:
    refuse(tmp_path / "nothing", "no such folder")


def test_not_a_model_folder(tmp_path: Path, folder: Path) -> None:
    refuse(tmp_path, r"not a model folder: config\.json and model\.safetensors missing")
    (folder / "config.json").unlink()
    assert not is_model_folder(folder)
    refuse(folder, r"not a model folder: config\.json missing")


def test_a_file_is_no_folder(folder: Path) -> None:
    refuse(folder / "model.safetensors", "is a file; name the folder")


@pytest.mark.parametrize("keep", [0, 5, 100, 4000, -1])
def test_truncated_weights(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refuse(folder, r"model\.safetensors: cut short or not a safetensors file .*save it again")


def test_weights_of_another_preset(folder: Path) -> None:
    edit_config(folder, d_model=32)
    refuse(folder, r"backbone\.embedding\.weight has shape \(8, 16\), and .* asks for \(8, 32\)")


def test_missing_and_unknown_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, "extra.bias": torch.zeros(2)}, path)
    refuse(folder, r"has unknown extra\.bias; it and config\.json are of different models")
    del weights["backbone.layers.1.mixer.D"]
    del weights["backbone.layers.1.mixer.A_log"]
    save_file(weights, path)
    refuse(folder, r"lacks backbone\.layers\.1\.mixer\.A_log and 1 more")
    edit_config(folder, n_layer=1)
    refuse(folder, r"has unknown backbone\.layers\.1\.")


def test_a_header_as_long_as_a_pickle_begins_is_none(tmp_path: Path) -> None:
    """Its length in bytes is how a safetensors file begins: 640 is that of pickles, 80 02."""
    model = LanguageModel(ModelConfig(d_model=16, n_layer=1))
    save(model, tmp_path, "")
    path = tmp_path / "model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    wanted = next(n for n in (640, 896, 1152, 1408, 66_176) if n >= size)
    header = raw[8 : 8 + size] + b" " * (wanted - size)
    path.write_bytes(wanted.to_bytes(8, "little") + header + raw[8 + size :])
    assert path.read_bytes()[:1] == b"\x80"
    assert torch.equal(load(tmp_path).lm_head.weight, model.lm_head.weight)


class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was executed",)


@pytest.mark.parametrize("protocol", [2, 4, "zip"])
def test_a_pickle_is_never_executed(folder: Path, protocol: int | str) -> None:
    path = folder / "model.safetensors"
    if protocol == "zip":
        torch.save({"w": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(), protocol=protocol))
    message = r"holds a pickle; it is never executed; .* safetensors\.torch\.save_file"
    refuse(folder, r"model\.safetensors: " + message)
    path.rename(folder / "pytorch_model.bin")
    refuse(folder, r"pytorch_model\.bin: " + message)
    refuse(folder / "pytorch_model.bin", message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "no table of settings"),
        ('{"model_type": "gpt2"}', "architecture 'gpt2' is not known; known: dnamamba, .*HyenaDNA"),
        ('{"model_type": "caduceus", "d_model": 8}', "vocab_size is missing"),
        ('{"model_type": "dnamamba", "format": 2}', "format is 2, and this dnamamba reads 1"),
        ('{"model_type": "dnamamba", "format": 1}', "missing d_model, n_layer"),
    ],
)
def test_a_broken_config(folder: Path, content: str, message: str) -> None:
    (folder / "config.json").write_text(content)
    refuse(folder, r"config\.json: .*" + message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 2}, "unknown setting 'n_layers'; did you mean 'n_layer'"),
        ({"d_model": "big"}, "d_model: 'big' is not of type int"),
        ({"ids": 3}, "ids: 3 is not a list"),
        ({"d_state": 0}, "d_state: 0 is below 1"),
        ({"bidirectional": True}, "objective: .next. would see"),
    ],
)
def test_a_config_that_cannot_be(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit_config(folder, **changes)
    refuse(folder, r"config\.json: .*" + message)


def test_model_card_says_what_it_is() -> None:
    model = LanguageModel(ModelConfig(d_model=64, n_layer=8))
    card = model_card(
        model,
        name="sample",
        data=["chr16.fa, 210,155 bases"],
        metrics={"bits_per_base": 1.93456},
        notes="Trained for a test.",
    )
    assert card.startswith("---\nlibrary_name: dnamamba\n")
    for line in (
        "# sample",
        "| size | preset 250k, 262,208 parameters |",
        "| objective | next base |",
        "- chr16.fa, 210,155 bases",
        "| bits_per_base | 1.935 |",
        "Trained for a test.",
    ):
        assert line in card.splitlines()
    assert not re.search(r"\n\n\n", card)
