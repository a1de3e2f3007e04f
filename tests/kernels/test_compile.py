"""Every Triton kernel still compiles for GPUs that this machine need not have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNELS = {
    "conv.gpu._forward",
    "conv.gpu._final_state",
    "conv.gpu._backward",
    "conv.gpu._update",
    "norm.gpu._forward",
    "norm.gpu._backward",
    "scan.gpu.span_ends_kernel",
    "scan.gpu.carry_kernel",
    "scan.gpu.replay_kernel",
    "scan.gpu.shift_kernel",
    "scan.gpu.sum_parts_kernel",
    "scan.gpu_backward.differentiate_kernel",
    "scan.gluon.differentiate_kernel",
    "scan.gpu_update._update",
}
USUAL = ("scan", "update", "convolution", "normalisation")
"""Cases in bf16 at the sizes that kernels are tuned for, where registers should do."""
STACK = {"scan.gluon.differentiate_kernel": 128, "scan.gpu.span_ends_kernel": 64}
"""Bytes that a thread may spill there, where that is not none: the first holds as much as a thread
can, the second is faster with more warps."""


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90], ids=lambda capability: f"sm_{capability}")
def test_every_kernel_compiles(capability: int, tmp_path: Path) -> None:
    """In a process of its own: here Triton may interpret its kernels instead."""
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compiling", str(capability)],
        cwd=ROOT,
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["kernel"] for row in rows} == KERNELS
    spilt = [
        row for row in rows if row["case"] in USUAL and row["stack"] > STACK.get(row["kernel"], 0)
    ]
    assert not spilt
