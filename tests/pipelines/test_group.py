import sys

import pytest
from click.testing import CliRunner

from dnamamba import cli
from dnamamba.pipelines.group import LazyGroup

LAZY = LazyGroup(
    "some",
    "dnamamba.pipelines",
    {"nosuchmodule": "Not there.", "index": "There."},
    context_settings={"help_option_names": ["-h", "--help"]},
)


def test_help_imports_no_command() -> None:
    result = CliRunner().invoke(LAZY, ["--help"])
    assert result.exit_code == 0
    assert "Not there." in result.output
    assert "dnamamba.pipelines.nosuchmodule" not in sys.modules


@pytest.mark.parametrize(("name", "code"), [("index", 0), ("other", 2)])
def test_a_command_is_found_by_its_name(name: str, code: int) -> None:
    assert CliRunner().invoke(LAZY, [name, "-h"]).exit_code == code


def test_benchmarks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["benchmark", "-h"]) == 0
    output = capsys.readouterr().out
    assert "index" in output
    assert "scan" in output
