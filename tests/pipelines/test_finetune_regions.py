"""`dnamamba finetune` and `predict` on regions of a genome, and on tracks that lie along it."""

import gzip
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dnamamba import cli
from dnamamba.alphabet import encode, reverse_complement
from dnamamba.models.predictor import load_predictor
from dnamamba.pipelines.finetune_config import FinetuneConfig
from dnamamba.pipelines.finetune_data import read_sides
from dnamamba.pipelines.finetune_fit import _set_up
from tests.pipelines.runs import one_line, table

BASES = 40
RUN = ("--batch", "8", "--steps", "6", "--validate-every", "3", "--device", "cpu", "-t", "1")


@pytest.fixture(scope="module")
def stretches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A genome of stretches of 40 bases, in turns rich in A and T, and in G and C; and N."""
    rng = random.Random(0)
    folder = tmp_path_factory.mktemp("stretches")
    with (folder / "g.fa").open("w") as out:
        for contig in ("chr1", "chr2"):
            parts = [
                "".join(rng.choices("ACGT", [1, 4, 4, 1] if number % 2 else [4, 1, 1, 4], k=BASES))
                for number in range(48)
            ]
            out.write(f">{contig}\n{''.join(parts)}NNNNN\n")
    for name, contig in (("train", "chr1"), ("test", "chr2")):
        lines = [
            f"{contig}\t{BASES * n}\t{BASES * (n + 1)}\t"
            f"{('poor', 'rich')[n % 2]}\t0\t{'+-'[n % 3 == 0]}"
            for n in range(48)
        ]
        (folder / f"{name}.bed").write_text("\n".join(lines) + "\n")
        wide = [f"{contig}\t{2 * BASES * n}\t{2 * BASES * (n + 1)}\t.\t0\t-" for n in range(24)]
        (folder / f"{name}_wide.bed").write_text("\n".join(wide) + "\n")
    rich = [
        f"{contig}\t{BASES * n}\t{BASES * (n + 1)}\t{n}"
        for contig in ("chr1", "chr2")
        for n in range(1, 48, 2)
    ]
    (folder / "rich.bed").write_text("\n".join(rich) + "\n")
    graph = [
        f"{contig}\t{BASES * n}\t{BASES * (n + 1) - 5}\t{n % 2 * 3 + 10}"
        for contig in ("chr1", "chr2")
        for n in range(48)
    ]
    (folder / "signal.bedGraph").write_text("\n".join(graph) + "\n")
    return folder


def finetune(folder: Path, backbone: Path, output: Path, *more: str | Path, wide: bool) -> int:
    name = "_wide" if wide else ""
    files = (folder / f"train{name}.bed", "--test", folder / f"test{name}.bed")
    call = ["finetune", *files, "--genome", folder / "g.fa", "-m", backbone, "-o", output]
    return cli.run(list(map(str, [*call, *more])))


def measured(run: Path) -> dict[tuple[str, str], float]:
    rows = table((run / "results.tsv").read_text())
    return {
        (row["side"], row["measure"]): float(row["value"])
        for row in rows
        if row["name"] == "the model"
    }


def test_regions_are_what_their_sequences_are(
    stretches: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--label", "name", "--window", "30", "--method", "frozen", "--device", "cpu")
    assert finetune(stretches, backbone, tmp_path / "run", *more, wide=False) == 0
    assert measured(tmp_path / "run")["test", "accuracy"] > 0.9
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["config"]["window"] == 30
    assert Path(record["inputs"][0]["path"]).name == "g.fa"

    codes = np.concatenate([encode(line) for line in
                            (stretches / "g.fa").read_text().splitlines()[3:4]])  # fmt: skip
    sequences = tmp_path / "s.csv"
    rows = table((tmp_path / "run/predictions.tsv").read_text())
    assert [row["line"] for row in rows] == [str(number) for number in range(1, 49)]
    with sequences.open("w") as out:
        out.write("sequence\n")
        for row in rows:
            window = codes[int(row["start"]) : int(row["end"])]
            assert len(window) == 30
            window = reverse_complement(window) if row["strand"] == "-" else window
            out.write("".join("ACGTN"[code] for code in window) + "\n")
    capsys.readouterr()
    run, bed, genome = (str(each) for each in
                        (tmp_path / "run", stretches / "test.bed", stretches / "g.fa"))  # fmt: skip
    assert cli.run(["predict", run, bed, "--genome", genome, "--device", "cpu"]) == 0
    regions = table(capsys.readouterr().out)
    assert cli.run(["predict", run, str(sequences), "--device", "cpu"]) == 0
    alone = table(capsys.readouterr().out)
    for row, region, sequence in zip(rows, regions, alone, strict=True):
        assert {name: region[name] for name in ("line", "chrom", "start", "end", "strand")} == {
            name: row[name] for name in ("line", "chrom", "start", "end", "strand")
        }
        for name in ("p_rich", "p_poor"):
            assert float(region[name]) == pytest.approx(float(row[name]), abs=1e-5)
            assert float(region[name]) == pytest.approx(float(sequence[name]), abs=1e-5)
    assert cli.run(["predict", run, bed, "--genome", genome, "--window", "20"]) == 0
    first = table(capsys.readouterr().out)[0]
    assert int(first["end"]) - int(first["start"]) == 20
    assert cli.run(["predict", run, bed]) == 2
    assert "--genome GENOME" in one_line(capsys)


@pytest.mark.parametrize("method", ["full", "frozen"])
@pytest.mark.parametrize("track", ["rich.bed", "signal.bedGraph"])
def test_each_base_is_learnt_and_predicted(
    track: str,
    method: str,
    stretches: Path,
    backbone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    more = ("--track", stretches / track, "--method", method, *RUN)
    if method == "frozen":
        more = tuple(each for each in more if each not in ("--steps", "6"))
    assert finetune(stretches, backbone, run, *more, wide=True) == 0
    values = track == "signal.bedGraph"
    assert measured(run)["test", "pearson" if values else "auroc"] > (0.3 if values else 0.7)
    rows = table(gzip.decompress((run / "predictions.tsv.gz").read_bytes()).decode())
    name = "predicted_signal" if values else "p_rich"
    assert list(rows[0]) == ["chrom", "start", "end", name]
    places = [(row["chrom"], int(row["start"]), int(row["end"])) for row in rows]
    assert places == [("chr2", at, at + 1) for at in range(48 * BASES)]
    predictor = load_predictor(run)
    assert predictor.config.per_base
    if values:
        assert predictor.config.centres[0] == pytest.approx(11.5, abs=0.2)

    capsys.readouterr()
    bed, genome = str(stretches / "test_wide.bed"), str(stretches / "g.fa")
    assert cli.run(["predict", str(run), bed, "--genome", genome, "--device", "cpu"]) == 0
    again = table(capsys.readouterr().out)
    assert [(row["chrom"], int(row["start"]), int(row["end"])) for row in again] == places
    for row, other in zip(rows, again, strict=True):
        assert float(row[name]) == pytest.approx(float(other[name]), abs=1e-5)
    fasta = tmp_path / "s.fa"
    fasta.write_text(f">s\n{(stretches / 'g.fa').read_text().splitlines()[3][: 2 * BASES]}\n")
    assert cli.run(["predict", str(run), str(fasta), "--device", "cpu"]) == 0
    alone = table(capsys.readouterr().out)
    assert list(alone[0]) == ["record", "start", "end", name]
    for row, other in zip(rows, alone, strict=False):
        assert float(row[name]) == pytest.approx(float(other[name]), abs=1e-5)
        assert (row["start"], row["end"]) == (other["start"], other["end"])


def test_targets_turn_with_their_sequences_and_n_asks_nothing(
    stretches: Path, backbone: Path, tmp_path: Path
) -> None:
    """A track that names every base of the genome is on either strand the base that is read."""
    text = (stretches / "g.fa").read_text().splitlines()
    graph = tmp_path / "gc.bedGraph"
    lines = [
        f"{name[1:]}\t{at}\t{at + 1}\t{int(base in 'CG')}"
        for name, bases in zip(text[::2], text[1::2], strict=True)
        for at, base in enumerate(bases)
    ]
    graph.write_text("\n".join(lines) + "\n")
    bed = tmp_path / "r.bed"
    places = [(0, 31), (60, 72), (110, 147), (160, 161), (48 * BASES - 4, 48 * BASES + 3)]
    bed.write_text("".join(f"chr1\t{start}\t{end}\n" for start, end in places))
    other = tmp_path / "v.bed"
    other.write_text("chr2\t0\t50\n")
    config = FinetuneConfig(
        str(backbone), "full", genome=str(stretches / "g.fa"), tracks=(str(graph),), steps=6
    )
    sides = read_sides(bed, other, None, config)
    inputs = [{"sha256": "none"}]
    fit = _set_up(tmp_path, config, inputs, sides, torch.device("cpu"))
    turns = set()
    for step, codes in enumerate(fit.batches(0, 0)):
        batch = fit.trained_on(codes, step, 0)
        assert batch.targets.shape == (*codes.shape, 1)
        known = codes < 4
        assert (batch.weights[..., 0].bool() == known).all()
        gc = (codes == 1) | (codes == 2)
        assert (batch.targets[..., 0][known].bool() == gc[known]).all()
        part = fit.trained_on(codes[2:4], step, 2)
        assert (part.targets == batch.targets[2:4]).all()
        turns |= set(fit._turned(step).tolist())
    assert turns == {True, False}


def test_overlapping_regions_are_on_one_side(
    stretches: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leaking = tmp_path / "leaking.bed"
    leaking.write_text("chr2\t0\t20\trich\nchr1\t75\t90\trich\nchr2\t90\t99\tpoor\n")
    call = ["finetune", stretches / "train.bed", "--test", leaking, "--genome"]
    call += [stretches / "g.fa", "--label", "name", "-m", backbone, "-o", tmp_path / "run"]
    command = [*map(str, call), "--method", "frozen", "--device", "cpu"]
    assert cli.run(command) == 1
    assert re.search(r"leaking.bed: line 2: 1 of 3 regions overlap some in", one_line(capsys))
    assert not (tmp_path / "run").exists()
    assert cli.run([*command, "--allow-overlap"]) == 0
    sides = {row["side"] for row in table((tmp_path / "run/results.tsv").read_text())}
    assert {"test", "test, new"} <= sides

    chosen = tmp_path / "chosen.bed"
    chosen.write_text("chr2\t10\t12\trich\nchr2\t300\t310\tpoor\n")
    leaking.write_text("chr2\t0\t20\trich\nchr2\t90\t99\tpoor\n")
    assert cli.run([*command, "--valid", str(chosen), "--force"]) == 1
    assert f"line 1: 1 of 2 regions overlap some in {chosen}" in one_line(capsys)

    chained = tmp_path / "chained.bed"
    lines = [
        f"chr1\t{BASES * n + 15 * more}\t{BASES * n + 15 * more + 20}\t{('a', 'b')[n % 2]}"
        for n in range(0, 46, 2)
        for more in range(3)
    ]
    lines += [line.replace("chr1", "chr2").replace("\ta", "\tb") for line in lines]
    chained.write_text("\n".join(lines) + "\n")
    config = FinetuneConfig("m", genome=str(stretches / "g.fa"), labels=("name",))
    both = read_sides(chained, None, None, config)
    members = [{(number - 1) // 3 for number in side.numbers} for side in (both.train, both.valid)]
    assert members[0].isdisjoint(members[1])


def test_what_is_refused(
    stretches: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, genome = str(stretches / "train.bed"), str(stretches / "g.fa")
    track = ("--track", str(stretches / "rich.bed"))
    call = ["finetune", train, "-m", str(backbone), "-o", str(tmp_path / "run"), "--device", "cpu"]
    nowhere = tmp_path / "nowhere.bed"
    nowhere.write_text("chr2\t0\t5\n")
    bad: dict[tuple[str, ...], tuple[int, str]] = {
        (): (2, "regions want the FASTA that they lie in: --genome GENOME"),
        ("--window", "9"): (2, "window: goes with regions"),
        track: (2, "tracks: goes with regions"),
        ("--genome", genome): (1, "no column `label`; the header is chrom, start, end, name"),
        ("--genome", genome, *track, "--label", "name"): (2, "tracks say what each base is"),
        ("--genome", genome, *track, "--head", "last"): (2, "each base's own state"),
        ("--genome", genome, *track, "--task", "values"): (2, "rich.bed has labels; leave it out"),
        ("--genome", genome, "--track", str(nowhere)): (1, "the track nowhere is 0 at each base"),
        ("--genome", genome, "--label", "name", "--window", "99"): (1, "no room for a window"),
    }
    for more, (code, message) in bad.items():
        assert cli.run([*call, *more]) == code, more
        assert message in one_line(capsys)
        assert not (tmp_path / "run").exists()
