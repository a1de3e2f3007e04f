"""What tests share: where real data lies, the bundled samples, and small FASTA files."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch

from dnamamba.log import logger

# Of several processes that test side by side, each keeps to a core of its own: threads that wait
# for one another in busy loops would take it from the others.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
if _WORKER and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_WORKER) % len(_cores)]})
    torch.set_num_threads(1)

# Without a GPU, Triton's kernels are tested in its interpreter, which this asks for before a kernel
# is defined.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

ROOT = Path(__file__).resolve().parent.parent


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name bytes by their number: those of gzip differ from one process to the next."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real genomes in {folder}")
    return folder


@pytest.fixture(scope="session")
def samples() -> Path:
    return ROOT / "data" / "samples"


@pytest.fixture
def write_fasta() -> Callable[..., Path]:
    def write(path: Path, records: Mapping[str, str], width: int = 60) -> Path:
        with path.open("w") as handle:
            for name, sequence in records.items():
                handle.write(f">{name}\n")
                for start in range(0, len(sequence), width):
                    handle.write(sequence[start : start + width] + "\n")
        return path

    return write


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What is logged, from details on; it grows as the test goes."""
    collector, level = _Collector(), logger.level
    logger.addHandler(collector)
    logger.setLevel(logging.DEBUG)
    yield collector.messages
    logger.removeHandler(collector)
    logger.setLevel(level)
