"""What tests of data share: a cache of their own, and the messages that the program logs."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnamamba.log import logger


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, and none of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
