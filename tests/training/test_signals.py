"""Signals are remembered, and break off only what says that it may be."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dnamamba.training.signals import Interruption, stop_on_signal

NUMBERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@pytest.mark.parametrize("number", NUMBERS)
def test_signals_ask_for_an_end_and_are_handed_back(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in NUMBERS]
    with stop_on_signal() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), number)
        assert stop.signal == number
    assert before == [signal.getsignal(each) for each in NUMBERS]


def test_a_second_sigint_interrupts_at_once() -> None:
    with stop_on_signal():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", NUMBERS)
def test_what_may_be_broken_off_is_and_nothing_after_it(number: signal.Signals) -> None:
    with stop_on_signal() as stop:
        with pytest.raises(Interruption), stop.breaks_off():
            os.kill(os.getpid(), number)
        assert stop.signal == number
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interruption), stop.breaks_off():
            pytest.fail("a signal had arrived before")


def test_a_forked_reader_dies_of_sigterm_and_outlives_the_others(tmp_path: Path) -> None:
    script = tmp_path / "fork.py"
    script.write_text(
        "import os, signal, time\n"
        "from dnamamba.training.signals import stop_on_signal\n"
        "with stop_on_signal() as stop:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        os.kill(os.getpid(), signal.SIGUSR1)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        os._exit(9)\n"
        "    print(os.waitpid(child, 0)[1], stop.signal)\n"
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["0", "None"]
