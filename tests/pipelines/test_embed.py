from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from dnamamba import cli
from dnamamba.data.store import Store, open_store
from dnamamba.models import pretrained
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.pipelines.embed import PART
from tests.pipelines.runs import launch, read_h5ad

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
Embed = Callable[..., Path]
Refused = Callable[..., str]


@pytest.fixture(scope="session")
def store(genome: Path) -> Store:
    return open_store(genome)


@pytest.fixture(scope="session")
def both_ways(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = ModelConfig(d_model=16, n_layer=2, objective="masked", bidirectional=True)
    folder = tmp_path_factory.mktemp("models") / "both-ways"
    pretrained.save(LanguageModel(config), folder, "")
    return folder


@pytest.fixture
def refused(embed: Embed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Embed with a fault, which leaves nothing; return the last line on stderr."""

    def faulty(*arguments: str | Path, name: str = "out.h5ad", code: int = 2) -> str:
        embed(*arguments, name=name, code=code)
        assert not (tmp_path / name).exists()
        assert not (tmp_path / f"{name}.part").exists()
        return capsys.readouterr().err.splitlines()[-1]

    return faulty


@pytest.fixture
def bed(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "regions.bed"
        path.write_text(text)
        return path

    return write


def matrix(path: Path) -> NDArray[np.float32]:
    with h5py.File(path) as file:
        values: NDArray[np.float32] = file["X"][:]
    return values


def states(
    folder: Path, store: Store, contig: str, start: int, end: int, *, reverse: bool = False
) -> NDArray[np.float32]:
    """What a model makes of the known bases of a stretch, read by itself."""
    model = pretrained.load(folder)
    codes = store.codes(contig)[start:end] & 7
    ids = model.tokens(torch.from_numpy(codes[codes < 4].copy())[None])
    if reverse:
        ids = model.complement[ids.flip(1)]
    with torch.no_grad():
        found, _ = model.backbone(ids)
    values: NDArray[np.float32] = found[0].numpy()
    return values


def test_windows_lie_along_contigs(embed: Embed, backbone: Path, store: Store) -> None:
    found = read_h5ad(embed("--window", "1000"))
    assert found.shape == (12, 16)
    assert list(found.obs_names[[0, 6]]) == ["chr1:1-1000", "chr2:1-1000"]
    assert found.obs["chrom"].tolist() == ["chr1"] * 6 + ["chr2"] * 3 + ["chr3"] * 3
    for row in (0, 7):
        place = found.obs.iloc[row]
        wanted = states(backbone, store, place["chrom"], place["start"], place["end"])
        np.testing.assert_allclose(found.X[row], wanted.mean(0), **CLOSE)


def test_composition_is_of_known_bases(embed: Embed, store: Store) -> None:
    found = read_h5ad(embed("--window", "500", "--stride", "300", "--contigs", "chr2"))
    codes = store.codes("chr2") & 7
    for place in found.obs.itertuples():
        window = codes[place.start : place.end]
        known = window[window < 4]
        assert place.gc == pytest.approx(np.isin(known, (1, 2)).mean())
        assert place.n_fraction == pytest.approx(np.mean(window == 4))
    assert 0 < found.obs["n_fraction"].max() < 0.2


def test_contigs_are_embedded_whole(embed: Embed, backbone: Path, store: Store) -> None:
    found = read_h5ad(embed())
    assert found.obs_names.tolist() == ["chr1:1-6000", "chr2:1-3000", "chr3:1-3000"]
    np.testing.assert_allclose(
        found.X[1], states(backbone, store, "chr2", 0, 3000).mean(0), **CLOSE
    )


def test_regions_come_with_their_columns(
    embed: Embed, bed: Callable[[str], Path], backbone: Path, store: Store
) -> None:
    path = bed("chr2\t700\t900\tb\t7\t-\nchr1\t10\t60\ta\t5\t+\nchr1\t0\t60\ta\t2\t.\n")
    found = read_h5ad(embed("--bed", path))
    assert found.obs["name"].tolist() == ["b", "a", "a"]
    assert found.obs["strand"].tolist() == ["-", "+", "."]
    assert found.obs["score"].tolist() == [7, 5, 2]
    assert found.obs["start"].tolist() == [700, 10, 0]
    wanted = states(backbone, store, "chr2", 700, 900, reverse=True)
    np.testing.assert_allclose(found.X[0], wanted.mean(0), **CLOSE)


def test_windows_are_laid_around_regions_or_along_them(
    embed: Embed, bed: Callable[[str], Path]
) -> None:
    path = bed("chr1\t100\t200\tx\t0\t+\n")
    around = read_h5ad(embed("--bed", path, "--window", "20"))
    assert around.obs_names.tolist() == ["chr1:141-160"]
    assert around.obs["region"].tolist() == ["chr1:101-200"]
    along = read_h5ad(embed("--bed", path, "--window", "40", "--stride", "30", name="along.h5ad"))
    assert along.obs_names.tolist() == ["chr1:101-140", "chr1:131-170", "chr1:161-200"]
    assert along.obs["name"].tolist() == ["x"] * 3


def test_regions_of_chosen_contigs_are_embedded(embed: Embed, bed: Callable[[str], Path]) -> None:
    path = bed("chr2\t700\t900\nchrY\t1\t99999\nchr1\t10\t60\n")
    assert read_h5ad(embed("--bed", path, "--contigs", "chr2")).obs_names.tolist() == [
        "chr2:701-900"
    ]


def test_regions_without_a_base_want_a_window(
    embed: Embed, refused: Refused, bed: Callable[[str], Path]
) -> None:
    path = bed("chr2\t700\t900\nchr1\t10\t10\n")
    assert "1 regions have no base, the first in line 2: give --window" in refused("--bed", path)
    found = read_h5ad(embed("--bed", path, "--window", "10"))
    assert found.obs_names.tolist() == ["chr2:796-805", "chr1:6-15"]


def test_genes_of_an_annotation_are_embedded(embed: Embed, tmp_path: Path) -> None:
    path = tmp_path / "x.gtf"
    path.write_text(
        'chr1\tx\tgene\t101\t160\t.\t-\t.\tgene_id "g1"; gene_name "GENE";\n'
        'chr1\tx\ttranscript\t101\t160\t.\t-\t.\tgene_id "g1"; transcript_id "t1";\n'
    )
    gene = read_h5ad(embed("--gtf", path))
    assert gene.obs_names.tolist() == ["chr1:101-160(-)"]
    assert gene.obs["name"].tolist() == ["GENE"]
    start = read_h5ad(embed("--gtf", path, "--feature", "tss", "--window", "10", name="tss.h5ad"))
    assert start.obs_names.tolist() == ["chr1:155-164(-)"]


def test_flanks_are_read_and_not_pooled(
    embed: Embed, bed: Callable[[str], Path], backbone: Path, store: Store
) -> None:
    found = read_h5ad(embed("--bed", bed("chr1\t100\t150\nchr1\t20\t50\n"), "--context", "40"))
    codes = store.codes("chr1") & 7
    for row, (start, end, first) in enumerate([(100, 150, 60), (20, 50, 0)]):
        before, after = (int((codes[first:place] < 4).sum()) for place in (start, end))
        wanted = states(backbone, store, "chr1", first, end)[before:after].mean(0)
        np.testing.assert_allclose(found.X[row], wanted, **CLOSE)


@pytest.mark.parametrize("rc", ["average", "concat"])
def test_both_strands_are_read_h5ad(embed: Embed, backbone: Path, store: Store, rc: str) -> None:
    found = read_h5ad(embed("--window", "1000", "--rc", rc))
    here = states(backbone, store, "chr1", 0, 1000).mean(0)
    there = states(backbone, store, "chr1", 0, 1000, reverse=True).mean(0)
    wanted = (here + there) / 2 if rc == "average" else np.concatenate([here, there])
    np.testing.assert_allclose(found.X[0], wanted, **CLOSE)
    assert len(found.var_names) == len(wanted)


@pytest.mark.parametrize("rc", ["none", "average", "concat"])
@pytest.mark.parametrize("kind", ["causal", "both ways"])
def test_a_stream_has_seen_all_before(
    embed: Embed,
    backbone: Path,
    both_ways: Path,
    store: Store,
    kind: str,
    rc: str,
    bed: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dnamamba.inference.embed.BATCH_BASES", {"cpu": 700})
    model = backbone if kind == "causal" else both_ways
    path = bed(
        "chr1\t5000\t5400\ta\t0\t-\nchr1\t100\t900\tb\t0\t+\nchr3\t0\t3000\n".replace(
            "3000\n", "3000\tc\t0\t+\n"
        )
    )
    found = read_h5ad(embed("-m", model, "--stream", "--bed", path, "--rc", rc))
    codes = store.codes("chr1") & 7
    before, after = (int((codes[:place] < 4).sum()) for place in (100, 900))
    here = states(model, store, "chr1", 0, 6000)
    there = states(model, store, "chr1", 0, 6000, reverse=True)[::-1]
    one, other = here[before:after].mean(0), there[before:after].mean(0)
    wanted = {"none": one, "average": (one + other) / 2, "concat": np.concatenate([one, other])}
    np.testing.assert_allclose(found.X[1], wanted[rc], **CLOSE)
    before, after = (int((codes[:place] < 4).sum()) for place in (5000, 5400))
    one, other = there[before:after].mean(0), here[before:after].mean(0)
    wanted = {"none": one, "average": (one + other) / 2, "concat": np.concatenate([one, other])}
    np.testing.assert_allclose(found.X[0], wanted[rc], **CLOSE)


def test_the_first_streamed_window_is_the_plain_one(embed: Embed) -> None:
    plain, stream = (
        read_h5ad(embed("--window", "500")),
        read_h5ad(embed("--window", "500", "--stream", name="stream.h5ad")),
    )
    np.testing.assert_allclose(stream.X[0], plain.X[0], **CLOSE)
    assert np.abs(stream.X[1] - plain.X[1]).max() > 1e-3


@pytest.mark.parametrize("rc", ["none", "concat", "average"])
def test_each_base_is_kept(
    embed: Embed, bed: Callable[[str], Path], backbone: Path, store: Store, rc: str
) -> None:
    path = bed("chr2\t700\t900\tb\t7\t-\nchr1\t0\t600\ta\t5\t+\n")
    output = embed("--bed", path, "--pool", "none", "--rc", rc, name="out.h5")
    with h5py.File(output) as file:
        values, offsets = file["values"][:], file["offsets"][:]
        read_elem = pytest.importorskip("anndata").io.read_elem
        assert read_elem(file["obs"])["name"].tolist() == ["b", "a"]
    assert offsets.tolist() == [0, 200, 800]
    for row, (contig, start, end, minus) in enumerate(
        [("chr2", 700, 900, True), ("chr1", 0, 600, False)]
    ):
        kept = values[offsets[row] : offsets[row + 1]]
        known = (store.codes(contig)[start:end] & 7) < 4
        assert np.isnan(kept[~known]).all()
        one = states(backbone, store, contig, start, end, reverse=minus)
        other = states(backbone, store, contig, start, end, reverse=not minus)
        one, other = (one[::-1], other) if minus else (one, other[::-1])
        wanted = {"none": one, "average": (one + other) / 2, "concat": np.hstack([one, other])}
        np.testing.assert_allclose(kept[known], wanted[rc], **CLOSE)


def test_each_base_of_a_long_window_is_kept(
    embed: Embed, monkeypatch: pytest.MonkeyPatch, backbone: Path, store: Store
) -> None:
    monkeypatch.setattr("dnamamba.inference.embed.BATCH_BASES", {"cpu": 64})
    output = embed("--pool", "none", "--rc", "concat", "--contigs", "chr3", name="out.h5")
    with h5py.File(output) as file:
        values = file["values"][:]
    known = (store.codes("chr3") & 7) < 4
    wanted = np.hstack(
        [
            states(backbone, store, "chr3", 0, 3000),
            states(backbone, store, "chr3", 0, 3000, reverse=True)[::-1],
        ]
    )
    np.testing.assert_allclose(values[known], wanted, **CLOSE)
    assert np.isnan(values[~known]).all()


def test_a_window_of_n_is_nan(
    embed: Embed, tmp_path: Path, backbone: Path, write_fasta: Callable[..., Path]
) -> None:
    fasta = write_fasta(tmp_path / "gap.fa", {"c": "N" * 40 + "ACGT" * 10, "d": "N" * 40})
    for stream in ((), ("--stream",)):
        output = tmp_path / f"gap{len(stream)}.h5ad"
        call = ["embed", fasta, "-m", backbone, "-o", output, "--window", "40", *stream]
        assert cli.run(list(map(str, call))) == 0
        found = read_h5ad(output)
        assert np.isnan(found.X[[0, 2]]).all()
        assert not np.isnan(found.X[1]).any()
        assert found.obs["n_fraction"].tolist() == [1, 0, 1]
        assert np.isnan(found.obs["gc"].iloc[0])


def test_n_and_case_change_nothing(
    embed: Embed, tmp_path: Path, backbone: Path, write_fasta: Callable[..., Path]
) -> None:
    records = {"a": "ACGTTGCAAC", "b": "NNACGnTTGCNAACNN", "c": "acgttgCAAC"}
    fasta = write_fasta(tmp_path / "n.fa", records)
    call = ["embed", fasta, "-m", backbone, "-o", tmp_path / "n.h5ad"]
    assert cli.run(list(map(str, call))) == 0
    found = read_h5ad(tmp_path / "n.h5ad")
    np.testing.assert_allclose(found.X[1], found.X[0], **CLOSE)
    np.testing.assert_allclose(found.X[2], found.X[0], **CLOSE)


@pytest.mark.parametrize("name", ["out.parquet", "out.npz"])
def test_other_files_hold_the_same(embed: Embed, name: str) -> None:
    wanted = read_h5ad(embed("--window", "1000", "--dtype", "float16"))
    output = embed("--window", "1000", "--dtype", "float16", name=name)
    if name.endswith("npz"):
        with np.load(output) as found:
            np.testing.assert_array_equal(found["values"], wanted.X)
            assert found["chrom"].tolist() == wanted.obs["chrom"].tolist()
    else:
        pandas = pytest.importorskip("pandas")
        table = pandas.read_parquet(output)
        np.testing.assert_array_equal(table[[str(i) for i in range(16)]], wanted.X)


def test_a_file_says_how_it_was_made(embed: Embed, store: Store, backbone: Path) -> None:
    about = read_h5ad(embed("--window", "1000", "--layer", "mean:1-2", "--rc", "concat")).uns
    assert about["coordinates"] == "0-based, half-open, as in BED"
    assert about["genome_sha256"] == store.checksum
    assert about["layers"].tolist() == [1, 2]
    assert about["layers_averaged"]
    assert (about["pool"], about["rc"], about["window"]) == ("mean", "concat", 1000)
    assert about["model"] == backbone.name
    assert about["model_config"]["d_model"] == 16


def test_what_exists_is_kept(embed: Embed, capsys: pytest.CaptureFixture[str]) -> None:
    output = embed("--window", "1000")
    before = output.read_bytes()
    embed("--window", "2000", code=2)
    assert "exists; --force replaces it" in capsys.readouterr().err
    assert output.read_bytes() == before
    embed("--window", "1000", "--resume")
    assert "is finished; --force makes it anew" in capsys.readouterr().err
    embed("--window", "2000", "--resume", code=2)
    assert "is of another job" in capsys.readouterr().err
    assert output.read_bytes() == before
    embed("--window", "2000", "--force")
    assert output.read_bytes() != before


def test_a_full_disk_is_said(
    refused: Refused,
    embed: Embed,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dnamamba.pipelines.embed_job.take_space", full)
        output = embed("--window", "1000", code=1)
    assert not output.with_name(output.name + PART).exists()
    assert "disk full while writing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "nowhere"], "nowhere: no such folder"),
        (["--layer", "3"], "--layer 3: the model has 0 to 2"),
        (["--stride", "5"], "--stride: between windows"),
        (["--window", "5000"], "3 regions have no room for a window of 5,000 bases"),
        (["--pool", "none"], "one per base to .h5"),
        (["--context", "10", "--stream"], "--context: --stream reads all that comes before"),
        (["--bed", "x.bed", "--gtf", "y.gtf"], "--bed and --gtf: give one"),
        (["--bed", "x.bed"], "x.bed: no such file"),
        (["--contigs", "chrX"], "chrX"),
        (["--batch", "some"], "not a count"),
        (["--feature", "exon"], "--feature: is of an annotation, so give --gtf"),
    ],
)
def test_faults_are_said(refused: Refused, arguments: list[str], said: str) -> None:
    code = 1 if arguments[0] == "-m" or arguments == ["--bed", "x.bed"] else 2
    if said.startswith("3 regions"):
        said = "2 regions have no room for a window of 5,000 bases, the first at chr2:1-3000"
    assert said in refused(*arguments, code=code)


def test_a_bed_of_another_genome_is_refused_at_once(
    refused: Refused, bed: Callable[[str], Path]
) -> None:
    path = bed("chrom\tstart\tend\r\n1\t5\t9\r\nchr1\t0\t9000\r\nX\t1\t2\r\nX\t5\t9\r\n")
    said = refused("--bed", path, code=1)
    for what in (
        "`1` (1 line; did you mean `chr1`?)",
        "`X` (2 lines",
        "behind a contig's end",
    ):
        assert what in said


def test_the_ends_of_contigs_are_padded_on_demand(embed: Embed) -> None:
    found = read_h5ad(embed("--window", "4000", "--short", "pad"))
    assert found.obs_names.tolist() == [
        "chr1:1-4000",
        "chr1:4001-6000",
        "chr2:1-3000",
        "chr3:1-3000",
    ]
    skipped = read_h5ad(embed("--window", "4000", "--short", "skip", name="skipped.h5ad"))
    assert skipped.obs_names.tolist() == ["chr1:1-4000"]


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available(), reason="needs torch.distributed")
@pytest.mark.parametrize(
    "more", [("--window", "100", "--stride", "50"), ("--stream", "--window", "100")]
)
def test_processes_share_the_windows(
    embed: Embed, genome: Path, backbone: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    alone = embed("-t", "1", *more)
    together = tmp_path / "together.h5ad"
    call = ["embed", genome, "-m", backbone, "-o", together, "--device", "cpu", "-t", "1", *more]
    launch(2, "-m", "dnamamba", *call)
    assert together.read_bytes() == alone.read_bytes()
    launch(2, "-m", "dnamamba", *call, fails=True)


@pytest.mark.gpu
@pytest.mark.parametrize("more", [(), ("--stream",), ("--rc", "concat")])
def test_a_gpu_gives_the_same(embed: Embed, cuda: torch.device, more: tuple[str, ...]) -> None:
    arguments = ("--window", "500", "--stride", "200", *more)
    wanted = matrix(embed(*arguments))
    exact = ("--device", "cuda", "--precision", "fp32")
    found = matrix(embed(*arguments, *exact, name="gpu.h5ad"))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    rough = matrix(embed(*arguments, "--device", "cuda", name="bf16.h5ad"))
    assert np.abs(rough - wanted).mean() < 0.02 * wanted.std()
