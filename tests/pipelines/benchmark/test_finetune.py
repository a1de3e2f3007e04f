from pathlib import Path

import pytest

from dnamamba import cli
from tests.pipelines.runs import one_line, table
from tests.pipelines.test_finetune import write


def test_rows_are_held_against_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    command = "benchmark finetune --preset 250k --shape 2x32 --method full --method lora"
    assert cli.run([*command.split(), "--precision", "fp32", "--device", "cpu", "-t", "1"]) == 0
    full, lora = table(capsys.readouterr().out)
    assert [full[name] for name in ("method", "precision", "batch", "length")] == [
        *("full", "fp32", "2", "32")
    ]
    assert full["faster"] == full["accuracy"] == ""
    ratio = float(full["step_ms"]) / float(lora["step_ms"])
    assert float(lora["faster"]) == pytest.approx(ratio, rel=1e-4)
    assert float(full["bases_per_second"]) == pytest.approx(
        64_000 / float(full["step_ms"]), rel=1e-4
    )
    assert 0 < int(lora["trained"]) < int(full["trained"])


def test_accuracies_are_of_the_same_sequences(
    tmp_path: Path, backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = [str(write(tmp_path / f"{seed}.csv", seed, 24)) for seed in range(2)]
    command = ["benchmark", "finetune", *tables, "-m", str(backbone), "--shape", "1x16"]
    command += ["--method", "frozen", "--method", "full", "--precision", "fp32", "--seeds", "2"]
    command += ["--epochs", "1", "--work", str(tmp_path / "work"), "--device", "cpu", "-t", "1"]
    assert cli.run(command) == 0
    frozen, full = table(capsys.readouterr().out)
    for row in (frozen, full):
        assert row["seeds"] == "2"
        assert 0.7 < float(row["low"]) <= float(row["accuracy"]) <= float(row["high"]) <= 1
    gain = float(full["accuracy"]) - float(frozen["accuracy"])
    assert float(full["gain"]) == pytest.approx(gain, abs=1e-5)
    assert (tmp_path / "work/full-fp32/seed-1/results.tsv").exists()


def test_tables_want_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["benchmark", "finetune", str(tmp_path / "a.csv")]) == 2
    assert "-m MODEL" in one_line(capsys)
