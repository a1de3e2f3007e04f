import random
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dnamamba import cli
from dnamamba.alphabet import encode
from dnamamba.data.genome import Genome
from dnamamba.data.region import Region
from dnamamba.data.variants import make_variant
from dnamamba.errors import DnamambaError
from dnamamba.inference.score import score
from dnamamba.models import pretrained
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.pipelines import score_ism_output
from tests.pipelines.runs import one_line, table

SUFFIXES = (".h5", ".bedgraph", ".png")
Saturate = Callable[..., Path]
Refused = Callable[..., str]


@pytest.fixture(scope="session")
def gapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two contigs, one with N in it and one of N."""
    rng = random.Random(1)
    path = tmp_path_factory.mktemp("ism") / "gapped.fa"
    first = "".join(rng.choices("ACGTacgt", k=100)) + "NNN" + "".join(rng.choices("ACGT", k=50))
    path.write_text(f">chr1\n{first}\n>a/b\n{'N' * 30}\n")
    return path


@pytest.fixture
def saturate(gapped: Path, backbone: Path, tmp_path: Path) -> Saturate:
    """Saturate a region into a file, and what stands beside it."""
    pytest.importorskip("matplotlib")

    def run(*more: str | Path, ism: str = "chr1:96-107", name: str = "x.h5", code: int = 0) -> Path:
        output = tmp_path / name
        call = ["score", gapped, "--ism", ism, "-m", backbone, "--context", "64", "-o", output]
        assert cli.run(list(map(str, [*call, "--device", "cpu", "-t", "1", *more]))) == code
        return output

    return run


@pytest.fixture
def refused(
    saturate: Saturate,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Refused:
    """Saturate with a fault, which leaves nothing and is told before a model is read."""

    def faulty(*more: str | Path, code: int = 1, **named: str) -> str:
        monkeypatch.setattr(pretrained, "load", None)
        before = sorted(tmp_path.iterdir())
        saturate(*more, code=code, **named)
        assert sorted(tmp_path.iterdir()) == before
        return one_line(capsys)

    return faulty


def masked(folder: Path, **options: object) -> Path:
    torch.manual_seed(0)
    config = ModelConfig(d_model=16, n_layer=2, objective="masked", bidirectional=True, **options)  # type: ignore[arg-type]
    pretrained.save(LanguageModel(config), folder, "")
    return folder


def test_the_array_is_that_of_the_variants_one_by_one(
    saturate: Saturate, gapped: Path, backbone: Path
) -> None:
    genome, model = Genome(gapped), pretrained.load(backbone)
    letters = genome.sequence("chr1:96-107").upper()
    assert letters[5:8] == "NNN"
    with h5py.File(saturate()) as file:
        names = ("llr", "llr_forward", "llr_reverse")
        mean, forward, reverse = (file[name][:] for name in names)
        assert file["reference"].dtype == "S1"
        assert b"".join(file["reference"][:]).decode() == letters
    assert mean.shape == (12, 4)
    assert mean.dtype == forward.dtype == reverse.dtype == np.float32
    for place, ref in enumerate(letters):
        for code, alt in enumerate("ACGT"):
            found = mean[place, code], forward[place, code], reverse[place, code]
            if ref in ("N", alt):
                assert np.isnan(found).all()
                continue
            variant = make_variant("chr1", 95 + place, *(encode(x).tobytes() for x in (ref, alt)))
            assert variant
            here, there = score(model, genome, [variant], context=64)[0]
            np.testing.assert_allclose(found, ((here + there) / 2, here, there), atol=1e-5)


def test_info_describes_an_array(saturate: Saturate, capsys: pytest.CaptureFixture[str]) -> None:
    path = saturate()
    capsys.readouterr()
    assert cli.run(["info", str(path)]) == 0
    told = {row["key"]: row["value"] for row in table(capsys.readouterr().out)}
    assert (told["kind"], told["region"]) == ("saturation mutagenesis", "chr1:96-107")
    assert (told["bases"], told["substitutions"]) == ("12", "27")
    with h5py.File(path) as file:
        assert float(told["llr_lowest"]) == pytest.approx(np.nanmin(file["llr"][:]), abs=1e-4)
        assert told["context"] == str(file.attrs["context"])
    path.write_bytes(path.read_bytes()[:-100])
    assert cli.run(["info", str(path)]) == 1
    assert "damaged, or no embeddings" in one_line(capsys)


def test_the_array_says_how_it_was_made(saturate: Saturate, gapped: Path) -> None:
    with h5py.File(saturate()) as file:
        about = dict(file.attrs)
    assert about.pop("description").startswith("llr (bases, 4): natural logarithm of p(genome")
    assert len(about.pop("genome_sha256")) == 64
    assert about == {
        "contig": "chr1",
        "start": 95,
        "end": 107,
        "genome": "gapped.fa",
        "version": "0.1.0",
        "model": "small",
        "context": 64,
        "horizon": "all",
        "strands": "both",
        "precision": "fp32",
    }


def test_a_track_has_minus_the_mean(saturate: Saturate) -> None:
    output = saturate()
    with h5py.File(output) as file:
        mean = file["llr"][:]
    comment, header, *lines = output.with_suffix(".bedgraph").read_text().splitlines()
    assert comment.startswith("# version 0.1.0; model small; context 64; horizon all; strands both")
    assert header == (
        'track type=bedGraph name="ISM chr1:96-107" description="minus the mean log-likelihood '
        'ratio of the three substitutions, in nats"'
    )
    rows = [line.split("\t") for line in lines]
    known = [at for at in range(95, 107) if not 100 <= at < 103]
    assert [row[:3] for row in rows] == [["chr1", str(at), str(at + 1)] for at in known]
    wanted = [-np.nanmean(mean[at - 95]) for at in known]
    np.testing.assert_allclose([float(row[3]) for row in rows], wanted, rtol=1e-4)


def test_a_logo_is_drawn(saturate: Saturate, capsys: pytest.CaptureFixture[str]) -> None:
    output = saturate()
    picture = output.with_suffix(".png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 5000
    err = capsys.readouterr().err
    assert "chr1:96-107: 12 bases, 27 substitutions, none of 3 N\n" in err
    assert "variants a second, with small" in err
    written = ", ".join(str(output.with_suffix(suffix)) for suffix in SUFFIXES)
    assert f"written: {written}\n" in err


def test_the_same_job_gives_the_same_bytes(saturate: Saturate) -> None:
    one, other = saturate(), saturate(name="y.h5")
    for suffix in SUFFIXES:
        first, second = (path.with_suffix(suffix).read_bytes() for path in (one, other))
        assert first == second


def test_one_strand_alone(saturate: Saturate) -> None:
    with h5py.File(saturate("--strands", "forward")) as file:
        assert file.attrs["strands"] == "forward"
        assert np.isnan(file["llr_reverse"][:]).all()
        np.testing.assert_array_equal(file["llr"][:], file["llr_forward"][:])


def test_a_horizon_is_held_against_the_whole_window(
    saturate: Saturate, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(saturate("--horizon", "5")) as file:
        assert file.attrs["horizon"] == 5
        error = file.attrs["horizon_error"]
    assert error.startswith("horizon 5 against 27 variants read to the window's end: median")
    assert "largest 0," not in error
    assert error in capsys.readouterr().err
    with h5py.File(saturate("--horizon", "1000", name="far.h5")) as file:
        assert "median difference 0 nats, largest 0, Pearson" in file.attrs["horizon_error"]


@pytest.mark.parametrize(
    ("options", "more", "readings"),
    [
        ({}, (), 18),
        ({}, ("--strands", "forward"), 9),
        ({"symmetry": "shared"}, (), 9),
    ],
    ids=["both strands", "one strand", "symmetric"],
)
def test_a_masked_model(
    saturate: Saturate,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, object],
    more: tuple[str, ...],
    readings: int,
) -> None:
    output = saturate("-m", masked(tmp_path / "masked", **options), *more)
    assert f"3 N, {readings} readings of a window with one base masked\n" in capsys.readouterr().err
    with h5py.File(output) as file:
        assert np.isfinite(file["llr"][:]).sum() == 27
        assert not {"horizon", "flank"} & set(file.attrs)


def test_the_default_output(
    saturate: Saturate, gapped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    backbone: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    call = ["score", gapped, "--ism", "chr1:1-2", "-m", backbone, "--context", "64", "-t", "1"]
    assert cli.run(list(map(str, call))) == 0
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == ["ism-chr1_1-2.bedgraph", "ism-chr1_1-2.h5", "ism-chr1_1-2.png"]
    assert cli.run(list(map(str, call))) == 2


def test_a_contig_with_a_slash_has_a_plain_name() -> None:
    region = Region("HLA*01/a b", 0, 5)
    assert score_ism_output.default_output(region) == Path("runs/ism-HLA_01_a_b_1-5.h5")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_output_that_is_there_is_refused(refused: Refused, tmp_path: Path, suffix: str) -> None:
    there = tmp_path / f"x{suffix}"
    there.write_text("precious")
    assert f"x{suffix}: exists; --force replaces it" in refused(code=2)
    assert there.read_text() == "precious"


def test_force_replaces_all_three(saturate: Saturate, tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        (tmp_path / f"x{suffix}").write_text("old")
    saturate("--force")
    assert all((tmp_path / f"x{suffix}").stat().st_size > 100 for suffix in SUFFIXES)


def test_a_fault_leaves_what_was_there(
    saturate: Saturate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object) -> None:
        raise DnamambaError("disk full")

    monkeypatch.setattr(score_ism_output, "plot_ism", fault)
    saturate(code=1)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x.h5").write_text("old")
    saturate("--force", code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]
    assert (tmp_path / "x.h5").read_text() == "old"


def test_without_matplotlib_there_is_no_logo(
    saturate: Saturate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "x.png").write_text("of another job")
    monkeypatch.setattr(
        "dnamamba.evaluation.plots_ism.importlib.util.find_spec", lambda _name: None
    )
    saturate("--force")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bedgraph", "x.h5"]
    err = capsys.readouterr().err
    assert "no x.png: matplotlib is missing; pip install 'dnamamba[plot]'" in err
    assert "x.h5, " in err.splitlines()[-1]
    assert "x.png" not in err.splitlines()[-1]


def test_a_folder_that_cannot_be_written(
    saturate: Saturate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    saturate(name="file/x.h5", code=1)
    assert "file/x.h5: " in one_line(capsys)


@pytest.mark.parametrize(
    ("ism", "code", "message"),
    [
        ("chr1:96-154", 1, "chr1 of gapped.fa is 1-153"),
        ("1:5-9", 1, "`1` is not in gapped.fa; did you mean `chr1`?"),
        ("chr1:5-x", 1, "'5-x' is not a range"),
        ("chr1:101-103", 1, "chr1:101-103: has no base other than N to replace"),
        ("a/b", 1, "a/b:1-30: has no base other than N to replace"),
        ("chr1:5-9(-)", 2, "chr1:5-9(-): both strands are read"),
    ],
)
def test_regions_that_are_refused(refused: Refused, ism: str, code: int, message: str) -> None:
    assert message in refused(ism=ism, code=code)


@pytest.mark.parametrize(
    ("more", "name", "message"),
    [
        ((), "x.tsv", "x.tsv: --ism writes HDF5; name it .h5"),
        (("in.vcf",), "x.h5", "--ism: scores a region, and in.vcf is a VCF; leave out one"),
        (("--flank", "3"), "x.h5", "--flank: is for insertions and deletions"),
        (("--skip-mismatches",), "x.h5", "--skip-mismatches: is for a VCF"),
        (("--horizon", "some"), "x.h5", "--horizon some: give a number of bases"),
    ],
)
def test_wrong_usage_is_refused(
    refused: Refused, more: tuple[str, ...], name: str, message: str
) -> None:
    assert message in refused(*more, name=name, code=2)


def test_nothing_to_score_is_refused(
    gapped: Path, backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["score", str(gapped), "-m", str(backbone)]) == 2
    assert "VARIANTS: give a VCF; or --ism REGION, such as" in one_line(capsys)
