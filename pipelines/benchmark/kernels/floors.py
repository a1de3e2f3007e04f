"""The least time that an op can take: what it must move, and the exponentials it must take.

Memory. Every input is read once, every output written once; a backward reads the inputs and the
output's gradient again and writes a gradient for each input. With S = batch * length * channels
elements a sequence, e bytes an element of dtype, r bytes an element of the residual stream, N
states and fp32 weights:

| op     | forward                                    | backward                           |
|--------|--------------------------------------------|------------------------------------|
| scan   | 4 S e + 2 batch length N e + W             | 7 S e + 4 batch length N e + 2 W   |
| conv   | 2 S e + 20 channels                        | 3 S e + 40 channels                |
| norm   | 2 S (e + r) + 4 channels                   | 2 S (e + r) [+ S r] + 8 channels   |
| update | 8 S N + 4 S e + 2 batch N e + W (length 1) |                                    |

W = 4 channels (N + 2) is A, D and delta_bias. The norm's backward needs the sum but neither of its
terms; x and the residual share a gradient where they share a type, else S r more is written.
These bytes over the bandwidth of a copy, measured on the device, give the memory floor.

Exponentials. A scan takes batch * length * channels * N of them, exp(delta A), once forward and
once more backward, which needs the decays again. A CUDA multiprocessor of compute capability 7.x
to 9.0 takes 16 a clock (CUDA C++ Programming Guide, throughput of native arithmetic instructions).
The few of softplus and the gate are left out. A kernel that takes part of the exponentials as
polynomials can pass below this floor.

The floor is the larger of the two.
"""

import subprocess
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch

from dnamamba.log import logger
from dnamamba.pipelines.benchmark.kernels.timer import Timer
from dnamamba.pipelines.benchmark.kernels.workloads import BOTH, WIDTH, Workload

EXPONENTIALS_A_CLOCK: Final = 16
COPY_BYTES: Final = 2**30
"""What is copied on a GPU; elsewhere a quarter of it."""


@dataclass(frozen=True)
class Machine:
    """What a device can do at most.

    Parameters
    ----------
    bandwidth
        Bytes read and written a second by a large copy.
    exponentials
        A second, through a GPU's special-function units; None where that rate is not known.
    """

    bandwidth: float
    exponentials: float | None


class Floor(NamedTuple):
    """Bytes that a pass must move, its least seconds, and what sets them."""

    moved: int
    seconds: float
    of: str


def measure_machine(timer: Timer) -> Machine:
    """Time a copy on the device, and work out its rate of exponentials if it is a CUDA one."""
    device = timer.device
    size = COPY_BYTES if device.type == "cuda" else COPY_BYTES // 4
    source = torch.arange(size // 4, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / timer.measure(lambda: target.copy_(source)).seconds
    clock = max_clock(device) if device.type == "cuda" else None
    rate = None
    if clock:
        multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
        rate = EXPONENTIALS_A_CLOCK * multiprocessors * clock
    elif device.type == "cuda":
        logger.warning("the SM clock is unknown; floors leave the exponentials out")
    return Machine(bandwidth, rate)


def max_clock(device: torch.device) -> float | None:
    """Return the highest SM clock of a GPU in Hz; None where neither driver nor tool tells it."""
    properties = torch.cuda.get_device_properties(device)
    kilohertz = getattr(properties, "clock_rate", 0)  # which some builds of PyTorch lack
    if kilohertz:
        return kilohertz * 1e3
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [*query, "-i", f"GPU-{properties.uuid}"], capture_output=True, text=True, check=True
        )
        return float(done.stdout) * 1e6
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None


def traffic(work: Workload) -> tuple[int, int] | None:
    """Count the bytes that a forward and a backward must move; None for attention."""
    batch, length, channels = work.shape
    sequence = batch * length * channels
    e, r = work.dtype.itemsize, work.residual.itemsize
    weights = 4 * channels * (work.state + 2)
    if work.op == "scan":
        projections = 2 * batch * length * work.state * e
        forward = 4 * sequence * e + projections + weights
        return forward, 7 * sequence * e + 2 * projections + 2 * weights
    if work.op == "conv":
        taps = 4 * channels * (WIDTH + 1)
        return 2 * sequence * e + taps, 3 * sequence * e + 2 * taps
    if work.op == "norm":
        activations, scale = 2 * sequence * (e + r), 4 * channels
        apart = sequence * r if work.residual != work.dtype else 0
        return activations + scale, activations + apart + 2 * scale
    if work.op == "update":
        states = 2 * 4 * sequence * work.state
        return states + 4 * sequence * e + 2 * batch * work.state * e + weights, 0
    return None


def floor(work: Workload, name: str, machine: Machine) -> Floor | None:
    """Work out the floor of a pass, `FORWARD` or `BOTH`; None for attention."""
    counted = traffic(work)
    if counted is None:
        return None
    moved = sum(counted) if name == BOTH else counted[0]
    floors = {"memory": moved / machine.bandwidth}
    if work.op == "scan" and machine.exponentials:
        batch, length, channels = work.shape
        passes = 2 if name == BOTH else 1
        floors["exponentials"] = (
            passes * batch * length * channels * work.state / machine.exponentials
        )
    slowest = max(floors, key=lambda what: floors[what])
    return Floor(moved, floors[slowest], slowest)
