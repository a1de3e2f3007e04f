import gzip
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from dnamamba import cli, log
from dnamamba.pipelines import pretrain_run
from dnamamba.training.checkpoint import FOLDER, list_states

STEPS = 8


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three contigs of random bases, some soft-masked, some N."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("genome") / "small.fa"
    with path.open("w") as handle:
        for name, length in (("chr1", 6000), ("chr2", 3000), ("chr3", 3000)):
            bases = "".join(rng.choices("ACGTacgtN", weights=[9, 6, 6, 9, 3, 2, 2, 3, 1], k=length))
            handle.write(f">{name}\n{bases}\n")
    return path


def arguments(genome: Path, output: Path, *more: str) -> list[str]:
    return [
        *("pretrain", str(genome), "-o", str(output), "--preset", "250k", "--length", "64"),
        *("--batch", "3", "--steps", str(STEPS), "--checkpoint-every", "2", "--holdout", "chr2"),
        *("--validate-every", "3"),
        *("--device", "cpu", "-t", "1", *more),
    ]


@pytest.fixture(scope="module")
def straight(genome: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has disturbed."""
    output = tmp_path_factory.mktemp("runs") / "straight"
    assert cli.run(arguments(genome, output)) == 0
    return output


@pytest.fixture(autouse=True)
def _threads_restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def table(text: str) -> list[dict[str, str]]:
    header, *rows = (line.split("\t") for line in text.splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def without_times(metrics: Path) -> list[list[str]]:
    """Return a metrics.tsv without its seconds."""
    rows = (line.split("\t") for line in metrics.read_text().splitlines())
    return [row[:2] + row[3:] for row in rows]


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


def test_micro_batches_learn_the_same(genome: Path, straight: Path, tmp_path: Path) -> None:
    from dnamamba.models.pretrained import load

    assert cli.run(arguments(genome, tmp_path / "micro", "--micro-batch", "1")) == 0
    one, other = load(straight).state_dict(), load(tmp_path / "micro").state_dict()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-2, atol=1e-3)


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Let a signal arrive while the batch of a step is read."""
    feed = pretrain_run.feed

    def stop(step: int, number: int) -> None:
        def stopping(windows: object, steps: range, *rest: object, **more: object) -> object:
            for at, codes in zip(steps, feed(windows, steps, *rest, **more), strict=True):  # type: ignore[arg-type]
                if at == step:
                    os.kill(os.getpid(), number)
                yield codes

        monkeypatch.setattr(pretrain_run, "feed", stopping)

    return stop


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_resume_after_a_signal_is_exact(
    genome: Path,
    straight: Path,
    tmp_path: Path,
    stop_at: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
) -> None:
    output = tmp_path / "halves"
    stop_at(4, number)
    assert cli.run(arguments(genome, output)) == code
    assert "--resume" in capsys.readouterr().err.splitlines()[-1]
    assert list_states(output)[0].stem == "step-000000005"
    assert not (output / "results.tsv").exists()
    monkeypatch.undo()
    assert cli.run(arguments(genome, output, "--resume")) == 0
    assert weights(output) == weights(straight)
    assert without_times(output / "metrics.tsv") == without_times(straight / "metrics.tsv")


KILLED = """
import os, signal, sys
from pathlib import Path
from dnamamba import cli
from dnamamba.training.checkpoint import FOLDER

write_bytes, target, count = Path.write_bytes, sys.argv[1], [0]

def half(path, data):
    if target in str(path):
        count[0] += 1
        if count[0] == 3:
            write_bytes(path, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
    return write_bytes(path, data)

Path.write_bytes = half
sys.exit(cli.run(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    "target", [FOLDER, pytest.param("model.safetensors", marks=pytest.mark.slow)]
)
def test_resume_after_kill_in_the_middle_of_a_write_is_exact(
    genome: Path, straight: Path, tmp_path: Path, target: str
) -> None:
    output = tmp_path / "killed"
    call = [sys.executable, "-c", KILLED, target, *arguments(genome, output)]
    assert subprocess.run(call, capture_output=True).returncode == -signal.SIGKILL
    assert list(output.rglob(".*.tmp"))
    assert list_states(output)[0].stem == f"step-00000000{4 if target == FOLDER else 6}"
    assert cli.run(arguments(genome, output, "--resume")) == 0
    assert weights(output) == weights(straight)
    assert without_times(output / "metrics.tsv") == without_times(straight / "metrics.tsv")
    assert not list(output.rglob(".*.tmp"))


@pytest.mark.slow
def test_resume_after_kills_at_any_moment_is_exact(
    genome: Path, straight: Path, tmp_path: Path
) -> None:
    output = tmp_path / "killed"
    rng = random.Random(0)
    call = [sys.executable, "-m", "dnamamba", *arguments(genome, output, "--resume")]
    for _ in range(12):
        process = subprocess.Popen(call, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (output / FOLDER).exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 3.0))
        process.kill()
        process.wait()
    assert cli.run(arguments(genome, output, "--resume")) == 0
    assert weights(output) == weights(straight)
    assert without_times(output / "metrics.tsv") == without_times(straight / "metrics.tsv")


def test_resume_of_nothing_starts_at_zero_and_of_a_finished_run_ends(
    genome: Path, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    assert cli.run(arguments(genome, output, "--resume")) == 0
    assert weights(output) == weights(straight)
    capsys.readouterr()
    before = weights(output)
    assert cli.run(arguments(genome, output, "--resume")) == 0
    assert "finished" in capsys.readouterr().err
    assert weights(output) == before


def test_force_starts_anew(genome: Path, straight: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    assert cli.run(arguments(genome, output, "--seed", "1", "--steps", "2")) == 0
    assert weights(output) != weights(straight)
    (output / "stray.txt").write_text("")
    assert cli.run(arguments(genome, output, "--force")) == 0
    assert weights(output) == weights(straight)
    assert not (output / "stray.txt").exists()


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error line, after whatever the run has logged."""
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith(("dnamamba: error:", "Error:"))]
    assert len(errors) == 1, lines
    assert lines[-1] == errors[0]
    assert "Traceback" not in "".join(lines)
    return errors[0]


@pytest.fixture
def halted(
    genome: Path,
    tmp_path: Path,
    stop_at: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A run that was stopped after five steps."""
    output = tmp_path / "halted"
    stop_at(4, signal.SIGTERM)
    assert cli.run(arguments(genome, output)) == 0
    monkeypatch.undo()
    return output


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--preset", "700k"], ["preset 250k", "700k"]),
        (["--length", "128"], ["length 64", "128"]),
        (["--seed", "3"], ["seed 0", "3"]),
        (["--lr", "0.001", "--batch", "4"], ["lr 0.008", "0.001", "batch 3", "4"]),
        (["--steps", "16"], ["steps 8", "16"]),
    ],
    ids=lambda value: value[0].strip("-").replace(" ", "-"),
)
def test_resume_refuses_other_settings_by_name(
    genome: Path,
    halted: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    parts: list[str],
) -> None:
    before = weights(halted)
    capsys.readouterr()
    assert cli.run(arguments(genome, halted, "--resume", *flags)) == 2
    error = one_line(capsys)
    for part in [*parts, str(halted)]:
        assert part in error
    assert weights(halted) == before


def test_resume_may_change_what_decides_where_and_when(
    genome: Path, halted: Path, straight: Path
) -> None:
    call = arguments(genome, halted, "--resume", "--validate-every", "5", "--checkpoint-every", "1")
    assert cli.run(call) == 0
    assert weights(halted) == weights(straight)


def test_resume_refuses_a_genome_that_has_changed(
    genome: Path, halted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "small.fa"
    other.write_text(genome.read_text().replace("ACG", "ACT", 1))
    capsys.readouterr()
    assert cli.run(arguments(other, halted, "--resume")) == 1
    assert "SHA-256" in one_line(capsys)


def test_a_truncated_checkpoint_gives_way_to_the_one_before(
    genome: Path, halted: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = list_states(halted)[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    capsys.readouterr()
    assert cli.run(arguments(genome, halted, "--resume")) == 0
    assert f"warning: {newest}" in capsys.readouterr().err
    assert weights(halted) == weights(straight)


def test_a_checkpoint_of_another_preset_is_refused(
    genome: Path, halted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert cli.run(arguments(genome, other, "--preset", "700k", "--steps", "1")) == 0
    for path in list_states(halted):
        path.unlink()
    list_states(other)[0].rename(halted / FOLDER / "step-000000006.safetensors")
    capsys.readouterr()
    assert cli.run(arguments(genome, halted, "--resume")) == 2
    assert "preset 700k, and this run has 250k" in one_line(capsys)


def test_a_pickled_checkpoint_is_refused(
    genome: Path, halted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weights": torch.zeros(2)}, halted / FOLDER / "step-000000009.safetensors")
    capsys.readouterr()
    assert cli.run(arguments(genome, halted, "--resume")) == 1
    assert "step-000000009.safetensors: holds a pickle" in one_line(capsys)


def test_with_every_checkpoint_cut_short_the_error_names_the_cure(
    genome: Path, halted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in list_states(halted):
        path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    assert cli.run(arguments(genome, halted, "--resume")) == 1
    assert "--resume to start at zero" in one_line(capsys)


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(
    genome: Path, halted: Path, straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list_states(halted)
    capsys.readouterr()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        assert cli.run(arguments(genome, halted, "--resume")) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "step-000000006.safetensors" in one_line(capsys)
    assert list_states(halted) == before
    assert not list(halted.rglob(".*.tmp"))
    assert cli.run(arguments(genome, halted, "--resume")) == 0
    assert weights(halted) == weights(straight)


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
