import re
from pathlib import Path

import pytest

from dnamamba.data.examples import read_examples
from dnamamba.data.outcomes import read_outcomes
from dnamamba.data.tasks import COLLECTIONS, TASKS, TaskFiles, find_files, find_tasks, is_task_name
from dnamamba.errors import InputError, UsageError

ENHANCERS = "genomic-benchmarks/human_enhancers_ensembl"


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("sequence,label\n")


def test_the_catalogue() -> None:
    assert {name: len(tasks) for name, tasks in COLLECTIONS.items()} == {
        "genomic-benchmarks": 9,
        "nucleotide-transformer": 18,
    }
    assert len({task.short.lower() for task in TASKS}) == len(TASKS), "files of all fit one folder"
    for task in TASKS:
        assert re.fullmatch(r"[0-9a-f]{40}", task.revision or "0" * 40)
        assert task.name.startswith(tuple(COLLECTIONS))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([ENHANCERS, ENHANCERS.upper()], [ENHANCERS]),
        (["nucleotide-transformer/h3k4ME1"], ["nucleotide-transformer/H3K4me1"]),
        (
            ["nucleotide-transformer", "genomic-benchmarks"],
            [task.name for task in (*TASKS[9:], *TASKS[:9])],
        ),
        ([], []),
    ],
)
def test_find_tasks(names: list[str], found: list[str]) -> None:
    assert [task.name for task in find_tasks(names)] == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("genomic-benchmark/human_enhancer_ensembl", f"did you mean `{ENHANCERS}`?"),
        ("genomic-benchmark", "did you mean `genomic-benchmarks`?"),
        ("human_enhancers_ensembl", f"did you mean `{ENHANCERS}`?"),
        ("enhancers", "did you mean `nucleotide-transformer/enhancers`?"),
        ("qqq", "qqq: not in the catalogue; `dnamamba fetch` lists it"),
    ],
)
def test_a_name_that_is_unknown(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        find_tasks([ENHANCERS, name])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        (ENHANCERS, True),
        ("Genomic-Benchmark/nosuch", True),
        ("nucleotide-transformer", True),
        ("human_ocr_ensembl", True),
        ("GRCh38", False),
        ("great-apes", False),
        ("data/human_ocr_ensembl.train.csv.gz", False),
        ("enhancers.csv", False),
        ("/a/genomic-benchmarks/x", False),
    ],
)
def test_which_names_mean_a_set(name: str, meant: bool) -> None:
    assert is_task_name(name) == meant


@pytest.mark.parametrize(
    ("suffix", "column"),
    [(".csv.gz", "sequence"), (".parquet", "seq")],
)
def test_a_folder_with_both_sides(suffix: str, column: str, tmp_path: Path) -> None:
    train, test = (f"human_enhancers_ensembl.{side}{suffix}" for side in ("train", "test"))
    write(tmp_path, train, test)
    assert find_files(ENHANCERS, tmp_path) == TaskFiles(tmp_path / train, tmp_path / test, column)


def test_a_pair_is_of_one_format(tmp_path: Path) -> None:
    """What was fetched comes first, but never with a side of one's own."""
    stem = "human_enhancers_ensembl"
    write(tmp_path, f"{stem}.train.parquet", f"{stem}.train.csv.gz", f"{stem}.test.csv.gz")
    assert find_files(ENHANCERS, tmp_path).train.name == f"{stem}.train.csv.gz"
    write(tmp_path, f"{stem}.test.parquet")
    assert find_files(ENHANCERS, tmp_path).train.name == f"{stem}.train.parquet"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no files of genomic-benchmarks/human_enhancers_ensembl"),
        (["train.csv.gz"], "has human_enhancers_ensembl.train.csv.gz alone"),
        (["test.parquet"], "has human_enhancers_ensembl.test.parquet alone"),
    ],
    ids=("none", "train", "test"),
)
def test_what_is_missing_and_what_brings_it(files: list[str], message: str, tmp_path: Path) -> None:
    write(tmp_path, *(f"human_enhancers_ensembl.{name}" for name in files))
    with pytest.raises(InputError, match=re.escape(f"{tmp_path}: {message}")) as raised:
        find_files(ENHANCERS, tmp_path)
    assert f"dnamamba fetch {ENHANCERS} -o {tmp_path} brings both sides" in str(raised.value)
    pair = "human_enhancers_ensembl.train.csv.gz and human_enhancers_ensembl.test.csv.gz"
    assert f"{pair} of your own are read there as well" in str(raised.value)


def test_a_collection_is_not_one_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"genomic-benchmarks: has 9 sets; take one, such as gen"):
        find_files("genomic-benchmarks", tmp_path)


@pytest.mark.real
@pytest.mark.parametrize(
    ("short", "classes"),
    [
        ("human_enhancers_ensembl", ("negative", "positive")),
        ("human_ensembl_regulatory", ("enhancer", "ocr", "promoter")),
        ("human_ocr_ensembl", ("negative", "positive")),
    ],
)
def test_real_sets(short: str, classes: tuple[str, ...], shared_data: Path) -> None:
    files = find_files(f"genomic-benchmarks/{short}", shared_data)
    for path in (files.train, files.test):
        examples = read_examples(path, sequence=files.sequence)
        assert len(examples) > 1000
        assert read_outcomes(examples.table, ["label"]).names == classes
