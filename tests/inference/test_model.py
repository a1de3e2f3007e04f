from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

import dnamamba
from dnamamba.alphabet import Codes, encode
from dnamamba.data.genome import Genome
from dnamamba.data.region import Region
from dnamamba.errors import CheckpointError, InputError, UsageError
from dnamamba.inference.model import Model
from dnamamba.models import pretrained
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel

LETTERS = "ACGTTGCAACGGTCAT" * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "small"
    pretrained.save(LanguageModel(ModelConfig(16, 2)), path, "")
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return dnamamba.load(folder)


@pytest.fixture
def fasta(tmp_path: Path, write_fasta: Callable[..., Path]) -> Path:
    return write_fasta(tmp_path / "x.fa", {"a": LETTERS, "b": "NNAC" * 5, "c": "NNNN"})


def test_a_string_is_embedded(model: Model) -> None:
    found = model.embed(LETTERS)
    assert found.shape == (16,)
    assert found.dtype == np.float32
    with torch.no_grad():
        states = model.hidden(model.tokens(torch.from_numpy(encode(LETTERS))[None]))
    np.testing.assert_allclose(found, states[0].mean(0), rtol=1e-4, atol=1e-5)


def test_several_are_embedded_as_each(model: Model) -> None:
    several: list[str | Codes] = [LETTERS, "ACG", encode(LETTERS[3:]), "N", ""]
    found = model.embed(several)
    assert found.shape == (5, 16)
    for row, one in zip(found[:3], several, strict=False):
        np.testing.assert_allclose(row, model.embed(one), rtol=1e-4, atol=1e-5)
    assert np.isnan(found[3:]).all()
    assert model.embed([]).shape == (0, 16)
    assert model.embed(iter(["A", "C"])).shape == (2, 16)


def test_a_file_is_embedded_record_by_record(model: Model, fasta: Path) -> None:
    found = model.embed(fasta)
    np.testing.assert_allclose(found[0], model.embed(LETTERS), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], model.embed("AC" * 5), rtol=1e-4, atol=1e-5)
    assert np.isnan(found[2]).all()


def test_regions_are_embedded_on_their_strands(model: Model, fasta: Path) -> None:
    found = model.embed(Genome(fasta), ["a:5-20", Region("a", 4, 20, "-"), "a:1-64"])
    other = LETTERS[4:20].translate(str.maketrans("ACGT", "TGCA"))[::-1]
    for row, letters in zip(found, (LETTERS[4:20], other, LETTERS), strict=True):
        np.testing.assert_allclose(row, model.embed(letters), rtol=1e-4, atol=1e-5)
    one = model.embed(fasta, "a:5-20")
    np.testing.assert_array_equal(one, found[:1])


def test_flanks_are_read_and_not_pooled(model: Model, fasta: Path) -> None:
    (found,) = model.embed(fasta, ["a:5-20"], context=3)
    bases = cast(np.ndarray, model.embed(LETTERS[1:23], pool="none"))
    np.testing.assert_allclose(found, bases[3:19].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strand", ["+", "-"])
def test_each_base_is_kept(model: Model, fasta: Path, strand: str) -> None:
    (found,) = model.embed(fasta, [Region("b", 0, 20, strand)], pool="none")
    known = np.array([letter != "N" for letter in "NNAC" * 5])[:: 1 if strand == "+" else -1]
    assert np.isnan(found[~known]).all()
    letters = "AC" * 5 if strand == "+" else "GT" * 5
    np.testing.assert_allclose(
        found[known], model.embed(letters, pool="none"), rtol=1e-4, atol=1e-5
    )
    (empty,) = model.embed(fasta, ["c"], pool="none")
    assert empty.shape == (4, 16)
    assert np.isnan(empty).all()


def test_options_are_those_of_the_verb(model: Model) -> None:
    assert model.embed(LETTERS, layer="1,2", rc="concat").shape == (64,)
    average = model.embed(LETTERS, rc="average", layer="mean")
    other = LETTERS.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    np.testing.assert_allclose(
        average, model.embed(other, rc="average", layer="mean"), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_device_stay(model: Model, training: bool) -> None:
    model.train(training)
    model.embed(LETTERS)
    assert model.training is training
    assert next(model.parameters()).device.type == "cpu"
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.eval()


def test_faults_are_said(model: Model, fasta: Path) -> None:
    with pytest.raises(UsageError, match="give a Genome, or a Path"):
        model.embed(LETTERS, ["a:1-2"])
    with pytest.raises(UsageError, match="uint8 store codes"):
        model.embed(np.zeros(5))
    with pytest.raises(UsageError, match="0 to 2"):
        model.embed(LETTERS, layer=3)
    with pytest.raises(InputError, match="did you mean"):
        model.embed(fasta, ["A:1-5"])
    with pytest.raises(InputError):
        model.embed("MKV*")


def test_generate(folder: Path) -> None:
    model = dnamamba.load(folder)
    made = model.generate(3, 50, seed=4)
    assert [len(sequence) for sequence in made] == [50] * 3
    assert set("".join(made)) == set("ACGT")
    assert model.generate(2, 50, seed=4) == made[:2]
    assert model.generate(3, 50, seed=5) != made
    likeliest = model.generate(2, 20, prompt="ACGTNACGT", temperature=0)
    assert likeliest[0] == likeliest[1]
    with torch.no_grad():
        logits = model(model.tokens(torch.from_numpy(encode("ACGTACGT" + likeliest[0]))[None]))
    bases = logits[0, 7:-1][:, list(model.config.ids[:4])].argmax(-1)
    assert "".join("ACGT"[base] for base in bases) == likeliest[0]
    with pytest.raises(UsageError, match="top-k 5: there are four bases"):
        model.generate(top_k=5)
    with pytest.raises(InputError):
        model.generate(prompt="MKV*")


def test_a_model_is_loaded_from_a_folder_or_the_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    monkeypatch.chdir(tmp_path)
    wanted = dnamamba.load(str(folder)).embed(LETTERS)
    np.testing.assert_array_equal(dnamamba.load("owner/name").embed(LETTERS), wanted)
    assert asked == [("owner/name", ["*.json", "*.safetensors", "README.md"])]


def test_what_is_nowhere_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def fail(name: str, allow_patterns: list[str]) -> str:
        raise OSError("no network\nsecond line")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="owner/name: no such folder, nor on the hub: no net"):
        dnamamba.load("owner/name")
    with pytest.raises(CheckpointError, match=r"nowhere: no such folder$"):
        dnamamba.load("nowhere")


@pytest.mark.gpu
def test_a_gpu_stays_one(folder: Path, cuda: torch.device) -> None:
    model = dnamamba.load(folder, cuda)
    wanted = dnamamba.load(folder).embed(LETTERS)
    np.testing.assert_allclose(model.embed(LETTERS, precision="fp32"), wanted, rtol=1e-3, atol=1e-4)
    assert next(model.parameters()).is_cuda
