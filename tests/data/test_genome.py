import multiprocessing
import pickle
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from Bio import bgzf
from hypothesis import given, settings
from hypothesis import strategies as st

import dnamamba
from dnamamba.data.genome import Genome
from dnamamba.data.region import Region
from dnamamba.errors import InputError

GENOME = {"chr1 the first": "ACGTacgtNNRYacGTAC", "chr2": "TTTTTTTT", "chr3": ""}


@pytest.fixture
def fasta(tmp_path: Path, write_fasta: Callable[..., Path]) -> Path:
    (tmp_path / "genomes").mkdir()
    return write_fasta(tmp_path / "genomes" / "x.fa", GENOME, width=5)


def compress(fasta: Path) -> Path:
    path = fasta.with_name(f"{fasta.name}.gz")
    with bgzf.BgzfWriter(path, "wb") as out:
        out.write(fasta.read_bytes())
    return path


@pytest.fixture(params=["store", "plain", "bgzf"])
def genome(request: pytest.FixtureRequest, fasta: Path) -> Genome:
    if request.param == "store":
        return Genome(fasta)
    return Genome(compress(fasta) if request.param == "bgzf" else fasta, store=False)


def test_it_is_public() -> None:
    assert dnamamba.Genome is Genome


def test_regions_as_text_and_as_objects(genome: Genome) -> None:
    assert genome.contigs == ["chr1", "chr2", "chr3"]
    assert dict(genome.lengths) == {"chr1": 18, "chr2": 8, "chr3": 0}
    assert genome.sequence("chr1") == "ACGTacgtNNNNacGTAC"
    assert genome.sequence("chr1:4-6") == "Tac"
    assert genome.sequence(Region("chr1", 3, 6)) == "Tac"
    assert genome.sequence("chr1:4-6(-)") == "gtA"
    assert genome["chr1:4-6"].tolist() == [3, 8, 9]
    assert genome.fetch("chr1:4-6").dtype == np.uint8
    assert genome.sequence("chr3") == genome.sequence(Region("chr1", 7, 7)) == ""


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("1", r"`1` is not in x\.fa.*; did you mean `chr1`\?"),
        ("chr1:10-19", r"chr1 of x\.fa.* is 1-18"),
        (Region("chr1", 10, 19), r"chr1:11-19: chr1 of x\.fa.* ends at 18"),
        (Region("chr9", 10, 19), r"`chr9` is not in x\.fa"),
    ],
)
def test_what_is_not_there(genome: Genome, region: str | Region, message: str) -> None:
    with pytest.raises(InputError, match=message):
        genome.fetch(region)


def test_a_pickled_genome_reads_on(genome: Genome) -> None:
    assert pickle.loads(pickle.dumps(genome)).sequence("chr1:4-6") == "Tac"


letters = st.text("ACGTacgtNnRYK", max_size=70)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(letters, min_size=1, max_size=4).filter(any),
    st.integers(1, 30),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.sampled_from([11, 64, 65_280]),
    st.data(),
)
def test_store_and_random_access_agree(
    sequences: list[str], width: int, newline: str, last: bool, block: int, data: st.DataObject
) -> None:
    lines = []
    for i, sequence in enumerate(sequences):
        lines.append(f">{i} description")
        lines += [sequence[at : at + width] for at in range(0, len(sequence), width)]
    text = (newline.join(lines) + (newline if last else "")).encode()
    with tempfile.TemporaryDirectory() as folder:
        plain, compressed = Path(folder) / "x.fa", Path(folder) / "x.fa.gz"
        plain.write_bytes(text)
        with bgzf.BgzfWriter(compressed, "wb") as out:
            for at in range(0, len(text), block):
                out.write(text[at : at + block])
                out.flush()
        store = Genome(plain)
        indexed = [Genome(plain, store=False), Genome(compressed, store=False)]
        assert all(genome.lengths == store.lengths for genome in indexed)
        for _ in range(10):
            contig = data.draw(st.sampled_from(store.contigs))
            bounds = st.integers(0, store.lengths[contig])
            start, end = sorted((data.draw(bounds), data.draw(bounds)))
            region = Region(contig, start, end, data.draw(st.sampled_from("+-")))
            for genome in indexed:
                np.testing.assert_array_equal(genome.fetch(region), store.fetch(region))


_INHERITED: Genome | None = None


def _read_inherited(region: Region) -> bytes:
    assert _INHERITED is not None
    return _INHERITED.fetch(region).tobytes()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["plain", "bgzf", "store"])
def test_twelve_forked_workers_read_what_one_reads(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fasta = tmp_path / "x.fa"
    rng = np.random.default_rng(1)
    lines = rng.choice(np.frombuffer(b"ACGT", dtype=np.uint8), (50_000, 61))
    lines[:, -1] = ord("\n")
    fasta.write_bytes(b">a\n" + lines.tobytes())
    path = compress(fasta) if kind == "bgzf" else fasta
    genome = Genome(path, store=kind == "store")
    genome.fetch("a:1-1000")
    monkeypatch.setattr(f"{__name__}._INHERITED", genome)
    starts = rng.integers(0, 2_000_000, 48)
    regions = [Region("a", int(start), int(start) + 1_000_000) for start in starts]
    letters = lines[:, :-1].ravel()
    table = np.zeros(256, dtype=np.uint8)
    table[list(b"ACGT")] = range(4)
    with multiprocessing.get_context("fork").Pool(12) as pool:
        for region, read in zip(regions, pool.imap(_read_inherited, regions), strict=True):
            assert read == table[letters[region.start : region.end]].tobytes()


def test_threads_read_what_one_reads(genome: Genome) -> None:
    wrong: list[str] = []

    def work() -> None:
        for _ in range(50):
            if (read := genome.sequence("chr1:4-6")) != "Tac":
                wrong.append(read)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
