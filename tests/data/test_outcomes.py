from pathlib import Path

import numpy as np
import pytest

from dnamamba.data.outcomes import Kind, Outcomes, read_outcomes, read_same_outcomes
from dnamamba.data.table import Table, read_table
from dnamamba.errors import InputError


def table(**columns: str) -> Table:
    """Return a table; the letters of each word are cells, `_` an empty one, commas part longer."""
    cells = {
        name: [cell.replace("_", "") for cell in (text.split(",") if "," in text else text)]
        for name, text in columns.items()
    }
    return Table("t.csv", cells, list(range(2, 2 + len(next(iter(cells.values()))))))


def test_classes_are_numbered_by_name() -> None:
    found = read_outcomes(table(label="baabcc"), ["label"])
    assert (found.kind, found.names) == ("classes", ("a", "b", "c"))
    assert found.values.tolist() == [1, 0, 0, 1, 2, 2]
    numbers = read_outcomes(table(label="10,9,10,9,2,2"), ["label"])
    assert (numbers.kind, numbers.names) == ("classes", ("2", "9", "10"))


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"label": "0101"}, "classes"),
        ({"label": "0.5,1,2,3"}, "values"),
        ({"label": ",".join(map(str, range(30)))}, "values"),
        ({"label": "1,a,1,a"}, "classes"),
        ({"one": "0101", "two": "1100"}, "labels"),
        ({"one": "0101", "two": "1,0.5,0,0"}, "values"),
        ({"one": "true,FALSE,1,0", "two": "1100"}, "labels"),
    ],
)
def test_the_kind_goes_by_the_cells(columns: dict[str, str], kind: Kind) -> None:
    assert read_outcomes(table(**columns), list(columns)).kind == kind


def test_values_and_labels_have_a_column_each() -> None:
    values = read_outcomes(table(one="1,2.5,-3e1", two="0,1,2"), ["two", "one"])
    assert values.names == ("two", "one")
    np.testing.assert_array_equal(values.values, [[0, 1], [1, 2.5], [2, -30]])
    assert values.values.dtype == np.float32
    labels = read_outcomes(table(one="0110", two="1100"), ["one", "two"])
    assert labels.values.tolist() == [[False, True], [True, True], [True, False], [False, False]]
    assert read_outcomes(table(one="0110"), ["one"], "labels").names == ("one",)
    assert read_outcomes(table(one="0110"), ["one"], "values").values.dtype == np.float32


@pytest.mark.parametrize(
    ("columns", "kind", "fault"),
    [
        ({"label": "a_a_"}, None, "lines 3, 5: the column `label` is empty"),
        ({"label": "aaa"}, None, "all rows have the same `label`, 'a': two classes or more"),
        ({"label": "aabbc"}, None, "line 6: a class with one example: c; two or more are wanted"),
        ({"label": "1" * 19 + "x"}, None, "line 21: 'x' is text, and other cells of `label`"),
        ({"label": "x" * 19 + "1"}, None, "line 21: '1' is a number, and other cells of `label`"),
        ({"a": "01", "b": "01"}, "classes", "classes stand in one column, and 2 were named: a, b"),
        ({"a": "0012", "b": "0101"}, "labels", "line 5: `a` is '2', and labels are 0 or 1"),
        ({"a": "0001", "b": "0101"}, "labels", "`a` is 1 in 1 rows; two or more of either"),
        ({"a": "1,2,x"}, "values", "line 4: `a` is 'x', which is no finite number"),
        ({"a": "1,2,nan"}, "values", "line 4: `a` is 'nan', which is no finite number"),
    ],
)
def test_faults_name_their_rows(columns: dict[str, str], kind: Kind | None, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        read_outcomes(table(**columns), list(columns), kind)


def test_missing_columns_and_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column `y`; the header is label"):
        read_outcomes(table(label="ab"), ["y"])
    path = tmp_path / "t.csv"
    path.write_text("label\n")
    with pytest.raises(InputError, match="a header, and no rows"):
        read_outcomes(read_table(path), ["label"])


def test_other_rows_are_read_as_the_first() -> None:
    classes = read_outcomes(table(label="aabbcc"), ["label"])
    assert read_same_outcomes(table(label="cb"), ["label"], classes).values.tolist() == [2, 1]
    with pytest.raises(InputError, match=r"line 3: d: no class of what was fitted on \(a, b, c\)"):
        read_same_outcomes(table(label="ad"), ["label"], classes)
    numbers = Outcomes("classes", ("0", "1"), np.array([0, 1]))
    assert read_same_outcomes(table(label="11"), ["label"], numbers).values.tolist() == [1, 1]
    values = read_outcomes(table(a="0.5,1"), ["a"])
    assert read_same_outcomes(table(a="12"), ["a"], values).values.tolist() == [[1], [2]]
    labels = read_outcomes(table(a="0011"), ["a"], "labels")
    assert read_same_outcomes(table(a="1"), ["a"], labels).values.tolist() == [[True]]
    for like in (classes, values, labels):
        with pytest.raises(InputError, match="line 3: the column `a` is empty"):
            read_same_outcomes(table(a="1_"), ["a"], like)
