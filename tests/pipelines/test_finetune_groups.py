"""What `dnamamba finetune` never parts: groups, chromosomes and equal sequences."""

import gzip
import random
from pathlib import Path

import numpy as np
import pytest

from dnamamba import cli
from dnamamba.alphabet import decode, encode, reverse_complement
from dnamamba.data.outcomes import Outcomes
from dnamamba.errors import InputError
from dnamamba.pipelines.finetune_config import FinetuneConfig
from dnamamba.pipelines.finetune_data import read_sides
from dnamamba.pipelines.finetune_report import measured
from dnamamba.pipelines.finetune_sides import Side
from tests.pipelines.runs import one_line, table
from tests.pipelines.test_finetune_folds import FOLDS, ROWS, arguments, crossed, results, write


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tables") / "train.csv")


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_intervals_resample_groups(kind: str) -> None:
    """Where the rows of a group are all right or all wrong, they are one witness."""
    groups = np.repeat(np.arange(10), 6)
    wanted = np.tile([0, 1], 30)
    found = np.eye(2)[np.where(groups < 5, wanted, 1 - wanted)]
    if kind == "classes":
        outcomes = Outcomes("classes", ("a", "b"), wanted)
    else:
        sizes = np.full(60, 3)
        values = np.repeat(wanted, sizes)[:, None].astype(np.float32)
        outcomes = Outcomes("labels", ("a",), values, sizes)
        found = np.repeat(found[:, 1:], sizes, 0)
    name = "accuracy" if kind == "classes" else "auroc"
    shuffled = np.random.default_rng(0).permutation(60)
    widths = []
    for named in (None, [f"g{group}" for group in groups]):
        side = Side([np.zeros(3, np.uint8)] * 60, outcomes, list(range(60)), None, named)
        (each,) = (each for each in measured("test", "m", side, found) if each.measure == name)
        widths.append(each.high - each.low)
        if named and kind == "labels":
            parts = np.split(found, side.outcomes.ends[:-1])
            mixed = np.concatenate([parts[row] for row in shuffled])
            again = list(measured("test", "m", side.of(shuffled), mixed))
            assert (each.value, each.low, each.high) == (
                again[0].value,
                again[0].low,
                again[0].high,
            )
    assert widths[1] > 1.5 * widths[0]


def test_what_leaks_across_groups_is_refused_unless_allowed(
    train: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leaking = tmp_path / "leaking.csv"
    lines = train.read_text().splitlines()
    cells = lines[1].split(",")
    other = decode(reverse_complement(encode(cells[0]))).lower()
    copies = [",".join([other, *cells[1:-1], f"f{number}"]) for number in range(8)]
    leaking.write_text("\n".join([*lines, *copies]) + "\n")
    command = crossed(leaking, backbone, tmp_path / "run", "--group", "family")
    assert cli.run(command) == 1
    assert "sequences of fold 2 stand in what fold 1 is trained on" in one_line(capsys)
    assert not (tmp_path / "run").exists()
    assert cli.run([*command, "--allow-overlap"]) == 0
    found = results(tmp_path / "run")
    assert found["test", "the model", "accuracy"]["sequences"] == str(ROWS + 8)
    assert found["test, new", "5-mers", "accuracy"]["sequences"] == str(ROWS - 1)
    for fold in (1, 2, 3):
        config = FinetuneConfig("m", folds=FOLDS, fold=fold)
        sides = read_sides(leaking, None, None, config)
        assert sides.test is not None
        twins = {2, *range(ROWS + 2, ROWS + 10)}
        parts = [twins & set(each.numbers) for each in (sides.train, sides.valid, sides.test)]
        assert sorted(map(len, parts)) == [0, 0, 9], "by themselves, equal sequences are together"


def test_groups_are_kept_together_without_folds(train: Path, tmp_path: Path) -> None:
    for seed in range(4):
        sides = read_sides(train, None, None, FinetuneConfig("m", group="family", seed=seed))
        parts = [set(side.groups or ()) for side in (sides.train, sides.valid)]
        assert parts[0].isdisjoint(parts[1])
        assert len(sides.valid) == 12
    joined = tmp_path / "joined.csv"
    lines = train.read_text().splitlines()
    copies = [f"{lines[1].rpartition(',')[0]},f{number}" for number in range(1, 8)]
    joined.write_text("\n".join([*lines, *copies]) + "\n")
    with pytest.raises(InputError, match="8 groups, all in one where the same sequences join them"):
        read_sides(joined, None, None, FinetuneConfig("m", group="family"))


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four contigs of stretches of 20 bases, in turns rich in A and T, and in G and C."""
    rng = random.Random(0)
    folder = tmp_path_factory.mktemp("regions")
    lines, rich = [], []
    with (folder / "g.fa").open("w") as out:
        for contig in ("chr1", "chr2", "chr3", "chr4"):
            parts = []
            for number in range(12):
                weights = [1, 4, 4, 1] if number % 2 else [4, 1, 1, 4]
                parts.append("".join(rng.choices("ACGT", weights, k=20)))
                place = f"{contig}\t{20 * number}\t{20 * number + 20}"
                lines.append(f"{place}\t{('poor', 'rich')[number % 2]}")
                rich += [place] * (number % 2)
            out.write(f">{contig}\n{''.join(parts)}\n")
    (folder / "all.bed").write_text("\n".join(lines) + "\n")
    wide = [f"chr{n}\t{at}\t{at + 80}\tg{n % 4}" for at in (160, 0, 80) for n in (3, 1, 4, 2)]
    (folder / "wide.bed").write_text("\n".join(wide) + "\n")
    (folder / "rich.bed").write_text("\n".join(rich) + "\n")
    return folder


def test_regions_go_by_their_chromosome(
    regions: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--genome", regions / "g.fa", "--label", "name")
    command = crossed(regions / "all.bed", backbone, tmp_path / "run", *more, "--folds", "4")
    assert cli.run(command) == 0
    rows = table((tmp_path / "run/predictions.tsv").read_text())
    assert len(rows) == 48
    assert len({(row["chrom"], row["fold"]) for row in rows}) == 4
    assert len({row["fold"] for row in rows}) == 4
    assert "group" not in rows[0]
    named = [*command, "--group", "chrom", "--force"]
    assert cli.run(named) == 0
    again = table((tmp_path / "run/predictions.tsv").read_text())
    assert [{**row, "group": row["chrom"]} for row in rows] == again
    assert results(tmp_path / "run")["fold 1 test", "the model", "accuracy"]["low"] == ""
    capsys.readouterr()
    assert cli.run([*command, "--folds", "5", "--force"]) == 1
    assert "4 groups (chr1, chr2, chr3, chr4) cannot fill 5 folds" in one_line(capsys)

    leaking = tmp_path / "leaking.tsv"
    cells = [
        f"{contig}\t{20 * number + shift}\t{20 * number + shift + 15}\t{'ab'[number % 2]}\t{group}"
        for contig in ("chr1", "chr2")
        for number in range(6)
        for shift, group in ((0, "x"), (10, ("x", "y", "z")[number // 2]))
    ]
    leaking.write_text("\n".join(["chrom\tstart\tend\tname\tset", *cells]) + "\n")
    command = crossed(leaking, backbone, tmp_path / "other", *more, "--group", "set")
    assert cli.run(command) == 1
    assert "regions of fold 1 overlap some in other folds" in one_line(capsys)
    assert not (tmp_path / "other").exists()


def test_bases_are_pooled(regions: Path, backbone: Path, tmp_path: Path) -> None:
    more = ("--genome", regions / "g.fa", "--track", regions / "rich.bed", "--group", "name")
    command = crossed(regions / "wide.bed", backbone, tmp_path / "run", *more)
    assert cli.run(command) == 0
    text = gzip.decompress((tmp_path / "run/predictions.tsv.gz").read_bytes()).decode()
    rows = table(text)
    assert list(rows[0]) == ["chrom", "start", "end", "p_rich", "fold", "group"]
    wanted = [
        (f"chr{n}", str(at + base), f"g{n % 4}")
        for at in (160, 0, 80) for n in (3, 1, 4, 2) for base in range(80)
    ]  # fmt: skip
    assert [(row["chrom"], row["start"], row["group"]) for row in rows] == wanted
    assert len({(row["group"], row["fold"]) for row in rows}) == 4
    own: dict[tuple[str, str], str] = {}
    for fold in range(1, FOLDS + 1):
        path = tmp_path / f"run/fold-{fold}/predictions.tsv.gz"
        for row in table(gzip.decompress(path.read_bytes()).decode()):
            own[row["chrom"], row["start"]] = row["p_rich"]
    assert all(row["p_rich"] == own[row["chrom"], row["start"]] for row in rows)
    found = results(tmp_path / "run")["test", "the model", "auroc"]
    assert float(found["value"]) > 0.6
    assert found["low"] != ""


def test_flags_that_do_not_go_together(
    train: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {
        ("--cross-validate", "--fold", "2"): "leave out --fold",
        ("--cross-validate", "--valid", train): "--cross-validate cuts all sides out of TRAIN: "
        "leave out --valid",
        ("--fold", "1", "--valid", train, "--test", train): "leave out --valid and --test",
        ("--folds", "4"): "--folds: goes with --cross-validate",
        ("--cross-validate", "--folds", "2"): "folds 2: give 3 or more",
        ("--fold", "6"): "fold 6: give one of 1 to 5",
        ("--fold", "1", "--group", "label"): "`label` is what is predicted",
    }
    for more, message in bad.items():
        assert cli.run(arguments(train, backbone, tmp_path / "run", *more)) == 2, more
        assert message in one_line(capsys)
        assert not (tmp_path / "run").exists()


def test_faulty_groups_are_refused(
    train: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, lines = tmp_path / "bad.csv", train.read_text().splitlines()
    sequences = [line.split(",")[0] for line in lines]
    bad = {
        "no column `clan`; the header is sequence, label": (lines, "clan"),
        "line 3: the column `family` is empty": (
            [*lines[:2], lines[2].rpartition(",")[0] + ",", *lines[3:]], "family",
        ),
        "2 groups (f0, f1) cannot fill 3 folds": (lines[:13], "family"),
        "fold 1 of 3: the training side has no row with `b`": (
            ["sequence,label,family"]
            + [f"{bases},a,f{n % 3}" for n, bases in enumerate(sequences[1:13])]
            + [f"{bases},b,f2" for bases in sequences[13:15]],
            "family",
        ),
    }  # fmt: skip
    for message, (text, group) in bad.items():
        path.write_text("\n".join(text) + "\n")
        command = crossed(path, backbone, tmp_path / "run", "--group", group)
        assert cli.run(command) == 1, message
        assert message in one_line(capsys)
        assert not (tmp_path / "run").exists()
    path.write_text("\n".join([lines[0], *[lines[1]] * 2, *[lines[2]] * 2]) + "\n")
    assert cli.run(crossed(path, backbone, tmp_path / "run")) == 1
    assert "2 sequences that differ cannot fill 3 folds" in one_line(capsys)
