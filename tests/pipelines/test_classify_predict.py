import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from dnamamba.alphabet import decode, encode, reverse_complement
from dnamamba.errors import CheckpointError, DnamambaError, InputError, UsageError
from dnamamba.evaluation.calls import combine
from dnamamba.inference.classify import BATCH_BASES
from dnamamba.models import pretrained
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.classifier import (
    Classifier,
    ClassifierConfig,
    load_classifier,
    save_classifier,
)
from dnamamba.models.heads import LanguageModel
from dnamamba.pipelines.classify_predict import Per, predict
from dnamamba.pipelines.table import Cell, print_table

CPU = torch.device("cpu")
LENGTH, SHORTEST = 64, 16
CLASSES = ("human", "chimpanzee", "gorilla")
Write = Callable[..., Path]


def fitted(folder: Path, threshold: float | None) -> Path:
    """Write a classifier whose calls differ from one sequence to the next."""
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(d_model=16, n_layer=2, d_state=4))
    torch.nn.init.normal_(model.backbone.embedding.weight)
    config = ClassifierConfig(CLASSES, (SHORTEST, LENGTH), threshold=threshold)
    built = Classifier(model, config)
    torch.nn.init.normal_(built.head.weight, std=2.0)
    save_classifier(built, folder, "A card\n")
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(tmp_path_factory.mktemp("classifier"), 0.0)


def drawn(length: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


def table(
    run: Path, fasta: Path, *, length: int | None = None, per: Per = "record"
) -> list[dict[str, Cell]]:
    columns, rows = predict(run, fasta, length=length, per=per, device=CPU)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def probabilities(row: dict[str, Cell]) -> list[float]:
    return [float(row[f"p_{name}"]) for name in CLASSES]


def test_a_row_for_each_record(run: Path, tmp_path: Path, write_fasta: Write) -> None:
    texts = {"a": drawn(64), "b": "NNN" + drawn(200, 1) + "nN", "c": drawn(16, 2)}
    rows = table(run, write_fasta(tmp_path / "x.fa", texts))
    assert list(rows[0]) == [
        *("record", "start", "end", "bases", "windows", "species", "confidence"),
        *("p_human", "p_chimpanzee", "p_gorilla"),
    ]
    where = [tuple(row[c] for c in ("record", "start", "end", "bases", "windows")) for row in rows]
    # Of b, 8 bases are left over: too few for a window.
    assert where == [("a", 0, 64, 64, 1), ("b", 0, 205, 192, 3), ("c", 0, 16, 16, 1)]
    for row in rows:
        assert sum(probabilities(row)) == pytest.approx(1)
        assert row["confidence"] == max(probabilities(row))
        assert row["species"] == CLASSES[int(np.argmax(probabilities(row)))]
    classifier = load_classifier(run)
    ids = classifier.tokens(torch.from_numpy(encode(texts["a"]))[None])
    with torch.no_grad():
        assert probabilities(rows[0]) == pytest.approx(classifier.probabilities(ids)[0].tolist())


def test_a_row_for_each_window(run: Path, tmp_path: Path, write_fasta: Write) -> None:
    """Evidence is combined by bases."""
    text = "A" * 10 + "N" * 5 + "A" * 80 + drawn(70) + "T" * 5
    path = write_fasta(tmp_path / "x.fa", {"x": text, "y": drawn(64, 1)})
    rows = table(run, path, per="window")
    where = [tuple(row[c] for c in ("record", "start", "end", "bases", "windows")) for row in rows]
    assert where == [
        ("x", 0, 69, 64, 1),
        ("x", 69, 133, 64, 1),
        ("x", 133, 170, 37, 1),
        ("y", 0, 64, 64, 1),
    ]
    whole, _ = table(run, path)
    weighted = combine([probabilities(row) for row in rows[:3]], [64, 64, 37])
    assert probabilities(whole) == pytest.approx(weighted.tolist())
    assert np.ptp([probabilities(row) for row in rows], 0).max() > 0.1


@pytest.mark.parametrize("per", ["record", "window"])
def test_the_reverse_strand_gets_the_same_calls(
    per: Per, run: Path, tmp_path: Path, write_fasta: Write
) -> None:
    """To the last bit, wherever windows and N lie."""
    texts = {
        name: decode(np.random.default_rng(seed).integers(0, 5 if seed % 2 else 4, size))
        for seed, (name, size) in enumerate({"a": 300, "b": 250, "c": 64, "d": 31}.items())
    }
    other = {name: decode(reverse_complement(encode(text))) for name, text in texts.items()}
    here = table(run, write_fasta(tmp_path / "x.fa", texts), per=per)
    there = table(run, write_fasta(tmp_path / "y.fa", other), per=per)
    for rows in (here, there):
        assert rows == sorted(rows, key=lambda row: (row["record"], row["start"]))
    for row in there if per == "window" else ():
        size = len(texts[str(row["record"])])
        row["start"], row["end"] = size - int(row["end"]), size - int(row["start"])
    there.sort(key=lambda row: (row["record"], row["start"]))
    assert here == there
    assert len(here) >= 4


def test_below_the_threshold_a_call_is_unsure(tmp_path: Path, write_fasta: Write) -> None:
    path = write_fasta(tmp_path / "x.fa", {str(seed): drawn(64, seed) for seed in range(9)})
    known = table(fitted(tmp_path / "sure", 0.0), path)
    confidences = sorted(float(row["confidence"]) for row in known)
    rows = table(fitted(tmp_path / "half", confidences[4]), path)
    assert [row["species"] == "unsure" for row in rows] == [
        float(row["confidence"]) < confidences[4] for row in known
    ]
    assert sum(row["species"] == "unsure" for row in rows) == 4
    assert [probabilities(row) for row in rows] == [probabilities(row) for row in known]


def test_without_a_threshold_every_call_is_unsure(
    tmp_path: Path,
    write_fasta: Write,
    messages: list[str],
) -> None:
    path = write_fasta(tmp_path / "x.fa", {"a": drawn(64), "b": drawn(64, 1)})
    rows = table(fitted(tmp_path / "never", None), path)
    assert [row["species"] for row in rows] == ["unsure", "unsure"]
    assert sum(probabilities(rows[0])) == pytest.approx(1)
    assert "no confidence made its calls right often enough" in " ".join(messages)


def test_records_that_are_too_short_are_told(
    run: Path, tmp_path: Path, messages: list[str]
) -> None:
    path = tmp_path / "x.fa"
    path.write_text(f">a\n{drawn(15)}\n>b\n{drawn(64)}\n>c\n>d\n{drawn(10)}{'N' * 50}\n")
    rows = table(run, path)
    short = [row for row in rows if row["record"] != "b"]
    assert [row["end"] for row in rows] == [15, 64, 0, 60]
    for row in short:
        assert (row["species"], row["bases"], row["windows"]) == ("unsure", 0, 0)
        assert {row["confidence"], *(row[f"p_{name}"] for name in CLASSES)} == {""}
    told = "3 records are too short to call, with fewer than 16 bases that are not N: a and others"
    assert messages.count(told) == 1
    assert [row["species"] for row in table(run, path, per="window")].count("unsure") == 3
    path.write_text(">a\nACGT\n")
    assert [row["species"] for row in table(run, path)] == ["unsure"]
    assert "1 record is too short to call" in messages[-1]


def test_shorter_windows_may_be_asked_for(run: Path, tmp_path: Path, write_fasta: Write) -> None:
    path = write_fasta(tmp_path / "x.fa", {"a": drawn(64)})
    (row,) = table(run, path, length=16)
    assert row["windows"] == 4
    with pytest.raises(UsageError, match=r"--length 65: .* was fitted on windows of up to 64 bas"):
        table(run, path, length=65)
    with pytest.raises(UsageError, match=r"tested on windows of 16 bases or more; give --length"):
        table(run, path, length=15)


def test_batches_hold_as_many_bases_as_they_may(
    run: Path, tmp_path: Path, write_fasta: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_fasta(tmp_path / "x.fa", {str(seed): drawn(130, seed) for seed in range(5)})
    alone = table(run, path)
    shapes: list[tuple[int, ...]] = []
    read = Classifier.probabilities

    def watched(self: Classifier, ids: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(ids.shape))
        return read(self, ids)

    monkeypatch.setattr(Classifier, "probabilities", watched)
    monkeypatch.setitem(BATCH_BASES, "cpu", 4 * LENGTH)
    for row, other in zip(table(run, path), alone, strict=True):
        assert probabilities(row) == pytest.approx(probabilities(other), rel=1e-5)
    assert shapes == [(4, 64), (4, 64), (2, 64)]


class Stdin:
    def __init__(self, text: bytes) -> None:
        self.buffer = io.BytesIO(text)


def test_a_stream_is_read_and_rows_come_as_they_are_made(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the last record comes after the rows of the batches before."""
    monkeypatch.setitem(BATCH_BASES, "cpu", 1)
    text = "".join(f">{seed}\n{drawn(64 + seed, seed)}\n" for seed in range(4))
    monkeypatch.setattr("sys.stdin", Stdin(gzip.compress(f"{text}>p\nACDEFGL\n".encode())))
    with pytest.raises(InputError, match=r"line 10 of stdin \(contig p\): 'E' is not a nucleotide"):
        print_table(*predict(run, Path("-"), device=CPU))
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.startswith("record\tstart\tend\tbases\twindows\tspecies\tconfidence\tp_human\t")
    assert [line.split("\t")[0] for line in lines] == ["0", "1", "2"]


def test_what_cannot_be_read_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.fa: no such file"):
        table(run, tmp_path / "none.fa")
    (tmp_path / "x.fa").write_text("\n")
    with pytest.raises(InputError, match="holds no FASTA record"):
        table(run, tmp_path / "x.fa")
    torch.manual_seed(0)
    language = LanguageModel(ModelConfig(d_model=8, n_layer=1, d_state=2))
    pretrained.save(language, tmp_path / "model", "A card\n")
    with pytest.raises(CheckpointError, match="a language model, and no classifier"):
        predict(tmp_path / "model", tmp_path / "x.fa", device=CPU)


def test_out_of_memory_is_told(
    run: Path, tmp_path: Path, write_fasta: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Classifier, ids: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(Classifier, "probabilities", fail)
    path = write_fasta(tmp_path / "x.fa", {"a": drawn(64)})
    with pytest.raises(DnamambaError, match="cpu is out of memory: free some of it"):
        table(run, path)


def test_precision(run: Path, tmp_path: Path, write_fasta: Write) -> None:
    path = write_fasta(tmp_path / "x.fa", {"a": drawn(64)})
    results = []
    precisions: tuple[Literal["auto", "fp32", "bf16"], ...] = ("auto", "fp32", "bf16")
    for precision in precisions:
        _, rows = predict(run, path, device=CPU, precision=precision)
        results.append(np.array(next(rows)[7:], float))
    assert np.array_equal(results[0], results[1])
    assert 0 < np.abs(results[2] - results[1]).max() < 0.05


@pytest.mark.gpu
def test_a_gpu_agrees(run: Path, tmp_path: Path, write_fasta: Write, cuda: torch.device) -> None:
    path = write_fasta(tmp_path / "x.fa", {"a": drawn(300), "b": drawn(64, 1)})
    wanted = [probabilities(row) for row in table(run, path)]
    _, rows = predict(run, path, device=cuda, precision="fp32")
    np.testing.assert_allclose(np.array([row[7:] for row in rows], float), wanted, rtol=1e-3)
