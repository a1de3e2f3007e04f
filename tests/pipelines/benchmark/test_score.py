"""`dnamamba benchmark score`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dnamamba import cli
from dnamamba.data.region import Region
from dnamamba.data.store import open_store
from dnamamba.data.variants import window_of
from dnamamba.errors import InputError
from dnamamba.models import pretrained
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.pipelines.benchmark.score import COLUMNS, draw, known_window
from tests.pipelines.runs import one_line, table


@pytest.fixture
def gapped(tmp_path: Path, write_fasta: Callable[..., Path]) -> Path:
    rng = np.random.default_rng(0)
    letters = "".join(rng.choice(list("ACGT"), 1000))
    return write_fasta(tmp_path / "g.fa", {"a": "ACGT" * 5, "b": "N" * 200 + letters})


def test_ways_are_measured_on_the_same_variants(
    gapped: Path, backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["benchmark", "score", gapped, "-m", backbone, "--contexts", "64,128", "-t", "1"]
    more = ["--variants", "30", "--sample", "5", "--horizon", "8", "--device", "cpu", "-q"]
    assert cli.run([*map(str, command), *more]) == 0
    out = capsys.readouterr().out
    assert tuple(out.splitlines()[0].split("\t")) == COLUMNS
    rows = table(out)
    assert [(row["way"], row["context"]) for row in rows] == [
        (way, context) for context in ("64", "128") for way in ("naive", "exact", "horizon")
    ]
    for row in rows:
        horizon, variants = ("8", "30") if row["way"] == "horizon" else ("", "5")
        assert (row["model"], row["horizon"], row["variants"]) == ("small", horizon, variants)
        rate = int(variants) / float(row["seconds"])
        assert float(row["per_second"]) == pytest.approx(rate, rel=1e-4)
        if row["way"] == "naive":
            assert float(row["ratio"]) == pytest.approx(1)
            assert float(row["largest_off"]) < 1e-4
        elif row["way"] == "exact":
            assert row["largest_off"] == ""
        else:
            assert 0 < float(row["median_off"]) < float(row["largest_off"])


def test_variants_lie_in_one_window(gapped: Path) -> None:
    store = open_store(gapped)
    region = known_window(store, 64)
    assert region == Region("b", 208, 272)
    variants = draw(store, region, 64, 40, seed=0)
    assert len(set(variants)) == len(variants) == 40
    for variant in variants:
        assert window_of(variant, store.lengths["b"], 64) == (region.start, region.end)
        (there,) = store.fetch(Region("b", variant.start, variant.end))
        assert variant.alt in {bytes([code]) for code in range(4)} - {bytes([there])}
    assert len(draw(store, region, 64, 10**6, seed=0)) == 3 * 32


def test_a_genome_of_n_has_no_window(gapped: Path) -> None:
    with pytest.raises(InputError, match="no 2,048 bases without N; give shorter --contexts"):
        known_window(open_store(gapped), 2048)


def test_what_cannot_be_measured_is_refused(
    gapped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    config = ModelConfig(d_model=16, n_layer=2, objective="masked")
    pretrained.save(LanguageModel(config), tmp_path / "masked", "")
    assert cli.run(["benchmark", "score", str(gapped), "-m", str(tmp_path / "masked")]) == 2
    assert "a masked model reads each window whole" in one_line(capsys)
    assert cli.run(["benchmark", "score", str(gapped), "-m", "x", "--preset", "1.4m"]) == 2
    assert "-m and --preset: give one of them" in one_line(capsys)


@pytest.mark.gpu
def test_rows_on_a_gpu(
    cuda: torch.device, gapped: Path, backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["benchmark", "score", str(gapped), "-m", str(backbone), "--contexts", "256", "-q"]
    assert cli.run([*command, "--device", "cuda", "--horizon", "8"]) == 0
    naive, _, _ = table(capsys.readouterr().out)
    assert float(naive["largest_off"]) < 1e-3
