"""The settings of a fine-tuning, and what is chosen where nothing is said."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Final, Literal

import torch

from dnamamba.data.examples import LABEL, SEQUENCE
from dnamamba.data.outcomes import Kind
from dnamamba.errors import UsageError
from dnamamba.log import logger
from dnamamba.models.adapters import AdapterConfig, require_peft
from dnamamba.models.classifier import Pool
from dnamamba.models.precision import require_precision
from dnamamba.models.quantised import require_bits, require_torchao
from dnamamba.training import plan
from dnamamba.training.optimizer import Bits, OptimizerConfig

Method = Literal["full", "frozen", "lora", "dora"]
RATES: Final[dict[Method, float]] = {"full": 3e-4, "frozen": 1e-3, "lora": 1e-3, "dora": 1e-3}
"""Peak learning rate where nobody said; of adapters it is higher, for they begin at nothing."""
EPOCHS: Final = 10
"""Passes over the training rows, at most, where nobody said how many."""
VALIDATIONS: Final = 20
_BATCH: Final = 32


@dataclass(frozen=True)
class FinetuneConfig:
    """Settings of a fit; those that are None are chosen for the machine and the table.

    Attributes
    ----------
    model
        The model folder to start from, or `owner/name` on the hub.
    method
        What is trained: everything, the head alone, or the head and an adapter.
    rank, alpha, state_space
        Of an adapter, as in `AdapterConfig`.
    sequence, labels
        The columns of sequences, and of what is predicted.
    task
        What the labels are; None goes by what they hold.
    genome
        The FASTA that regions lie in; None where rows have their sequences themselves.
    window
        Bases of a window that is laid around the middle of each region; None takes them whole.
    tracks
        Files that say what each base is, in place of labels.
    pool
        What the head sees of the final hidden states.
    class_weights
        `balanced` weighs rows so that all classes, or both values of a label, count the same.
    valid_share
        Of the training rows, what is kept to choose on, where no file is given for it.
    group
        The column of what belongs together, such as a chromosome or a gene family, and is never
        parted. None goes by the chromosomes of regions where there are folds, and by sequences that
        are the same on either strand, or regions that overlap, where there are none.
    folds, fold
        How many the training rows are cut into, and which of them is tested, from 1 on: the next
        one is chosen on, the others are trained on. None of them where `fold` is None.
    steps, epochs
        Optimiser steps, or passes over the training rows; give one.
    batch, micro_batch
        Rows a step; and as many of the longest as are read at once.
    patience
        Validations without a better one after which the fit ends.
    precision, recompute, backend
        As in pretraining; and fp16, whose gradients are scaled.
    weights
        What projections that stand still are kept in.
    optimizer_bits
        Of the optimiser's moments.
    validate_every, checkpoint_every
        Steps between two validations, and between two checkpoints.
    seed
        Seed of what is kept to choose on, of the order of rows and of their strands.
    optimizer
        AdamW, schedule and clipping.
    """

    model: str
    method: Method = "lora"
    rank: int = 16
    alpha: int = 32
    state_space: bool = False
    sequence: str = SEQUENCE
    labels: tuple[str, ...] = (LABEL,)
    task: Kind | None = None
    genome: str | None = None
    window: int | None = None
    tracks: tuple[str, ...] = ()
    pool: Pool = "mean"
    class_weights: Literal["none", "balanced"] = "none"
    valid_share: float = 0.2
    group: str | None = None
    folds: int = 5
    fold: int | None = None
    steps: int | None = None
    epochs: int | None = None
    batch: int | None = None
    micro_batch: int | None = None
    patience: int = 5
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    weights: Literal["fp32", "int8", "fp8"] = "fp32"
    optimizer_bits: Bits = 32
    recompute: Literal["auto", "none", "scan", "block"] = "auto"
    backend: str = "auto"
    validate_every: int | None = None
    checkpoint_every: int | None = None
    seed: int = 0
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=RATES["lora"], weight_decay=0.01)
    )

    @property
    def adapter(self) -> AdapterConfig | None:
        """What an adapter changes; None where the method has none."""
        if self.method not in ("lora", "dora"):
            return None
        return AdapterConfig(self.method, self.rank, self.alpha, state_space=self.state_space)


def require_sound(config: FinetuneConfig) -> None:
    """Raise one UsageError for all faults that the settings alone show."""
    faults = []
    if config.steps is not None and config.epochs is not None:
        faults.append("steps and epochs: give one of them")
    numbers = ("steps", "epochs", "batch", "micro_batch", "patience", "window")
    for name in (*numbers, "validate_every", "checkpoint_every"):
        value = getattr(config, name)
        if value is not None and value < 1:
            faults.append(f"{name} {value}: give 1 or more")
    if not 0 < config.valid_share < 1:
        faults.append(f"valid_share {config.valid_share:g}: give a share of rows, between 0 and 1")
    if config.folds < 3:
        faults.append(f"folds {config.folds}: give 3 or more, to test, to choose on and to train")
    elif config.fold is not None and not 1 <= config.fold <= config.folds:
        faults.append(f"fold {config.fold}: give one of 1 to {config.folds}")
    if config.group in config.labels and not config.tracks:
        faults.append(f"group: `{config.group}` is what is predicted")
    if config.state_space and config.adapter is None:
        faults.append(f"state_space: goes with lora or dora; {config.method} has no adapter")
    if len(set(config.labels)) < len(config.labels):
        faults.append(f"labels {', '.join(config.labels)}: a column is named twice")
    if config.sequence in config.labels:
        faults.append(f"labels: `{config.sequence}` holds the sequences")
    for name in ("window", "tracks"):
        if getattr(config, name) and not config.genome:
            faults.append(f"{name}: goes with regions of a genome, so give --genome, too")
    if config.tracks and config.labels != (LABEL,):
        faults.append("labels: tracks say what each base is; leave one of them out")
    if config.tracks and config.pool != "mean":
        faults.append(f"pool {config.pool}: with tracks the head sees each base's own state")
    if config.weights != "fp32" and config.method == "full":
        faults.append(
            f"weights {config.weights}: full trains them, which 8 bits are too coarse for; take "
            "lora, dora or frozen"
        )
    if config.optimizer_bits != 32 and config.method == "frozen":
        faults.append("optimizer_bits: goes with full, lora or dora; frozen has no optimiser")
    try:
        _ = config.adapter
    except UsageError as error:
        faults.append(str(error))
    if faults:
        raise UsageError("; ".join(faults))


def require_able(config: FinetuneConfig, device: torch.device) -> None:
    """Raise a UsageError for a library that is missing, or what a device cannot do."""
    require_precision(config.precision, device)
    if config.adapter:
        require_peft()
    if config.weights != "fp32":
        require_bits(config.weights, device)
    if config.optimizer_bits == 8:
        require_torchao("optimizer_bits 8")


def choose_sizes(
    config: FinetuneConfig, device: torch.device, rows: int, longest: int
) -> FinetuneConfig:
    """Choose what depends on the device, and on the rows of the training side.

    Parameters
    ----------
    config
        What was said.
    device
        Where the model will run.
    rows, longest
        How many there are, and the bases of the longest.
    """
    batch = min(config.batch or _BATCH, rows)
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    affordable = batch if device.type == "cuda" else plan.micro_batch(device, longest)
    return dataclasses.replace(
        config,
        batch=batch,
        precision=precision,
        micro_batch=min(config.micro_batch or affordable, batch),
    )


def choose_steps(
    config: FinetuneConfig, rows: int, mean: float, seconds: float | None
) -> FinetuneConfig:
    """Choose how long to train, and how often to look, and say what nobody had said.

    Parameters
    ----------
    config
        With its sizes.
    rows, mean
        How many training rows there are, and their mean bases.
    seconds
        What a step takes; None where it does not matter.
    """
    batch = config.batch or 1
    epoch = math.ceil(rows / batch)
    steps = config.steps or (config.epochs or EPOCHS) * epoch
    if seconds is not None:
        affordable = plan.affordable_steps(seconds, round(batch * mean), round(rows * mean))
        steps = min(steps, affordable)
        logger.info("sized to end in ten minutes here: --steps %d", steps)
    logger.info(
        "%s steps of %s sequences, %.3g passes over %s of %s bases on average",
        f"{steps:,}",
        batch,
        steps / epoch,
        f"{rows:,}",
        f"{mean:,.0f}",
    )
    return dataclasses.replace(
        config,
        steps=steps,
        validate_every=config.validate_every or math.ceil(steps / VALIDATIONS),
        checkpoint_every=config.checkpoint_every or math.ceil(steps / VALIDATIONS),
    )
