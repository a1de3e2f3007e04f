"""Compile, and never launch, the Triton kernels that the ops' host code calls; it needs no GPU.

`python -m tests.kernels.compiling 90` does so for compute capability 9.0, and prints a line of JSON
for each compiled kernel: what called it, its name, registers of a thread, bytes of its stack. That
is where registers spill.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from dnamamba.kernels.conv import launch as conv
from dnamamba.kernels.norm import launch as norm
from dnamamba.kernels.scan import gpu_update, triton_scan
from dnamamba.kernels.scan.inputs import ScanInputs

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


class Driver:
    """What Triton asks of a GPU in order to compile for it."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def scan(
    dtype: torch.dtype = BF16,
    *,
    length: int = 4096,
    channels: int = 256,
    state: int = 16,
    groups: int = 1,
    constant: bool = False,
    options: bool = True,
    packed: bool = False,
    reverse: bool = False,
) -> None:
    def sequence(*shape: int) -> Tensor:
        return torch.zeros(1, length, *shape, dtype=dtype)

    vector = torch.zeros(channels) if options else None
    inputs = ScanInputs(
        u=sequence(channels),
        delta=sequence(channels),
        A=torch.zeros(channels, state),
        B=torch.zeros(channels, state, dtype=dtype) if constant else sequence(groups, state),
        C=sequence(groups, state),
        D=vector,
        z=sequence(channels) if options else None,
        delta_bias=vector,
        starts=torch.zeros(1, length, dtype=torch.bool) if packed else None,
        delta_softplus=options,
        reverse=reverse,
    )
    before = torch.zeros(1, channels, state) if options else None
    triton_scan.forward(inputs, before, keep=False)
    *_, saved = triton_scan.forward(inputs, before, keep=True)
    triton_scan.backward(inputs, before, saved, sequence(channels), before)
    triton_scan.forward(inputs, before, keep=False, exchange=lambda end, total: end)


def update(dtype: torch.dtype = BF16, *, state: int = 16, options: bool = True) -> None:
    u = torch.zeros(2, 256, dtype=dtype)
    B = torch.zeros(2, 1, state, dtype=dtype)
    vector, z = (torch.zeros(256), u) if options else (None, None)
    states = torch.zeros(2, 256, state)
    gpu_update.update(states, u, u, states[0], B, B, vector, z, vector, options)


def convolution(
    dtype: torch.dtype = BF16, *, width: int = 4, options: bool = True, reverse: bool = False
) -> None:
    x, weight = torch.zeros(2, 4096, 256, dtype=dtype), torch.zeros(256, width)
    bias, state, seq_idx = None, None, None
    if options:
        bias, state = weight[:, 0], x[:, : width - 1]
        seq_idx = torch.zeros(2, 4096, dtype=torch.int32)
    conv.forward(x, weight, bias, state, seq_idx, options, reverse)
    conv.final_state(x, width, state, seq_idx, reverse)
    conv.backward(x, weight, bias, state, seq_idx, x, state, options, reverse)
    conv.update(x[:, 0], x[:, : width - 1], weight, bias, options)


def normalisation(
    dtype: torch.dtype = BF16, *, stream: torch.dtype | None = None, channels: int = 256
) -> None:
    x, weight = torch.zeros(64, channels, dtype=dtype), torch.zeros(channels)
    residual = None if stream is None else x.to(stream)
    norm.forward(x, weight, residual, 1e-5)
    norm.backward(x if residual is None else residual, weight, x, residual, 1e-5)


CASES: dict[str, Callable[[], None]] = {
    "scan": scan,
    "scan of fp32, packed and reversed": lambda: scan(FP32, packed=True, reverse=True),
    "scan of fp16 in groups, odd sizes": lambda: scan(
        FP16, length=999, channels=40, state=7, groups=2
    ),
    "scan of 256 states, least options": lambda: scan(
        channels=64, state=256, constant=True, options=False
    ),
    "update": update,
    "update of 256 states, least options": lambda: update(FP32, state=256, options=False),
    "convolution": convolution,
    "convolution of fp32, least options": lambda: convolution(
        FP32, width=2, options=False, reverse=True
    ),
    "normalisation": lambda: normalisation(stream=FP32),
    "normalisation of fp32, no residual": lambda: normalisation(FP32, channels=8192),
}


def usage(cubin: bytes) -> dict[str, int]:
    """Read how many registers and how much stack a thread has."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, "-res-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", told)
    if found is None:
        raise ValueError(f"cuobjdump says {told!r}")
    return {"registers": int(found[1]), "stack": int(found[2])}


def compile_all(capability: int) -> Iterator[dict[str, Any]]:
    """Compile each case's kernels, and describe them."""
    triton.runtime.driver.set_active(Driver(capability))
    launch, compiled = JITFunction.run, {}

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = launch(self, *args, grid=grid, warmup=True, **options)
        module = self.fn.__module__.removeprefix("dnamamba.kernels.")
        compiled[kernel] = f"{module}.{self.__name__}"
        return kernel

    JITFunction.run = compile_only
    for case, run in CASES.items():
        compiled.clear()
        run()
        for kernel, name in compiled.items():
            yield {"case": case, "kernel": name, **usage(kernel.asm["cubin"])}


if __name__ == "__main__":
    for row in compile_all(int(sys.argv[1])):
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
