import io
from collections.abc import Iterator

import pytest

from dnamamba.errors import InputError
from dnamamba.pipelines.table import Cell, print_table

COLUMNS = ("genome", "bases", "seconds")
ROWS: list[tuple[Cell, ...]] = [("a.fa", 5, 0.123456789), ("longer.fa", 12345, 2.0)]


def test_tsv_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, ROWS)
    out = capsys.readouterr().out
    assert out == "genome\tbases\tseconds\na.fa\t5\t0.123457\nlonger.fa\t12345\t2\n"


def test_a_pipe_gets_each_row_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    def rows() -> Iterator[tuple[Cell, ...]]:
        yield ROWS[0]
        assert "a.fa" in capsys.readouterr().out
        yield ROWS[1]

    print_table(COLUMNS, rows())


def test_nothing_is_printed_before_the_first_row(capsys: pytest.CaptureFixture[str]) -> None:
    def rows() -> Iterator[tuple[Cell, ...]]:
        raise InputError("x.fa: is empty")
        yield ROWS[0]

    with pytest.raises(InputError):
        print_table(COLUMNS, rows())
    assert capsys.readouterr().out == ""
    print_table(COLUMNS, [])
    assert capsys.readouterr().out == "genome\tbases\tseconds\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (
            ROWS,
            "genome     bases   seconds\na.fa           5  0.123457\nlonger.fa  12345         2\n",
        ),
        ([], "genome  bases  seconds\n"),
    ],
)
def test_aligned_on_a_terminal(
    rows: list[tuple[Cell, ...]], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    print_table(COLUMNS, rows)
    assert terminal.getvalue() == text
