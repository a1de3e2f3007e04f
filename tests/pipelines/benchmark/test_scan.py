"""`dnamamba benchmark scan`."""

import pytest

from dnamamba import cli


def test_rows_have_times_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (
        "benchmark scan -q -t 1 --path chunked --path loop --length 64 --channels 8 --state 2"
    )
    assert cli.run(arguments.split()) == 0
    header, *rows = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert [row[:5] for row in rows] == [
        ["chunked", "1", "64", "8", "2"],
        ["loop", "1", "64", "8", "2"],
    ]
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        assert min(float(cells["forward_backward_s"]), float(cells["forward_s"])) > 0
        assert float(cells["peak_gib"]) > 0.05


def test_what_does_not_fit_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "benchmark scan -q -t 1 --path chunked --length 4000000 --memory 2"
    assert cli.run(arguments.split()) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("out of memory")
