"""`dnamamba fetch` of sets of labelled sequences, and `dnamamba finetune` by their names."""

import csv
import gzip
import hashlib
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dnamamba import cli
from dnamamba.data import download
from dnamamba.data.tasks import Task, find_tasks
from tests.data.serving import Fault, Server, serving
from tests.pipelines.runs import one_line, table

PINNED, NEWEST, IN_FOLDERS = find_tasks(
    [
        "genomic-benchmarks/human_enhancers_ensembl",
        "genomic-benchmarks/human_ocr_ensembl",
        "nucleotide-transformer/enhancers",
    ]
)
COMMIT = "c0ffee" * 6 + "abcd"
FILES = {PINNED: "train-00000-of-00001-cb81.parquet", NEWEST: "train-0.parquet"}
BODIES = {side: random.Random(side).randbytes(9_000) for side in ("train", "test")}


def at(task: Task, side: str) -> str:
    """Where the hub serves a side."""
    name = FILES.get(task, "train.parquet").replace("train", side)
    commit = task.revision or COMMIT
    return f"/datasets/{task.repository}/resolve/{commit}/{task.folder}/{name}"


def listing(task: Task) -> str:
    return f"/api/datasets/{task.repository}/tree/{task.revision or COMMIT}/{task.folder}"


def entry(task: Task, side: str, body: bytes) -> dict[str, object]:
    """A line of the hub's listing; `oid` is git's own name of the file that stands for it."""
    lfs = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 132}
    path = f"{task.folder}/{at(task, side).rpartition('/')[2]}"
    return {"type": "file", "oid": "5f", "size": len(body), "path": path, "lfs": lfs}


def put(server: Server, task: Task, bodies: dict[str, bytes]) -> None:
    card = {"type": "file", "oid": "1", "size": 9, "path": f"{task.folder}/train.fna"}
    entries = [card, *(entry(task, side, body) for side, body in bodies.items())]
    server.files[listing(task)] = json.dumps(entries).encode()
    server.files |= {at(task, side): body for side, body in bodies.items()}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download.time, "sleep", lambda _seconds: None)
    with serving() as server:
        for task in (PINNED, NEWEST, IN_FOLDERS):
            put(server, task, BODIES)
        newest = f"/api/datasets/{NEWEST.repository}/revision/main"
        server.files[newest] = json.dumps({"id": NEWEST.repository, "sha": COMMIT}).encode()
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sets"


@pytest.fixture
def run(server: Server, folder: Path) -> Callable[..., int]:
    def run(*arguments: str) -> int:
        return cli.run(["fetch", *arguments, "-o", str(folder), "--url", server.url])

    return run


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("task", [PINNED, NEWEST, IN_FOLDERS], ids=lambda task: task.short)
def test_fetch(
    task: Task,
    run: Callable[..., int],
    server: Server,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.faults[at(task, "train")] = ["503", "drop", "drop"]
    server.faults[listing(task)] = ["drop"]
    assert run(task.name) == 0
    captured = capsys.readouterr()
    files = {side: folder / f"{task.short}.{side}.parquet" for side in ("train", "test")}
    assert captured.out == "".join(f"{path}\n" for path in files.values())
    assert f"{files['test']}: 9,000 bytes; SHA-256 as the hub lists it" in captured.err
    assert {side: path.read_bytes() for side, path in files.items()} == BODIES
    record = json.loads((folder / f"{task.short}.json").read_text())
    assert names(folder) == sorted([f"{task.short}.json", *(path.name for path in files.values())])
    assert (record["name"], record["repository"]) == (task.name, task.repository)
    known = (task.revision, "catalogue") if task.revision else (COMMIT, "main")
    assert (record["revision"], record["revision_from"]) == known
    assert record["files"]["train"] == {
        "file": files["train"].name,
        "url": server.url + at(task, "train"),
        "size": 9_000,
        "sha256": hashlib.sha256(BODIES["train"]).hexdigest(),
    }


def test_what_is_there_is_not_fetched_again(
    run: Callable[..., int], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(PINNED.name, NEWEST.name) == 0
    out = capsys.readouterr().out
    server.asked.clear()
    assert run(PINNED.name, NEWEST.name) == 0
    assert server.asked == []
    captured = capsys.readouterr()
    assert captured.out == out
    assert f"{NEWEST.name}: is there, as it was fetched and verified" in captured.err
    assert run(PINNED.name, "--force", "-q") == 0
    assert [path for path, _ in server.asked] == [
        listing(PINNED),
        at(PINNED, "train"),
        at(PINNED, "test"),
    ]


def test_interrupted_and_gone_on_with(
    run: Callable[..., int],
    server: Server,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    server.faults[at(PINNED, "test")] = ["drop"]
    with monkeypatch.context() as patch:
        patch.setattr(download.time, "sleep", interrupt)
        assert run(PINNED.name) == 130
    part = folder / "human_enhancers_ensembl.test.parquet.part"
    assert f"{part}: kept; the same command goes on with it" in capsys.readouterr().err
    assert run(PINNED.name) == 0
    assert server.ranges(at(PINNED, "train")) == [None], "the side that had come stays"
    assert server.ranges(at(PINNED, "test")) == [None, "bytes=4500-"]
    assert part.with_name("human_enhancers_ensembl.test.parquet").read_bytes() == BODIES["test"]
    assert not list(folder.glob("*.part*"))


@pytest.mark.parametrize(
    ("body", "faults", "message"),
    [
        (BODIES["train"][::-1], [], "what came is not what the hub lists: its SHA-256 is "),
        (BODIES["train"], ["cut"], "has 4,500 bytes, and 9,000 are pinned"),
        (b"<html>busy</html>", [], "has 17 bytes, and 9,000 are pinned"),
    ],
    ids=("wrong bytes", "cut", "html"),
)
def test_what_is_not_the_set_is_not_kept(
    body: bytes,
    faults: list[Fault],
    message: str,
    run: Callable[..., int],
    server: Server,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.files[at(PINNED, "train")] = body
    server.faults[at(PINNED, "train")] = faults
    assert run(PINNED.name, "-q") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert names(folder) == []
    server.files[at(PINNED, "train")] = BODIES["train"]
    assert run(PINNED.name) == 0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>", "the answer is not the hub's; try another with --url"),
        (b"[]", "does not tell one file train*.parquet with its SHA-256"),
        (b'{"error": "gone"}', "does not tell one file train*.parquet with its SHA-256"),
        (
            json.dumps([entry(PINNED, "train", b"1")] * 2).encode(),
            "does not tell one file train*.parquet with its SHA-256",
        ),
    ],
    ids=("html", "empty", "error", "two"),
)
def test_a_listing_that_does_not_say(
    answer: bytes,
    message: str,
    run: Callable[..., int],
    server: Server,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.files[listing(PINNED)] = answer
    assert run(PINNED.name, "-q") == 1
    assert message in one_line(capsys)
    assert names(folder) == []


def test_a_hub_that_cannot_be_reached(
    run: Callable[..., int], server: Server, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults[listing(PINNED)] = ["503"] * 20
    assert run(PINNED.name, "-q") == 1
    said = one_line(capsys)
    assert "503 Service Unavailable, 6 times running" in said
    pair = "human_enhancers_ensembl.train.csv.gz and human_enhancers_ensembl.test.csv.gz"
    assert f"put {pair} (columns sequence and label) into {folder}" in said
    assert f"dnamamba finetune {PINNED.name} --data {folder} reads them" in said


def test_a_commit_that_the_hub_does_not_tell(
    run: Callable[..., int], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files[f"/api/datasets/{NEWEST.repository}/revision/main"] = b"{}"
    assert run(NEWEST.name, "-q") == 1
    assert "the hub's answer names no commit" in one_line(capsys)


def test_a_file_in_the_way_is_kept(
    run: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    path = folder / "human_enhancers_ensembl.test.parquet"
    path.write_text("mine")
    assert run(PINNED.name, "-q") == 2
    said = one_line(capsys)
    assert f"{path}: exists, and is not what the hub has; --force" in said
    assert path.read_text() == "mine"
    assert run(PINNED.name, "--force") == 0
    assert path.read_bytes() == BODIES["test"]


def test_an_unknown_set_is_said_before_anything_is_fetched(
    run: Callable[..., int], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(PINNED.name, "genomic-benchmarks/human_enhancer_ensembl") == 2
    said = one_line(capsys)
    assert f"not in the catalogue; did you mean `{PINNED.name}`?" in said
    assert run("genomic_benchmarks/human_ocr", "-q") == 2
    assert f"did you mean `{NEWEST.name}`?" in one_line(capsys)
    assert server.asked == []


def as_parquet(seed: int, column: str) -> bytes:
    """Sequences rich in A and T, or in G and C, and which they are."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rng = random.Random(seed)
    labels = [number % 2 for number in range(40)]
    rows = ["".join(rng.choices("ACGT", [[4, 1, 1, 4], [1, 4, 4, 1]][n], k=50)) for n in labels]
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({column: rows, "label": labels}), out)
    return out.getvalue()


def finetune(name: str | Path, backbone: Path, output: Path, *more: str | Path) -> int:
    call = ["finetune", name, "-m", backbone, "-o", output, "--method", "frozen", *more]
    return cli.run([*map(str, call), "--device", "cpu", "-t", "1", "-q"])


@pytest.mark.parametrize("task", [PINNED, IN_FOLDERS], ids=lambda task: task.short)
def test_what_was_fetched_is_fitted_on_by_its_name(
    task: Task,
    run: Callable[..., int],
    server: Server,
    folder: Path,
    backbone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    column = task.sequence
    put(server, task, {"train": as_parquet(0, column), "test": as_parquet(1, column)})
    assert run(task.name, "-q") == 0
    capsys.readouterr()
    output = tmp_path / "run"
    assert finetune(task.name, backbone, output, "--data", folder) == 0
    rows = table(capsys.readouterr().out)
    assert {row["side"] for row in rows} >= {"test"}
    (accuracy,) = (
        float(row["value"])
        for row in rows
        if (row["side"], row["name"], row["measure"]) == ("test", "the model", "accuracy")
    )
    assert accuracy > 0.9
    record = json.loads((output / "run.json").read_text())
    assert record["config"]["sequence"] == column
    assert [Path(entry["path"]).name for entry in record["inputs"]][:2] == [
        f"{task.short}.train.parquet",
        f"{task.short}.test.parquet",
    ]
    assert finetune(task.name, backbone, output, "--data", folder, "--resume") == 0


def write_side(path: Path, column: str, seed: int) -> None:
    rng = random.Random(seed)
    opened = gzip.open if path.suffix == ".gz" else Path.open
    with opened(path, "wt", newline="") as handle:
        out = csv.writer(handle)
        out.writerow([column, "label"])
        for number in range(24):
            out.writerow(["".join(rng.choices("ACGT", k=30)), number % 2])


def test_columns_and_files_that_are_said_win(
    backbone: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    for seed, side in enumerate(("train", "test")):
        write_side(folder / f"human_enhancers_ensembl.{side}.csv.gz", "bases", seed)
    other = tmp_path / "other.csv"
    write_side(other, "bases", 2)
    output = tmp_path / "run"
    assert finetune(PINNED.name, backbone, output, "--data", folder) == 1
    assert "no column `sequence`" in one_line(capsys)
    named = ("--data", folder, "--sequence", "bases", "--test", other)
    assert finetune(PINNED.name, backbone, output, *named) == 0
    record = json.loads((output / "run.json").read_text())
    assert record["config"]["sequence"] == "bases"
    assert Path(record["inputs"][1]["path"]).name == "other.csv"


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        (PINNED.name, (), f"tasks: has no files of {PINNED.name}: dnamamba fetch {PINNED.name}"),
        ("human_ocr_ensembl", (), f"did you mean `{NEWEST.name}`?"),
        ("genomic-benchmarks", (), "has 9 sets; take one"),
        ("nosuch.csv", ("--data", "x"), "--data: goes with the name of a data set, and nosuch.csv"),
        ("nosuch.csv", (), "nosuch.csv: no such file"),
    ],
    ids=("not there", "without its collection", "a collection", "a file", "no file"),
)
def test_what_train_is_not(
    name: str,
    more: tuple[str, ...],
    message: str,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert finetune(name, backbone, tmp_path / "run", *more) in (1, 2)
    assert message in one_line(capsys)
    assert not (tmp_path / "run").exists()
