"""Measurements in processes of their own."""

import os
import time

import pytest

from dnamamba.errors import DnamambaError
from dnamamba.pipelines.benchmark.process import alone, limit_memory


def fail() -> None:
    raise ValueError("first line\nsecond line")


def die() -> None:
    os._exit(9)


def fill_memory() -> int:
    limit_memory(0.5)
    return len(bytearray(1 << 30))


def test_returns_what_the_function_returns_from_another_process() -> None:
    assert alone(os.getpid) != os.getpid()


def test_an_error_comes_back_as_one_line() -> None:
    with pytest.raises(DnamambaError, match=r"^first line$"):
        alone(fail)


def test_a_process_that_takes_too_long_is_ended() -> None:
    with pytest.raises(DnamambaError, match=r"^timeout$"):
        alone(time.sleep, 60, timeout=1)


def test_memory_that_runs_out_is_said() -> None:
    with pytest.raises(DnamambaError, match=r"^out of memory$"):
        alone(fill_memory)


def test_a_process_that_dies_is_said() -> None:
    with pytest.raises(DnamambaError, match=r"ended by the system"):
        alone(die)
