import subprocess
import sys

import click
import pytest

from dnamamba import __version__, cli
from dnamamba.errors import InputError, UsageError


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("-h", "--help"):
        assert cli.run([flag]) == 0
        out = capsys.readouterr().out
        for verb, line in cli.VERBS.items():
            assert verb in out
            assert line.split()[0] in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["-V"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nosuch"], "No such command 'nosuch'"), (["--nosuch"], "No such option")],
)
def test_wrong_usage_is_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("x.fa: is empty"), 1, "dnamamba: error: x.fa: is empty\n"),
        (UsageError("choose one"), 2, "dnamamba: error: choose one\n"),
        (click.UsageError("choose one"), 2, "Error: choose one\n"),
        (KeyboardInterrupt(), 130, "dnamamba: error: interrupted\n"),
        (click.exceptions.Abort(), 130, "dnamamba: error: interrupted\n"),
        (FileNotFoundError(2, "No such file", "x.fa"), 1, "dnamamba: error: x.fa: no such file\n"),
        (OSError(28, "No space left"), 1, "dnamamba: error: disk full while writing the output"),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(cli.program, "get_command", lambda _context, _name: failing)
    assert cli.run(["index"]) == code
    assert message in capsys.readouterr().err


def test_every_verb_is_a_command_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in cli.VERBS:
        assert cli.run([verb, "-h"]) == 0
        assert f"Usage: dnamamba {verb}" in capsys.readouterr().out


def test_python_m_dnamamba() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dnamamba", "index", "nosuch.fa"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "dnamamba: error: nosuch.fa: no such file\n"


@pytest.mark.parametrize("arguments", [["--help"], ["-V"], ["benchmark", "--help"]])
def test_help_imports_neither_torch_nor_numpy(arguments: list[str]) -> None:
    code = (
        "import sys; from dnamamba.cli import run; run(sys.argv[1:]); "
        "print(sorted({'torch', 'numpy', 'pyfaidx', 'sklearn'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    pipe = f"{sys.executable} -m dnamamba --help | head -c 1"
    done = subprocess.run(["sh", "-c", pipe], capture_output=True, text=True)
    assert done.stdout == "U"
    assert "Traceback" not in done.stderr
