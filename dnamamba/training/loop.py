"""The training loop: steps, gradient accumulation, clipping, and an orderly stop.

It knows tensors and callbacks, and nothing of files, FASTA or the command line. A step never waits
for the device: losses stay there until they are reported.
"""

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from dnamamba.errors import DnamambaError
from dnamamba.evaluation.language import Batch, Objective
from dnamamba.models.backbone import detached
from dnamamba.models.precision import UNSCALED, Autocast
from dnamamba.processes import ALONE, Processes
from dnamamba.training.divergence import EXPLODED_BITS, DivergedError, Watch
from dnamamba.training.optimizer import OptimizerConfig
from dnamamba.training.parallel import Trained, exchanging, whole
from dnamamba.training.schedule import learning_rate
from dnamamba.training.signals import Interruption, StopRequest

REPORT_SECONDS: Final = 0.5
"""How long losses may wait on the device before they are read."""


@dataclass(frozen=True)
class LoopConfig:
    """How a run is cut into steps.

    Attributes
    ----------
    steps
        Optimiser steps of the whole run.
    batch
        Windows a step, of all processes together.
    micro_batch
        Windows a forward and backward pass; their gradients add up to the batch's. Of shorter ones
        there are as many more as make the same bases.
    length
        Bases of a window, or of the longest.
    tbptt
        Bases that gradients reach back over at most: a window is read in segments of so many, each
        from the exact state that the one before left; None reads it at once.
    validate_every, checkpoint_every
        Steps between two validations, and between two checkpoints.
    exploded_bits
        Mean loss that no run which learns has for steps on end.
    padding
        The code behind the end of a window that is shorter than others of its batch; None where
        those of a batch are of one length.
    """

    steps: int
    batch: int
    micro_batch: int
    length: int
    validate_every: int
    checkpoint_every: int
    tbptt: int | None = None
    exploded_bits: float = EXPLODED_BITS
    padding: int | None = None

    def passes(self, codes: Tensor) -> list[int]:
        """Return how many windows each pass over (batch, length) codes reads, in their order."""
        if self.padding is None:
            lengths = [codes.shape[1]] * len(codes)
        else:
            lengths = (codes != self.padding).sum(1).tolist()
        most = self.micro_batch * self.length
        sizes, bases = [0], 0
        for length in lengths:
            if bases + length > most and sizes[-1]:
                sizes.append(0)
                bases = 0
            sizes[-1] += 1
            bases += length
        return sizes


@dataclass(frozen=True)
class Row:
    """What one step did.

    Attributes
    ----------
    step
        Steps done, this one included.
    lr
        Its learning rate.
    bits
        Mean loss of its targets in bits; NaN where none carried any weight.
    norm
        Norm of its whole gradient before clipping; not finite where fp16 could not hold it, and the
        step was left out.
    """

    step: int
    lr: float
    bits: float
    norm: float


@dataclass(frozen=True)
class Callbacks:
    """What the loop calls: rows of finished steps, a validation, a checkpoint.

    A validation that a signal breaks off raises an `Interruption`, on every process alike.
    """

    report: Callable[[list[Row]], None]
    validate: Callable[[int], None]
    save: Callable[[int], None]


def train_step(
    model: Trained,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    codes: Tensor,
    step: int,
    *,
    micro_batch: int | list[int],
    clip: float,
    tbptt: int | None = None,
    autocast: Autocast = nullcontext,
    processes: Processes = ALONE,
    scaler: GradScaler = UNSCALED,
) -> Tensor:
    """Take one optimiser step on (batch, length) uint8 codes that lie on the model's device.

    Every target weighs the same whichever micro-batch it falls in, and whichever process has it.

    Returns
    -------
    (4,) float32 on the device, of the whole step: weighted loss in nats, weight, norm of the
    gradient before clipping, and what `scaler` multiplied the loss by.
    """
    optimizer.zero_grad(set_to_none=True)
    nats, weight = accumulate_gradients(
        model,
        objective,
        codes,
        step,
        micro_batch=micro_batch,
        tbptt=tbptt,
        autocast=autocast,
        processes=processes,
        scaler=scaler,
    )
    scaler.unscale_(optimizer)
    norm = whole(nn.utils.clip_grad_norm_(model.parameters(), clip))
    scale = scaler.scale(torch.ones_like(norm))
    scaler.step(optimizer)
    scaler.update()
    return torch.stack([nats, weight, norm, scale])


def accumulate_gradients(
    model: Trained,
    objective: Objective,
    codes: Tensor,
    step: int,
    *,
    micro_batch: int | list[int],
    tbptt: int | None = None,
    autocast: Autocast = nullcontext,
    processes: Processes = ALONE,
    scaler: GradScaler = UNSCALED,
) -> tuple[Tensor, Tensor]:
    """Add the gradient of the batch's mean loss, micro-batch by micro-batch, segment by segment.

    Parameters
    ----------
    codes
        This process's share of the windows, each whole.
    micro_batch
        Windows a pass, or those of each.
    scaler
        What multiplies the loss, and so the gradient.

    Returns
    -------
    The weighted loss in nats and the weight of the whole batch, float32 scalars on the device.
    """
    asked = objective(codes, step, processes.reader * len(codes))
    here = processes.part(codes.shape[1])
    passes = list(_passes(Batch(*(tensor[:, here] for tensor in asked)), micro_batch, tbptt))
    weight = processes.add(asked.weights[:, here].sum())
    # Gradients will be averaged over the processes.
    share = processes.size / weight.clamp_min(1e-6)
    nats = torch.zeros_like(weight)
    state = None
    for number, (begins, batch) in enumerate(passes, 1):
        with exchanging(model, last=number == len(passes)):
            with autocast():
                scored, state = model.nats(
                    batch.inputs,
                    batch.targets,
                    None if begins else detached(state),
                    return_state=tbptt is not None,
                )
            loss = (scored * batch.weights).sum()
            torch.autograd.backward(scaler.scale(loss * share))
        nats += loss.detach()
    return processes.add(nats), weight


def _passes(
    batch: Batch, micro_batch: int | list[int], tbptt: int | None
) -> Iterator[tuple[bool, Batch]]:
    """Cut a batch into forward and backward passes, and tell which begin their windows."""
    for windows in zip(*(torch.split(tensor, micro_batch) for tensor in batch), strict=True):
        length = tbptt or windows[0].shape[1]
        segments = zip(*(torch.split(tensor, length, 1) for tensor in windows), strict=True)
        for number, segment in enumerate(segments):
            yield number == 0, Batch(*segment)


def fit(
    model: Trained,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    batches: Iterable[Tensor],
    callbacks: Callbacks,
    *,
    start: int,
    config: LoopConfig,
    optimizer_config: OptimizerConfig,
    device: torch.device,
    stop: StopRequest,
    skipped: Collection[range] = (),
    autocast: Autocast = nullcontext,
    processes: Processes = ALONE,
    scaler: GradScaler = UNSCALED,
) -> int:
    """Train from step `start` to `config.steps`, or until `stop` asks for an end.

    No step is begun once a signal has arrived, at any of the processes: all stop before the same
    one. The last step is always saved, and so is the one before a stop; to validate the last one is
    left to the caller. Weights are validated before the step that changes them, so that whoever
    resumes from a checkpoint begins with the validation that is due there. In the middle of what
    may become an explosion nothing is saved or validated.

    Parameters
    ----------
    batches
        (batch, length) uint8 codes of steps `start`, `start` + 1, ...: this process's share.
    callbacks
        Called after the steps at which they are due, on every process.
    skipped
        Steps, counted from 0, whose windows are left out: they change no weights and have no row.
    processes
        Who trains the model.
    scaler
        What scales the loss. A step that its scale was too large for is left out, and is no
        divergence while there are smaller scales.

    Returns
    -------
    Steps done.

    Raises
    ------
    DivergedError
        At the first step whose loss or gradient is not finite, and where the loss explodes, before
        anything of it is saved.
    """
    pending: list[tuple[int, float, Tensor]] = []
    watch = Watch(config.exploded_bits)
    read_at = time.monotonic()
    done = saved = start

    def report() -> None:
        nonlocal read_at
        if pending:
            callbacks.report(_read(pending, watch))
            pending.clear()
        read_at = time.monotonic()

    model.train()
    for step, codes in enumerate(_until_readers_die(batches, stop), start):
        stopping, late = stop.agree(processes, time.monotonic() - read_at > REPORT_SECONDS)
        if stopping or codes is None:
            break
        validating = step and step % config.validate_every == 0
        if late or validating:
            report()
        if validating and watch.calm:
            try:
                callbacks.validate(step)
            except Interruption:
                break
        if not any(step in steps for steps in skipped):
            lr = learning_rate(
                step,
                config.steps,
                optimizer_config.lr,
                warmup=optimizer_config.warmup,
                floor=optimizer_config.floor,
            )
            for group in optimizer.param_groups:
                group["lr"] = lr
            outcome = train_step(
                model,
                optimizer,
                objective,
                codes.to(device, non_blocking=True),
                step,
                micro_batch=config.passes(codes),
                clip=optimizer_config.clip,
                tbptt=config.tbptt,
                autocast=autocast,
                processes=processes,
                scaler=scaler,
            )
            pending.append((step + 1, lr, outcome))
        done = step + 1
        if done == config.steps:
            break
        if done % config.checkpoint_every == 0:
            report()
            if watch.calm:
                callbacks.save(done)
                saved = done
    report()
    if done > saved and (watch.calm or done == config.steps):
        callbacks.save(done)
    return done


def _until_readers_die(batches: Iterable[Tensor], stop: StopRequest) -> Iterator[Tensor | None]:
    """End in None where a signal to the whole group has ended the processes that read, too."""
    try:
        yield from batches
    except DnamambaError:
        if stop.signal is None:
            raise
        yield None


def _read(pending: list[tuple[int, float, Tensor]], watch: Watch) -> list[Row]:
    values: list[list[float]] = torch.stack([outcome for _, _, outcome in pending]).tolist()
    rows = []
    for (step, lr, _), (nats, weight, norm, scale) in zip(pending, values, strict=True):
        left_out = scale > 1 and not math.isfinite(norm)
        if not (math.isfinite(nats) and (math.isfinite(norm) or left_out)):
            raise DivergedError(f"the loss is not finite at step {step}", range(step - 1, step))
        bits = nats / weight / math.log(2) if weight > 0 else math.nan
        watch.see(step, bits)
        rows.append(Row(step, lr, bits, norm))
    return rows


def seconds_per_step(
    model: Trained,
    objective: Objective,
    codes: Tensor,
    *,
    batch: int,
    tbptt: int | None = None,
    autocast: Autocast = nullcontext,
) -> float:
    """Time forward and backward passes of one micro-batch; the weights stay as they are.

    Parameters
    ----------
    codes
        (micro_batch, length) uint8 on the model's device.
    batch
        Windows a step.

    Returns
    -------
    Seconds a step takes, by the fastest of three passes after one to warm up.
    """
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        nats, _ = accumulate_gradients(
            model, objective, codes, 0, micro_batch=len(codes), tbptt=tbptt, autocast=autocast
        )
        nats.item()  # waits for the device
        seconds.append(time.perf_counter() - started)
    model.zero_grad(set_to_none=True)
    return min(seconds[1:]) * batch / len(codes)
