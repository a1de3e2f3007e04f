import gzip
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dnamamba.alphabet import ENCODE, Codes, encode, reverse_complement
from dnamamba.data.feeder import AHEAD, feed
from dnamamba.data.region import Region
from dnamamba.data.store import Store, open_store
from dnamamba.data.windows import Source, TrainingWindows
from dnamamba.errors import DnamambaError, InputError

LETTERS = "".join(np.random.default_rng(0).choice(list("ACGTacgtN"), 100_000))


@pytest.fixture
def store(tmp_path: Path, write_fasta: Callable[..., Path]) -> Store:
    return open_store(write_fasta(tmp_path / "genome.fa", {"a": LETTERS, "b": LETTERS[:30_000]}))


@pytest.fixture
def windows(store: Store) -> TrainingWindows:
    regions = (Region("a", 1000, 90_000), Region("b", 0, 30_000))
    return TrainingWindows([Source(store, regions)], 5000, seed=0)


def require_equal(
    windows: TrainingWindows, genome: dict[str, Codes], step: int, batch: torch.Tensor, first: int
) -> None:
    """Compare every byte with the genome as it was read without a store."""
    for index, codes in enumerate(batch, start=first):
        region = windows.window(step, index).region
        expected = genome[region.contig][region.start : region.end]
        if region.strand == "-":
            expected = reverse_complement(expected)
        assert np.array_equal(codes.numpy(), expected), (step, index, str(region))


def test_twelve_workers_read_every_byte_right(windows: TrainingWindows) -> None:
    genome = {"a": encode(LETTERS), "b": encode(LETTERS[:30_000])}
    batches = list(feed(windows, range(3, 40), 6, first=12, workers=12))
    assert len(batches) == 37
    for step, batch in enumerate(batches, start=3):
        assert batch.shape == (6, 5000)
        assert batch.dtype == torch.uint8
        require_equal(windows, genome, step, batch, 12)


@pytest.mark.slow
@pytest.mark.real
def test_twelve_workers_read_megabases_of_a_chromosome_right(shared_data: Path) -> None:
    path = shared_data / "human_chr20_GRCh37.fa.gz"
    text = gzip.decompress(path.read_bytes())
    letters = text[text.index(b"\n") + 1 :].replace(b"\n", b"")
    genome = {"20": ENCODE[np.frombuffer(letters, dtype=np.uint8)]}
    source = Source(open_store(path), (Region("20", 0, len(letters)),))
    windows = TrainingWindows([source], 1_000_000, seed=0)
    for step, batch in enumerate(feed(windows, range(60), 8, workers=12)):
        require_equal(windows, genome, step, batch, 0)


def test_workers_and_a_resume_change_nothing(windows: TrainingWindows) -> None:
    whole = list(feed(windows, range(6), 4))
    read_ahead = list(feed(windows, range(6), 4, workers=2))
    resumed = list(feed(windows, range(4, 6), 4, workers=1))
    first_half, second_half = (list(feed(windows, range(6), 2, first=first)) for first in (0, 2))
    assert all(map(torch.equal, whole, read_ahead))
    assert all(map(torch.equal, whole[4:], resumed))
    for batch, *halves in zip(whole, first_half, second_half, strict=True):
        assert torch.equal(batch, torch.cat(halves))


@pytest.mark.parametrize("workers", [0, 1])
def test_torch_s_random_state_is_left_alone(windows: TrainingWindows, workers: int) -> None:
    before = torch.get_rng_state()
    list(feed(windows, range(2), 2, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_no_steps_give_no_batches(windows: TrainingWindows) -> None:
    assert list(feed(windows, range(5, 5), 2)) == []


class Noting(TrainingWindows):
    """Windows that note which thread reads which, and may be held up."""

    def __init__(self, store: Store) -> None:
        super().__init__([Source(store, (Region("a", 0, 100_000),))], 100, seed=0)
        self.read: list[tuple[int, int]] = []
        self.threads: set[threading.Thread] = set()
        self.go_on = threading.Semaphore(0)

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        assert self.go_on.acquire(timeout=20)
        self.threads.add(threading.current_thread())
        self.read.append(key)
        return super().__getitem__(key)


def test_a_thread_reads_a_few_batches_ahead_and_ends_with_them(store: Store) -> None:
    windows = Noting(store)
    batches = feed(windows, range(20), 2)
    windows.go_on.release(100)
    next(batches)
    deadline = time.monotonic() + 20
    while len(windows.read) < 2 * (1 + AHEAD) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)  # for more to be read, were there no end
    assert windows.read == [(step, index) for step in range(1 + AHEAD) for index in range(2)]
    (reader,) = windows.threads
    assert reader is not threading.current_thread()
    batches.close()  # type: ignore[attr-defined]
    assert not reader.is_alive()


def test_whoever_stops_does_not_wait_for_what_was_to_be_read(store: Store) -> None:
    windows = Noting(store)
    batches = feed(windows, range(20), 1)
    windows.go_on.release(1)
    next(batches)
    threading.Timer(0.1, windows.go_on.release).start()  # for the one that is being read
    batches.close()  # type: ignore[attr-defined]
    assert len(windows.read) <= 2


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_for_a_gpu_are_pinned(
    windows: TrainingWindows, cuda: torch.device, workers: int
) -> None:
    plain = list(feed(windows, range(4), 3))
    pinned = list(feed(windows, range(4), 3, workers=workers, pin=True))
    assert all(batch.is_pinned() for batch in pinned)
    for one, other in zip(plain, pinned, strict=True):
        assert torch.equal(one, other.to(cuda, non_blocking=True).cpu())


class Dying(TrainingWindows):
    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        if key[0] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(key)


class Failing(TrainingWindows):
    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        raise InputError("genome.fa: changed since the run began; start again")


def test_a_worker_that_dies_is_told_in_a_line_where_its_batch_is_due(store: Store) -> None:
    windows = Dying([Source(store, (Region("a", 0, 100_000),))], 100, seed=0)
    before = signal.getsignal(signal.SIGCHLD)
    batches = feed(windows, range(20), 2, workers=1)
    assert len(next(batches)) == 2
    assert signal.getsignal(signal.SIGCHLD) is before
    time.sleep(0.5)  # it dies now, and nothing is raised here
    with pytest.raises(DnamambaError, match=r"^a process that reads windows died.*try fewer"):
        list(batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_keeps_its_line(store: Store, workers: int) -> None:
    windows = Failing([Source(store, (Region("a", 0, 100_000),))], 100, seed=0)
    with pytest.raises(InputError, match=r"^genome\.fa: changed since the run began; start again$"):
        list(feed(windows, range(20), 2, workers=workers))


@pytest.mark.slow
def test_spawned_processes_read_the_same(windows: TrainingWindows) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (read,) = pool.map(windows.__getitem__, [(3, 1)])
    assert torch.equal(read, windows[3, 1])
