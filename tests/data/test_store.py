import gzip
import hashlib
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.alphabet import BASE, N, decode, encode, reverse_complement
from dnamamba.data.region import Region
from dnamamba.data.store import Store, find_store, open_store
from dnamamba.errors import DnamambaError, InputError

GENOME = {"a some words": "NNACGTnnRyACGTN", "b": "", "c": "NNNN", "d": "acgtACGTAC"}
LENGTHS = {"a": 15, "b": 0, "c": 4, "d": 10}


@pytest.fixture
def fasta(tmp_path: Path, write_fasta: Callable[..., Path]) -> Path:
    (tmp_path / "genomes").mkdir()
    return write_fasta(tmp_path / "genomes" / "x.fa", GENOME, width=4)


def tokenised(messages: list[str]) -> int:
    return sum(message.startswith("tokenising x.fa into") for message in messages)


def test_a_store_holds_the_genome(fasta: Path) -> None:
    store = open_store(fasta)
    assert store.folder == fasta.with_name("x.fa.dnamamba")
    assert store.source == fasta
    assert store.lengths == LENGTHS
    assert list(store.lengths) == ["a", "b", "c", "d"]
    assert store.descriptions["a"] == "some words"
    assert store.checksum == hashlib.sha256(fasta.read_bytes()).hexdigest()
    assert store.size == fasta.stat().st_size
    assert store.soft_masked == 7
    assert store.n_total == 11
    for name, sequence in zip(LENGTHS, GENOME.values(), strict=True):
        np.testing.assert_array_equal(store.codes(name), encode(sequence))
    assert [file.name for file in fasta.parent.iterdir() if file != fasta] == ["x.fa.dnamamba"]


def test_gaps_are_runs_of_n_and_never_span_contigs(fasta: Path) -> None:
    store = open_store(fasta)
    assert store.gaps("a").tolist() == [[0, 2], [6, 10], [14, 15]]
    assert store.gaps("b").tolist() == []
    assert store.gaps("c").tolist() == [[0, 4]]
    assert store.gaps("d").shape == (0, 2)


def test_fetch_copies_and_reads_either_strand(fasta: Path) -> None:
    store = open_store(fasta)
    forward = store.fetch(Region("a", 2, 9))
    assert decode(forward) == "ACGTnnN"
    assert decode(store.fetch(Region("a", 2, 9, "-"))) == "NnnACGT"
    forward[:] = 0
    assert decode(store.fetch(Region("a", 2, 9))) == "ACGTnnN"


def test_views_cannot_be_written(fasta: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        open_store(fasta).codes("a")[0] = 1


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.codes("chrd"),
        lambda store: store.gaps("chrd"),
        lambda store: store.fetch(Region("chrd", 0, 1)),
        lambda store: store.n_count("chrd", 0, 1),
    ],
)
def test_an_unknown_contig(fasta: Path, call: Callable[[Store], object]) -> None:
    with pytest.raises(InputError, match=r"`chrd` is not in x\.fa; did you mean `d`\?"):
        call(open_store(fasta))


def test_a_region_behind_the_end(fasta: Path) -> None:
    with pytest.raises(InputError, match=r"d:1-11: d of x\.fa ends at 10"):
        open_store(fasta).fetch(Region("d", 0, 11))


sequences = st.lists(st.text("ACGTNNNRacn", max_size=60), min_size=1, max_size=4)


@settings(deadline=None, max_examples=40)
@given(sequences.filter(any), st.data())
def test_n_count_equals_counting(sequences: list[str], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fasta = Path(folder) / "x.fa"
        fasta.write_text("".join(f">{i}\n{text}\n" for i, text in enumerate(sequences)))
        store = open_store(fasta)
        for i, text in enumerate(sequences):
            cuts = data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=12))
            starts = np.minimum(cuts[:-1], cuts[1:]).reshape(1, -1)
            ends = np.maximum(cuts[:-1], cuts[1:]).reshape(1, -1)
            is_n = (store.codes(str(i)) & BASE) == N
            expected = [[is_n[a:b].sum() for a, b in zip(starts[0], ends[0], strict=True)]]
            counts = store.n_count(str(i), starts, ends)
            assert counts.dtype == np.int64
            assert counts.tolist() == expected
            assert sum(b - a for a, b in store.gaps(str(i)).tolist()) == is_n.sum()


def test_a_pickled_store_is_opened_by_its_path(fasta: Path) -> None:
    store = open_store(fasta)
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled).codes("d"), store.codes("d"))
    fasta.write_text(">d\nACGT\n")
    open_store(fasta)
    with pytest.raises(InputError, match="changed since the run began"):
        pickle.loads(pickled)


def test_it_is_built_once(fasta: Path, messages: list[str]) -> None:
    assert find_store(fasta) is None
    open_store(fasta)
    assert tokenised(messages) == 1
    open_store(fasta)
    assert find_store(fasta) is not None
    assert tokenised(messages) == 1
    open_store(fasta, rebuild=True)
    assert tokenised(messages) == 2


@pytest.mark.parametrize("change", ["content", "time", "codes", "manifest", "format"])
def test_a_stale_or_damaged_store_is_built_again(
    fasta: Path, change: str, messages: list[str]
) -> None:
    store = open_store(fasta)
    manifest = store.folder / "manifest.json"
    if change == "content":
        fasta.write_text(">d\nTTTT\n")
    elif change == "time":
        os.utime(fasta, ns=(0, store.mtime_ns + 1))
    elif change == "codes":
        (store.folder / "codes").write_bytes(b"\0")
    elif change == "manifest":
        manifest.write_bytes(manifest.read_bytes()[:-20])
    else:
        manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 0'))
    expected = "TTTT" if change == "content" else "acgtACGTAC"
    assert decode(open_store(fasta).codes("d")) == expected
    assert f"the store of {fasta} is out of date: building it again" in messages
    assert tokenised(messages) == 2


def test_a_symlink_shares_its_target_store(fasta: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.fa"
    link.symlink_to(fasta)
    assert open_store(link).folder == open_store(fasta).folder


def test_genome_and_store_move_together(fasta: Path, tmp_path: Path) -> None:
    open_store(fasta)
    moved = fasta.parent.rename(tmp_path / "moved") / fasta.name
    store = find_store(moved)
    assert store is not None
    assert store.source == moved


def test_a_read_only_folder_sends_the_store_to_the_cache(
    fasta: Path, cache: Path, messages: list[str]
) -> None:
    fasta.parent.chmod(0o555)
    try:
        store = open_store(fasta)
        assert store.folder.parent == cache / "dnamamba"
        assert store.source == fasta
        assert decode(store.codes("d")) == "acgtACGTAC"
        assert open_store(fasta).folder == store.folder
        assert tokenised(messages) == 1
        assert not any(file.suffix == ".lock" for file in (cache / "dnamamba").iterdir())
    finally:
        fasta.parent.chmod(0o755)


def test_no_place_for_a_store(fasta: Path, cache: Path) -> None:
    fasta.parent.chmod(0o555)
    cache.write_text("a file where the cache should be")
    try:
        with pytest.raises(DnamambaError, match="point XDG_CACHE_HOME to a folder that can"):
            open_store(fasta)
    finally:
        fasta.parent.chmod(0o755)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b">a\nACGT\nMKLV\n", r"line 3 of x\.fa \(contig a\): 'L' is not a nucleotide code"),
        (gzip.compress(b">a\n" + b"ACGT" * 999)[:-9], r"truncated gzip: x\.fa"),
        (b">a\n>b\n", r"x\.fa: its 2 records hold no bases"),
    ],
)
def test_bad_input_leaves_nothing(content: bytes, message: str, tmp_path: Path) -> None:
    fasta = tmp_path / "x.fa"
    fasta.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_store(fasta)
    assert list(tmp_path.iterdir()) == [fasta]


def test_what_is_no_file(tmp_path: Path) -> None:
    for name, message in [("nosuch.fa", "no such file"), (".", "is a folder"), ("-", "stdin")]:
        path = Path("-") if name == "-" else tmp_path / name
        with pytest.raises(InputError, match=message):
            open_store(path)


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no genome's store; dnamamba index builds one"):
        Store(tmp_path)


def test_a_file_that_cannot_grow_leaves_nothing(tmp_path: Path) -> None:
    fasta = tmp_path / "x.fa"
    fasta.write_bytes(b">a\n" + b"ACGT" * 500_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(DnamambaError) as caught:
            open_store(fasta)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(fasta.with_name("x.fa.dnamamba")) in str(caught.value)
    assert list(tmp_path.iterdir()) == [fasta]


def test_what_a_killed_build_left_is_never_opened_and_goes(fasta: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(fasta)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    left = {file.name for file in fasta.parent.iterdir()}
    assert len(left) == 3, "the genome, the lock, half a store"
    assert find_store(fasta) is None
    assert decode(open_store(fasta).codes("d")) == "acgtACGTAC"
    assert {file.name for file in fasta.parent.iterdir()} == {"x.fa", "x.fa.dnamamba"}


KILLED = """
import os, signal, sys
from pathlib import Path
from dnamamba.data import store, tokenise
parse_fasta = tokenise.parse_fasta
def killed_on_the_way(blocks, source):
    for item in parse_fasta(blocks, source):
        yield item
        if isinstance(item, bytes):
            os.kill(os.getpid(), signal.SIGKILL)
tokenise.parse_fasta = killed_on_the_way
store.open_store(Path(sys.argv[1]))
"""


def test_empty_records_are_told(fasta: Path, messages: list[str]) -> None:
    open_store(fasta)
    assert "x.fa: no bases in b" in messages


OPEN = """
import sys, time
from pathlib import Path
from dnamamba import log
from dnamamba.data.store import open_store
log.configure(0)
print("ready", flush=True)
sys.stdin.read()
store = open_store(Path(sys.argv[1]))
print(store.checksum, int(store.codes("a").sum()))
"""


def test_many_processes_build_it_once(tmp_path: Path) -> None:
    fasta = tmp_path / "x.fa"
    fasta.write_bytes(b">a\n" + b"ACGTACGT\n" * 1_000_000)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, str(fasta)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(5)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    outputs = [process.communicate() for process in processes]
    checksum = hashlib.sha256(fasta.read_bytes()).hexdigest()
    assert [out for out, _ in outputs] == [f"{checksum} {6 * 2_000_000}\n"] * 5
    assert "".join(err for _, err in outputs).count("tokenising") == 1
    assert {file.name for file in tmp_path.iterdir()} == {"x.fa", "x.fa.dnamamba"}


PEAK = """
import resource, sys
from pathlib import Path
from dnamamba.data.store import open_store
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
open_store(Path(sys.argv[1]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
def test_memory_does_not_grow_with_a_contig_without_line_breaks(tmp_path: Path) -> None:
    fasta = tmp_path / "x.fa"
    fasta.write_bytes(b">a\n" + b"ACGTTACC" * 8_000_000)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(fasta)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 32_000_000


@pytest.mark.real
def test_human_chromosome_20(shared_data: Path) -> None:
    store = open_store(shared_data / "human_chr20_GRCh37.fa.gz")
    assert store.lengths == {"20": 63_025_520}
    assert store.n_total == 3_520_000
    assert store.gaps("20")[0].tolist() == [0, 60_000]
    assert store.n_count("20", [0, 59_999], [63_025_520, 60_001]).tolist() == [3_520_000, 1]


@pytest.mark.real
def test_soft_masked_and_bundled(shared_data: Path, samples: Path) -> None:
    name = "hg38_chr16_187k-397k.fa"
    plain, bundled = open_store(shared_data / name), open_store(samples / f"{name}.gz")
    contig = "chr16:186964-397118"
    np.testing.assert_array_equal(plain.codes(contig), bundled.codes(contig))
    assert bundled.soft_masked == 86_525
    reverse = bundled.fetch(Region(contig, 100, 200, "-"))
    np.testing.assert_array_equal(reverse, reverse_complement(bundled.codes(contig)[100:200]))
