import gzip
import importlib.util
import json
import random
import signal
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from dnamamba import cli, log
from dnamamba.pipelines import fitting, pretrain_run
from dnamamba.training.checkpoint import FOLDER, list_states
from dnamamba.training.rollback import Checkpoints
from tests.pipelines.runs import STEPS, arguments, one_line, table, weights
from tests.training.event_files import shown


def test_a_run_folder_holds_all_that_it_should(straight: Path) -> None:
    names = {entry.name for entry in straight.iterdir()}
    assert {
        *("config.json", "model.safetensors", "README.md", "run.json", "config.toml"),
        *("split.bed", "metrics.tsv", "baselines.tsv", "results.tsv", FOLDER),
    } <= names
    assert not [name for name in names if name.startswith(".")]
    assert [path.stem for path in list_states(straight)] == ["step-000000008", "step-000000006"]
    record = json.loads((straight / "run.json").read_text())
    assert record["config"]["steps"] == STEPS
    assert record["inputs"][0]["path"].endswith("small.fa")
    assert len(record["inputs"][0]["sha256"]) == 64


def test_it_is_a_model_folder(straight: Path) -> None:
    from dnamamba.models.pretrained import load

    model = load(straight)
    assert model.config.d_model == 64
    assert "small.fa" in (straight / "README.md").read_text()


def test_prints_model_and_baselines_as_tsv(
    genome: Path, tmp_path: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments(genome, tmp_path / "run")) == 0
    out, err = capsys.readouterr()
    rows = table(out)
    assert [row["model"] for row in rows[:2]] == ["250k next-base Mamba", "order-0 Markov"]
    for row in rows:
        assert float(row["low"]) <= float(row["bits_per_base"]) <= float(row["high"])
        assert 1.5 < float(row["bits_per_base"]) < 3.2
    assert 0 < float(rows[0]["accuracy"]) < 1
    assert "Markov" in err.splitlines()[-2]
    assert "of the time spent waiting for the feeder" in err
    assert str(tmp_path / "run") in err.splitlines()[-1]
    assert weights(tmp_path / "run") == weights(straight)


def test_metrics_have_a_row_a_step_and_validations(straight: Path) -> None:
    metrics = log.read_metrics(straight / "metrics.tsv")
    trained = [
        step for step, bits in zip(metrics["step"], metrics["train_bits"], strict=True) if bits
    ]
    validated = [s for s, bits in zip(metrics["step"], metrics["valid_bits"], strict=True) if bits]
    assert trained == [str(step) for step in range(1, STEPS + 1)]
    assert validated == ["3", "6", "8"]
    assert metrics["bases"][-1] == str(STEPS * 3 * 64)


def test_config_toml_makes_the_same_model(genome: Path, straight: Path, tmp_path: Path) -> None:
    output = tmp_path / "again"
    config = straight / "config.toml"
    call = ["pretrain", str(genome), "-o", str(output), "--config", str(config), "-t", "1"]
    assert cli.run([*call, "--device", "cpu"]) == 0
    assert weights(output) == weights(straight)
    assert (output / "config.toml").read_text() == config.read_text()


def test_steps_are_timed(straight: Path) -> None:
    metrics = log.read_metrics(straight / "metrics.tsv")
    timed = zip(metrics["train_bits"], metrics["bases_per_second"], strict=True)
    assert all(bool(bits) == bool(rate) for bits, rate in timed)
    assert all(0 <= float(share) <= 1 for share in metrics["wait_share"] if share)
    drawn = importlib.util.find_spec("matplotlib") is not None
    assert [(straight / name).exists() for name in ("loss.png", "throughput.png")] == [drawn] * 2


def test_tensorboard_shows_a_resumed_run_as_if_never_stopped(
    genome: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboardX", reason="needs tensorboardX")
    output = tmp_path / "run"
    save = Checkpoints.save

    def interrupted(checkpoints: Checkpoints, step: int) -> None:
        if step == 6:
            raise KeyboardInterrupt
        save(checkpoints, step)

    monkeypatch.setattr(Checkpoints, "save", interrupted)
    assert cli.run(arguments(genome, output, "--tensorboard")) == 130
    monkeypatch.undo()
    assert max(shown(output / "tensorboard")["train_bits"]) == 6
    assert cli.run(arguments(genome, output, "--tensorboard", "--resume")) == 0
    assert weights(output) == weights(straight)
    told = shown(output / "tensorboard")
    metrics = log.read_metrics(output / "metrics.tsv")
    for name in ("train_bits", "lr", "grad_norm", "bases_per_second", "wait_share", "valid_bits"):
        rows = zip(metrics["step"], metrics[name], strict=True)
        expected = {int(step): pytest.approx(float(cell), rel=1e-5) for step, cell in rows if cell}
        assert told[name] == expected, name


def test_tensorboard_is_asked_for_before_anything_is_done(
    genome: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.run(arguments(genome, tmp_path / "run", "--tensorboard")) == 2
    assert "pip install 'dnamamba[tensorboard]'" in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_micro_batches_learn_the_same(genome: Path, straight: Path, tmp_path: Path) -> None:
    from dnamamba.models.pretrained import load

    assert cli.run(arguments(genome, tmp_path / "micro", "--micro-batch", "1")) == 0
    one, other = load(straight).state_dict(), load(tmp_path / "micro").state_dict()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("recompute", ["none", "block"])
def test_recomputing_learns_the_same_bit_for_bit(
    recompute: str, genome: Path, straight: Path, tmp_path: Path
) -> None:
    assert cli.run(arguments(genome, tmp_path / "run", "--recompute", recompute)) == 0
    assert weights(tmp_path / "run") == weights(straight)


def test_truncated_back_propagation_asks_the_same(
    genome: Path, straight: Path, tmp_path: Path
) -> None:
    """The first loss is that of whole windows; the gradient is another."""
    assert cli.run(arguments(genome, tmp_path / "run", "--tbptt", "16")) == 0
    rows = [
        (path / "metrics.tsv").read_text().splitlines()[1].split("\t")
        for path in (straight, tmp_path / "run")
    ]
    assert float(rows[1][4]) == pytest.approx(float(rows[0][4]), rel=1e-5)
    assert rows[1][5] != rows[0][5]
    assert weights(tmp_path / "run") != weights(straight)


def test_a_length_warm_up_goes_on_exactly_where_it_was_stopped(
    genome: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ["--length-warmup", "16", "--micro-batch", "1"]
    assert cli.run(arguments(genome, tmp_path / "straight", *call)) == 0
    seen = []
    fit = fitting.fit

    def stopped(*rest: Any, **options: Any) -> int:
        batches = list(islice(rest[3], 4))
        seen.extend(tuple(codes.shape) for codes in batches)
        return fit(*rest[:3], iter(batches), rest[4], **options)

    monkeypatch.setattr(fitting, "fit", stopped)
    assert cli.run(arguments(genome, tmp_path / "cut", *call)) == 0
    monkeypatch.setattr(fitting, "fit", fit)
    assert cli.run(arguments(genome, tmp_path / "cut", *call, "--resume")) == 0
    assert seen == [(12, 16), (12, 16), (6, 32), (6, 32)]
    assert weights(tmp_path / "cut") == weights(tmp_path / "straight")


def test_force_starts_anew(genome: Path, straight: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert cli.run(arguments(genome, output, "--seed", "1", "--steps", "2")) == 0
    assert weights(output) != weights(straight)
    (output / "stray.txt").write_text("")
    assert cli.run(arguments(genome, output, "--force")) == 0
    assert weights(output) == weights(straight)
    assert not (output / "stray.txt").exists()


def test_an_infinite_loss_names_the_step_and_the_windows(
    genome: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build = pretrain_run.build_optimizer

    def poisoned(model: torch.nn.Module, *rest: object) -> object:
        next(model.parameters()).register_hook(lambda gradient: gradient * torch.nan)
        return build(model, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pretrain_run, "build_optimizer", poisoned)
    assert cli.run(arguments(genome, tmp_path / "run")) == 1
    error = one_line(capsys)
    assert "not finite at step 1 (windows chr" in error
    assert "--lr" in error
    assert not list_states(tmp_path / "run")


def bad_fasta(content: str | bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "bad.fa"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def truncated_gzip(folder: Path) -> Path:
    rng = random.Random(1)
    path = folder / "cut.fa.gz"
    text = ">chr1\n" + "".join(rng.choices("ACGT", k=50_000)) + "\n"
    path.write_bytes(gzip.compress(text.encode())[:-3000])
    return path


def no_file(folder: Path) -> Path:
    return folder / "missing.fa"


def good(folder: Path) -> Path:
    rng = random.Random(2)
    path = folder / "good.fa"
    records = [f">{name}\n{''.join(rng.choices('ACGT', k=4000))}\n" for name in ("chr1", "chr2")]
    path.write_text("".join(records))
    return path


BAD = {
    "no such file": (no_file, [], 1, ["missing.fa", "no such file"]),
    "not a FASTA": (bad_fasta("hello\nworld\n"), [], 1, ["bad.fa"]),
    "protein": (bad_fasta(">p\nMKVLAAGIEFLQ\n"), [], 1, ["bad.fa", "p"]),
    "truncated gzip": (truncated_gzip, [], 1, ["cut.fa.gz"]),
    "empty": (bad_fasta(""), [], 1, ["bad.fa"]),
    "all N": (bad_fasta(">chr1\n" + "N" * 5000 + "\n>chr2\n" + "N" * 900 + "\n"), [], None, ["N"]),
    "off by chr": (good, ["--holdout", "1"], None, ["`1`", "good.fa", "`chr1`"]),
    "contigs off by chr": (good, ["--contigs", "1,2"], None, ["`1`", "good.fa", "`chr1`"]),
    "held-out name unknown": (good, ["--holdout", "chr9"], None, ["`chr9`", "good.fa"]),
    "window too long": (good, ["--length", "10k"], None, ["10,000", "4,000"]),
    "nothing left to train on": (good, ["--holdout", "chr1,chr2"], None, ["train"]),
    "two sizes": (good, ["--steps", "3", "--tokens", "1M"], 2, ["steps and tokens"]),
    "two splits": (good, ["--holdout", "chr1", "--split", "x.bed"], 2, ["holdout and split"]),
    "no such BED": (good, ["--split", "missing.bed"], 1, ["missing.bed"]),
    "unknown preset": (good, ["--preset", "2g"], 2, ["2g", "1.4m"]),
    "sees the future": (good, ["--bidirectional"], 2, ["bidirectional", "masked"]),
    "no state to carry": (
        good,
        ["--tbptt", "16", "--objective", "masked", "--bidirectional"],
        2,
        ["tbptt", "both ways"],
    ),
    "not a count": (good, ["--tokens", "many"], 2, ["many", "2.5M"]),
    "learning rate": (good, ["--lr", "-1"], 2, ["lr -1"]),
    "two faults": (good, ["--preset", "2g", "--soft-mask-weight", "2"], 2, ["2g", "soft_mask"]),
    "no such device": (good, ["--device", "cuda:99"], 2, ["cuda:99"]),
    "no such config": (good, ["--config", "missing.toml"], 1, ["missing.toml"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_leaves_nothing(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, flags, code, parts = BAD[case]
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    output = tmp_path / "runs" / "run"
    result = cli.run(["pretrain", str(make(inputs)), "-o", str(output), "--length", "64", *flags])
    assert result == code or (code is None and result in (1, 2))
    error = one_line(capsys)
    for part in parts:
        assert part in error
    assert not output.parent.exists()


@pytest.mark.parametrize(
    ("toml", "part"),
    [
        ("presett = '250k'\n", "did you mean 'preset'"),
        ("[optimizer]\nbeta = [0.9, 0.95]\n", "did you mean 'betas'"),
        ("length = 'long'\n", "length"),
        ("holdout = 'chr2'\n", "not a list"),
        ("optimizer = 0.1\n", "not a table"),
        ("length =\n", "line 1"),
    ],
)
def test_a_config_that_is_wrong_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], toml: str, part: str
) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(toml)
    call = ["pretrain", str(good(tmp_path)), "-o", str(tmp_path / "run"), "--config", str(path)]
    assert cli.run(call) in (1, 2)
    error = one_line(capsys)
    assert "settings.toml" in error
    assert part in error


def test_an_output_that_exists_is_left_alone(
    genome: Path, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = weights(straight)
    assert cli.run(arguments(genome, straight)) == 2
    assert "--resume" in one_line(capsys)
    assert weights(straight) == before
    (tmp_path / "mine.txt").write_text("mine")
    assert cli.run(arguments(genome, tmp_path, "--force")) == 2
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_sizes_shrink_to_the_machine_and_a_resume_keeps_them(
    genome: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    stop_at: Callable[[int, int], None],
) -> None:
    output = tmp_path / "run"
    call = [
        "pretrain",
        str(genome),
        "-o",
        str(output),
        "--device",
        "cpu",
        "--batch",
        "2",
        "-t",
        "1",
    ]
    stop_at(1, signal.SIGTERM)
    assert cli.run(call) == 0
    err = capsys.readouterr().err
    assert "ten minutes" in err
    assert "--preset 250k" in err
    steps = json.loads((output / "run.json").read_text())["config"]["steps"]
    assert f"--steps {steps}" in err
    monkeypatch.undo()
    stop_at(3, signal.SIGTERM)
    assert cli.run([*call, "--resume"]) == 0
    assert json.loads((output / "run.json").read_text())["config"]["steps"] == steps


@pytest.mark.parametrize("extra", [[], ["--bidirectional"], ["--symmetry", "shared"]])
def test_the_masked_objective_runs_in_every_shape(
    genome: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str]
) -> None:
    flags = ["--objective", "masked", "--steps", "2", *extra]
    assert cli.run(arguments(genome, tmp_path / "run", *flags)) == 0
    out, err = capsys.readouterr()
    assert table(out)[0]["model"] == "250k masked-base Mamba"
    assert "both sides" in err


def test_several_genomes_train_one_model(genome: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.fa"
    other.write_text(genome.read_text().replace("ACG", "ACT"))
    call = arguments(genome, tmp_path / "run", "--steps", "2")
    assert cli.run([call[0], str(other), *call[1:]]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [Path(entry["path"]).name for entry in record["inputs"]] == ["other.fa", "small.fa"]
