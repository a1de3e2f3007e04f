from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dnamamba
from dnamamba.cli import run
from dnamamba.models import pretrained
from dnamamba.models.adapters import AdapterConfig, Adapters
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.models.predictor import (
    Predictor,
    PredictorConfig,
    load_predictor,
    save_predictor,
)
from tests.models.formats.folders import stir, write_tokenizer
from tests.models.formats.test_caduceus import KINDS, Reference
from tests.models.formats.test_caduceus import published as caduceus
from tests.models.formats.test_transformers import mamba
from tests.models.formats.test_transformers import published as transformers


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    model = LanguageModel(ModelConfig(d_model=16, n_layer=2, d_state=4))
    stir(model)
    pretrained.save(model, tmp_path / "a", "card\n")
    return tmp_path / "a"


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(code: int, *arguments: Any) -> str:
        assert run([str(argument) for argument in arguments]) == code
        return capsys.readouterr().err

    return call


@torch.no_grad()
def test_a_published_model_becomes_ours(tmp_path: Path) -> None:
    reference = Reference(2, **KINDS["ps-fused"])
    folder = caduceus(tmp_path / "theirs", reference)
    assert run(["convert", str(folder), "-o", str(tmp_path / "ours")]) == 0
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {
        "README.md", "config.json", "model.safetensors",
    }  # fmt: skip
    assert pretrained.read_config(tmp_path / "ours").ids == (7, 8, 9, 10, 11)
    ids = torch.randint(7, 12, (1, 30))
    theirs, ours = pretrained.load(folder)(ids), pretrained.load(tmp_path / "ours")(ids)
    assert torch.equal(theirs, ours)
    torch.testing.assert_close(ours, reference.logits(ids), rtol=1e-5, atol=1e-4)


def test_a_published_model_is_used_as_it_is(tmp_path: Path) -> None:
    """Every verb's -m reads it: here embed, through its own tokenizer's ids."""
    folder = caduceus(tmp_path / "theirs", Reference(2, **KINDS["ps-fused"]))
    genome = tmp_path / "genome.fa"
    genome.write_text(">one\nACGTTGCAACGTNNACGATTACA\n")
    out = tmp_path / "out.npz"
    assert run(["embed", str(genome), "-m", str(folder), "-o", str(out), "-q"]) == 0
    here = dnamamba.load(folder).embed("ACGTTGCAACGTNNACGATTACA", rc="concat")
    there = dnamamba.load(folder).embed("TGTAATCGTNNACGTTGCAACGT", rc="concat")
    assert here.shape == (24,)
    torch.testing.assert_close(
        torch.tensor(here), torch.tensor(there).roll(12), rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_ours_for_transformers_and_back(ours: Path, tmp_path: Path) -> None:
    to = ["--to", "transformers", "-o", str(tmp_path / "b")]
    assert run(["convert", str(ours), *to]) == 0
    assert "AutoModelForCausalLM" in (tmp_path / "b" / "README.md").read_text()
    assert run(["convert", str(tmp_path / "b"), "-o", str(tmp_path / "c")]) == 0
    for file in ("config.json", "model.safetensors"):
        assert (ours / file).read_bytes() == (tmp_path / "c" / file).read_bytes()


def test_ids(tmp_path: Path, refused: Callable[..., str]) -> None:
    folder = transformers(mamba(), tmp_path / "theirs")
    (folder / "tokenizer.json").unlink()
    out = tmp_path / "ours"
    assert "name them: dnamamba convert MODEL --ids" in refused(1, "convert", folder, "-o", out)
    ids = ["--ids", "2,3,4,5,6", "--mask-id", "1"]
    assert run(["convert", str(folder), "-o", str(out), *ids]) == 0
    config = pretrained.read_config(out)
    assert (config.ids, config.mask_id) == ((2, 3, 4, 5, 6), 1)
    assert run(["convert", str(folder), "-o", str(out), *ids, "--force", "-q"]) == 0


@pytest.mark.parametrize(
    ("ids", "code", "message"),
    [
        (("--ids", "2,3,4"), 2, "3 ids; five are wanted"),
        (("--ids", "2,3,four,5,6"), 2, "numbers with commas are wanted, such as 7,8,9,10,11"),
        (("--ids", "2,3,4,5,99"), 1, "ids: 99 is not in vocab_size 16"),
        (("--mask-id", "3"), 2, "--mask-id comes with --ids"),
    ],
)
def test_ids_that_cannot_be(
    tmp_path: Path, refused: Callable[..., str], ids: tuple[str, ...], code: int, message: str
) -> None:
    folder = transformers(mamba(), tmp_path / "theirs")
    assert message in refused(code, "convert", folder, "-o", tmp_path / "ours", *ids)
    assert not (tmp_path / "ours").exists()


def test_what_is_there_is_kept(ours: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("")
    (tmp_path / "file").write_text("")
    model = ("convert", ours, "-o")
    assert "exists; --force replaces it" in refused(2, *model, ours)
    assert "holds files but no model" in refused(2, *model, other, "--force")
    assert "is a file; choose a folder" in refused(2, *model, tmp_path / "file")
    assert "no such folder" in refused(1, "convert", tmp_path / "none", "-o", tmp_path / "b")


def test_push(ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    sent: list[set[str]] = []

    def upload(repo_id: str, folder_path: Path, allow_patterns: list[str]) -> None:
        assert repo_id == "owner/name"
        sent.append({path.name for path in Path(folder_path).iterdir()})

    monkeypatch.setattr(hub, "create_repo", lambda name, **_: f"https://hub/{name}")
    monkeypatch.setattr(hub, "upload_folder", upload)
    out = str(tmp_path / "b")
    assert run(["convert", str(ours), "-o", out, "--push", "owner/name"]) == 0
    model = dnamamba.load(out)
    assert model.push_to_hub("owner/name") == "https://hub/owner/name"
    assert sent == [{"README.md", "config.json", "model.safetensors"}] * 2


def test_save_and_from_pretrained(ours: Path, tmp_path: Path) -> None:
    model = dnamamba.load(ours)
    model.save_pretrained(tmp_path / "b")
    again = type(model).from_pretrained(tmp_path / "b")
    assert type(again) is type(model)
    assert again.config == model.config
    assert "A Mamba language model of DNA" in (tmp_path / "b" / "README.md").read_text()


def test_a_tokenizer_that_lacks_a_letter(tmp_path: Path, refused: Callable[..., str]) -> None:
    folder = transformers(mamba(), tmp_path / "theirs")
    write_tokenizer(folder, {"[UNK]": 0, "A": 1, "C": 2, "G": 3})
    assert "no tokenizer file says" in refused(1, "convert", folder, "-o", tmp_path / "ours")


@torch.no_grad()
def test_an_adapter_is_merged(ours: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    """The folder predicts the same without the model that it was fitted from."""
    pytest.importorskip("peft")
    language = pretrained.load(ours)
    adapters = Adapters(language)
    adapters.add("finetuned", AdapterConfig(rank=2))
    _, digest = pretrained.fingerprint(ours)
    about = PredictorConfig("classes", ("a", "b"), base=str(ours), base_sha256=digest)
    predictor = Predictor(language, about)
    stir(predictor)
    save_predictor(predictor, tmp_path / "run", "card\n", adapters)
    wanted = load_predictor(tmp_path / "run")
    assert run(["convert", str(tmp_path / "run"), "-o", str(tmp_path / "whole")]) == 0
    ours.rename(tmp_path / "gone")
    ids = torch.randint(0, 4, (3, 20))
    torch.testing.assert_close(
        load_predictor(tmp_path / "whole").predict(ids), wanted.predict(ids), rtol=1e-6, atol=1e-6
    )
    again = ("convert", tmp_path / "whole", "-o", tmp_path / "twice")
    assert "nothing to merge" in refused(2, *again)
    there = ("convert", tmp_path / "run", "-o", tmp_path / "there", "--to", "transformers")
    assert "is a predictor" in refused(2, *there)
    assert "--base MODEL" in refused(1, "convert", tmp_path / "run", "-o", tmp_path / "there")
