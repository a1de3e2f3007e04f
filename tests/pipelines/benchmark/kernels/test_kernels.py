"""`dnamamba benchmark kernels`."""

import sys
from types import ModuleType

import pytest
import torch

from dnamamba import cli
from dnamamba.kernels import compat
from dnamamba.pipelines.benchmark.kernels import peers
from dnamamba.pipelines.benchmark.kernels.rows import COLUMNS, CPU_SHAPES, DTYPES, GPU_SHAPES
from dnamamba.pipelines.benchmark.kernels.workloads import OPS
from tests.pipelines.runs import one_line, table

FIGURES = ("time_ms", "gb_per_second", "floor_ms", "ratio", "first_s")
BOTH = ["forward", "forward+backward"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _small_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        monkeypatch.setattr("dnamamba.pipelines.benchmark.kernels.floors.COPY_BYTES", 2**22)


def rows(capsys: Capture, *arguments: str) -> list[dict[str, str]]:
    quick = ("-q", "-t", "1", "--device", "cpu", "--seconds", "0.001")
    assert cli.run(["benchmark", "kernels", *quick, *arguments]) == 0
    text = capsys.readouterr().out
    assert tuple(text.splitlines()[0].split("\t")) == COLUMNS
    return table(text)


def test_every_op_and_peer_has_its_rows(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("causal_conv1d")
    package.causal_conv1d_fn = compat.causal_conv1d_fn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "causal_conv1d", package)
    monkeypatch.setattr(peers, "installed", lambda name: name == "causal_conv1d")
    monkeypatch.setattr(peers, "SEQUENTIAL_STEPS", 8)
    found = rows(
        capsys,
        *("--peers", "--shape", "2x16x8", "--state", "4", "--dtype", "bf16"),
        *("--backend", "chunked", "--backend", "auto", "--op", "scan", "--op", "conv"),
        *("--backend", "reference", "--op", "norm", "--op", "update"),
    )
    places: dict[tuple[str, str, str, str], list[str]] = {}
    for row in found:
        place = (row["op"], row["path"], row["length"], row["note"])
        places.setdefault(place, []).append(row["pass"])
    assert places == {
        ("scan", "chunked", "16", ""): BOTH,
        ("scan", "numba", "16", ""): BOTH,
        ("conv", "numba", "16", ""): BOTH,
        ("scan", "reference", "16", ""): BOTH,
        ("scan", "mamba_ssm", "", "not installed"): [""],
        ("scan", "reference", "8", "one step at a time, shortened from 16"): BOTH,
        ("attention", "sdpa", "16", "2 heads of 64"): BOTH,
        ("conv", "reference", "16", ""): BOTH,
        ("conv", "causal_conv1d", "16", ""): BOTH,
        ("norm", "reference", "16", "residual fp32"): BOTH,
        ("norm", "reference", "16", "residual bf16"): BOTH,
        ("update", "reference", "1", ""): ["forward"],
        ("update", "numba", "1", ""): ["forward"],
    }
    for row in found:
        if row["note"] == "not installed":
            assert not any(row[column] for column in COLUMNS[2:-1])
            continue
        attends, stateful = row["op"] == "attention", row["op"] in ("scan", "update")
        assert (row["batch"], row["channels"]) == ("2", "128" if attends else "8")
        assert row["state"] == ("4" if stateful else "")
        assert row["dtype"] == "bf16"
        assert row["floor_of"] == ("-" if attends else "memory")
        assert row["peak_gib"] == ""
        for column in FIGURES:
            if attends and column not in ("time_ms", "first_s"):
                assert row[column] == ""
            else:
                assert float(row[column]) > 0, (row, column)
        if not attends:
            ratio = float(row["time_ms"]) / float(row["floor_ms"])
            assert float(row["ratio"]) == pytest.approx(ratio, rel=2e-3)


def test_what_does_not_fit_is_said_and_the_rest_goes_on(capsys: Capture) -> None:
    huge = f"1x{2**47}x8"
    found = rows(capsys, "--op", "conv", "--shape", huge, "--shape", "1x4x8")
    assert [(row["length"], row["pass"]) for row in found] == [
        (length, name) for length in (str(2**47), "4") for name in BOTH
    ]
    assert [row["note"] for row in found] == ["out of memory", "out of memory", "", ""]
    assert [bool(row["time_ms"]) for row in found] == [False, False, True, True]
    assert all(float(row["floor_ms"]) > 0 for row in found)


def test_a_backend_that_cannot_run_here_is_said(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnamamba.kernels.dispatch.has_triton", lambda: False)
    (one, other) = rows(capsys, "--op", "conv", "--shape", "1x4x8", "--backend", "triton")
    assert one["path"] == other["path"] == "triton"
    assert one["note"] == other["note"]
    assert "not installed: pip install triton" in one["note"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--op scam", "'scam' is not one of 'scan', 'conv', 'norm', 'update'"),
        ("--dtype fp8", "'fp8' is not one of 'bf16', 'fp16', 'fp32'"),
        ("--shape 1x16", "--shape 1x16: BATCHxLENGTHxCHANNELS is wanted"),
        ("--op norm --backend numba", "backend numba: norm has auto, reference, triton"),
    ],
)
def test_wrong_usage_is_one_line(arguments: str, message: str, capsys: Capture) -> None:
    assert cli.run(["benchmark", "kernels", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1]
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_an_error_of_ours_is_all_that_is_said(capsys: Capture) -> None:
    assert cli.run(["benchmark", "kernels", "--shape", "long"]) == 2
    assert "BATCHxLENGTHxCHANNELS is wanted" in one_line(capsys)


def test_every_op_has_shapes_of_its_own() -> None:
    assert list(GPU_SHAPES) == list(CPU_SHAPES) == list(OPS)


@pytest.mark.gpu
def test_on_a_gpu(cuda: torch.device, capsys: Capture) -> None:
    arguments = "benchmark kernels -q --seconds 0.01 --peers --shape 1x2048x128"
    assert cli.run([*arguments.split(), "--device", str(cuda)]) == 0
    found = [row for row in table(capsys.readouterr().out) if row["time_ms"]]
    fused = [row for row in found if row["path"] == "triton"]
    assert {row["op"] for row in fused} == {"scan", "update", "conv", "norm"}
    assert {row["floor_of"] for row in fused if row["op"] == "scan"} == {"exponentials"}
    assert {row["dtype"] for row in found} == {"bf16"}
    outputs = {"forward": 1, "forward+backward": 2}
    for row in fused:
        element = DTYPES[row["dtype"]].itemsize
        steps = 1 if row["op"] == "update" else 2048
        held = outputs[row["pass"]] * steps * 128 * element
        assert float(row["peak_gib"]) * 2**30 >= 0.999 * held, row
