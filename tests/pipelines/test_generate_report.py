"""`dnamamba generate --report`."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dnamamba import cli
from dnamamba.data.records import read_records
from dnamamba.data.store import open_store
from dnamamba.models import pretrained
from dnamamba.pipelines.generate_report import choose_real
from tests.pipelines.runs import one_line, table

Generate = Callable[..., Path]


@pytest.fixture
def genome(tmp_path: Path, write_fasta: Callable[..., Path]) -> Path:
    """Two contigs, of which one begins with N."""
    random = np.random.default_rng(0)
    bases = ["".join(random.choice(list("ACGTacgt"), 3000)) for _ in range(2)]
    return write_fasta(tmp_path / "genome.fa", {"one": bases[0], "two": "N" * 300 + bases[1]})


@pytest.fixture
def report(
    genome: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Generate:
    def run(*arguments: object, name: str = "report", code: int = 0) -> Path:
        call = ["generate", "-m", backbone, "--device", "cpu", "-t", "1", "--against", genome]
        folder = tmp_path / name
        assert cli.run(list(map(str, [*call, "--report", folder, *arguments]))) == code
        if not code:
            captured = capsys.readouterr()
            (tmp_path / "made.fa").write_text(captured.out)
            (tmp_path / "stderr").write_text(captured.err)
        return folder

    return run


def bits(folder: Path, sequences: list[np.ndarray], skipped: int = 0) -> float:
    """Bits per base of sequences under a model, each base after the ones before it."""
    model = pretrained.load(folder)
    sums = bases = 0.0
    for codes in sequences:
        ids = model.tokens(torch.from_numpy(codes.copy())[None])
        with torch.no_grad():
            likelihoods = model(ids).log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
        sums -= float(likelihoods[skipped:].sum())
        bases += len(likelihoods) - skipped
    return sums / bases / float(np.log(2))


def test_samples_are_scored_by_the_model(
    report: Generate, genome: Path, backbone: Path, tmp_path: Path
) -> None:
    folder = report("-n", "4", "--length", "200", "--temperature", "0.6", "--batch", "3")
    made, real = table((folder / "samples.tsv").read_text())
    sequences = [record.codes for record in read_records(tmp_path / "made.fa")]
    assert (made["sample"], made["sequences"], made["bases"]) == ("made", "4", str(4 * 199))
    assert float(made["bits_per_base"]) == pytest.approx(bits(backbone, sequences), rel=1e-4)
    assert float(made["perplexity"]) == pytest.approx(2 ** float(made["bits_per_base"]), rel=1e-4)
    gc = np.isin(np.concatenate(sequences), (1, 2)).mean()
    assert float(made["gc"]) == pytest.approx(gc, rel=1e-4)
    windows, _ = choose_real(open_store(genome), 4, 200, 0)
    assert (real["sample"], real["bases"]) == ("real", str(4 * 199))
    codes = [windows[number].numpy() & 7 for number in range(4)]
    assert float(real["bits_per_base"]) == pytest.approx(bits(backbone, codes), rel=1e-4)
    assert float(real["gc"]) == pytest.approx(
        np.isin(np.concatenate(codes), (1, 2)).mean(), rel=1e-4
    )


def test_what_continues_a_prompt_is_scored_after_it(
    report: Generate, backbone: Path, tmp_path: Path, write_fasta: Callable[..., Path]
) -> None:
    prompt = write_fasta(tmp_path / "p.fa", {"a": "ACGTTGCA" * 5})
    folder = report("--prompt", prompt, "-n", "2", "--length", "50", "--with-prompt")
    made, _ = table((folder / "samples.tsv").read_text())
    sequences = [record.codes for record in read_records(tmp_path / "made.fa")]
    assert made["bases"] == "100"
    wanted = bits(backbone, sequences, skipped=39)
    assert float(made["bits_per_base"]) == pytest.approx(wanted, rel=1e-4)


def test_divergences_and_a_record_are_left(report: Generate, genome: Path, tmp_path: Path) -> None:
    folder = report("-n", "2", "--length", "500")
    rows = table((folder / "divergences.tsv").read_text())
    assert [row["k"] for row in rows] == [str(k) for k in range(1, 9)]
    for row in rows:
        assert all(0 <= float(row[name]) <= 1 for name in ("made", "real", "independent"))
    assert float(rows[7]["made"]) > float(rows[1]["made"])
    said = (tmp_path / "stderr").read_text()
    for name in ("samples.tsv", "divergences.tsv"):
        for line in (folder / name).read_text().splitlines():
            assert line.split() in [shown.split() for shown in said.splitlines()]
    record = json.loads((folder / "run.json").read_text())
    assert (record["verb"], record["config"]["sequences"]) == ("generate", 2)
    assert record["inputs"][0]["path"] == str(genome)
    assert (folder / "spectrum.png").exists() == bool(importlib.util.find_spec("matplotlib"))


def test_real_samples_do_not_overlap(genome: Path) -> None:
    store = open_store(genome)
    one, other = choose_real(store, 7, 200, 3)
    places = [(each.region.contig, each.region.start) for each in (*one.windows, *other.windows)]
    assert len(one.windows) == len(other.windows) == 7
    assert len(set(places)) == 14
    for windows in (one, other):
        assert all((windows[number] & 7).max() < 4 for number in range(7))
    again, _ = choose_real(store, 7, 200, 3)
    assert again.windows == one.windows
    assert choose_real(store, 7, 200, 4)[0].windows != one.windows


def test_too_little_real_dna_is_refused(
    report: Generate, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = report("-n", "9", "--length", "500", code=2)
    said = one_line(capsys)
    assert "genome.fa: has 11 windows of 500 bases without N, and two samples of 9" in said
    assert not folder.exists()


def test_short_sequences_are_refused(report: Generate, capsys: pytest.CaptureFixture[str]) -> None:
    report("--length", "7", code=2)
    assert "--report: counts 8-mers; give --length 8 or more" in one_line(capsys)


def test_a_folder_that_holds_something_is_kept(
    report: Generate, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (report("--length", "100") / "samples.tsv").read_bytes()
    folder = report("--length", "100", "--seed", "1", code=2)
    assert "exists; remove it, or choose another --report" in one_line(capsys)
    assert (folder / "samples.tsv").read_bytes() == before


def test_a_greedy_model_is_compared_too(report: Generate) -> None:
    folder = report("--length", "300", "--temperature", "0")
    assert (folder / "divergences.tsv").exists()
