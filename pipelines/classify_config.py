"""The settings of a classifier's fit: what may be given, and what is chosen where nothing is."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Final, Literal

import torch

from dnamamba.errors import UsageError
from dnamamba.log import logger
from dnamamba.models.classifier import Pool
from dnamamba.models.presets import preset
from dnamamba.training import plan
from dnamamba.training.monitor import count_text
from dnamamba.training.optimizer import OptimizerConfig
from dnamamba.training.stages import Stage, lengths_up_to, plan_stages

Recipe = Literal["default", "paper"]
PAPER_STEPS: Final = 1024
"""Steps of an epoch of the paper's recipe (Gu & Dao, arXiv 2312.00752, appendix E.3.2)."""
PAPER_EPOCHS: Final = 10
PAPER_BATCH: Final = 64
PAPER_LENGTH: Final = 2**14
"""Above it, its recipe warms up with an epoch for each doubling."""
SCRATCH_RATE: Final = 1e-3
"""Peak learning rate from scratch."""
PRETRAINED_RATE: Final = 3e-4
PAPER_RATE: Final = 1e-4
SUBSTITUTE: Final = 0.01
"""Share of the training bases that are drawn anew, where nobody said; the paper draws none."""
SHORTEST: Final = 1024
"""The shortest context that a classifier is tested on, where its own is not shorter."""


@dataclass(frozen=True)
class ClassifyConfig:
    """Settings of a fit; those that are None are chosen for the machine and the genomes.

    Attributes
    ----------
    model
        The model folder to start from; None trains from scratch.
    preset
        Size of the model, where it is trained from scratch.
    length
        Bases of a window.
    length_warmup
        As in pretraining; the paper's recipe has its own.
    pool
        What the head sees: the last position, the mean, or both.
    freeze
        Fit the head alone, on embeddings.
    recipe
        `paper` is that of the Mamba paper's great-apes experiment.
    steps, epochs
        Optimiser steps, or passes over the training bases; give one.
    batch, micro_batch
        Windows a step, and as many as are read at once.
    substitute
        Share of the training bases that are drawn anew at random.
    folds, fold, split, synteny
        As in `choose_sides`.
    target
        The share of calls that should be right at the threshold of `unsure`.
    precision, recompute, backend
        As in pretraining.
    validate_every, checkpoint_every
        Steps between two validations, and between two checkpoints.
    test_windows
        Windows of a species that are tested, at each context, at most.
    seed
        Seed of the weights and the windows.
    optimizer
        AdamW, schedule and clipping.
    """

    model: str | None = None
    preset: str | None = None
    length: int | None = None
    length_warmup: int | None = None
    pool: Pool | None = None
    freeze: bool = False
    recipe: Recipe = "default"
    steps: int | None = None
    epochs: int | None = None
    batch: int | None = None
    micro_batch: int | None = None
    substitute: float | None = None
    folds: int = 5
    fold: int = 1
    split: str | None = None
    synteny: str | None = None
    target: float = 0.95
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    recompute: Literal["auto", "none", "scan", "block"] = "auto"
    backend: str = "auto"
    validate_every: int | None = None
    checkpoint_every: int | None = None
    test_windows: int | None = None
    seed: int = 0
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=SCRATCH_RATE))


@dataclass(frozen=True)
class Sizes:
    """Defaults that depend on the device alone: bases of a window, of a step, and to be scored."""

    preset: str
    length: int
    step_bases: int
    scored_bases: int


_CPU: Final = Sizes("250k", 4096, 1 << 14, 1 << 20)
_CUDA: Final = Sizes("1.4m", 16384, 1 << 20, 1 << 25)
_BATCH: Final = (8, 64)
"""The fewest windows of a step, and the most, where nobody said; one of each species at least."""
_WINDOWS: Final = 3
"""Windows that each side of each species should hold at least."""


def sizes_for(device: torch.device) -> Sizes:
    """Return the defaults of a device."""
    return _CUDA if device.type == "cuda" else _CPU


def peak_rate(recipe: str, pretrained: bool) -> float:
    """Return the peak learning rate where nobody said."""
    if recipe == "paper":
        return PAPER_RATE
    return PRETRAINED_RATE if pretrained else SCRATCH_RATE


def require_sound(config: ClassifyConfig) -> None:
    """Raise one UsageError for all faults that the settings alone show."""
    faults = []
    if config.preset and config.model:
        faults.append("preset: the model to start from has its own size; leave out one of them")
    if config.preset:
        try:
            preset(config.preset)
        except UsageError as error:
            faults.append(str(error))
    if config.steps is not None and config.epochs is not None:
        faults.append("steps and epochs: give one of them")
    numbers = ("length", "length_warmup", "steps", "epochs", "batch", "micro_batch")
    for name in (*numbers, "validate_every", "checkpoint_every", "test_windows"):
        value = getattr(config, name)
        if value is not None and value < 1:
            faults.append(f"{name} {value}: give 1 or more")
    if config.substitute is not None and not 0 <= config.substitute < 1:
        faults.append(f"substitute {config.substitute:g}: give a share of bases, from 0 up to 1")
    if not 0 < config.target < 1:
        faults.append(f"target {config.target:g}: give a share of calls, between 0 and 1")
    if config.freeze and config.recipe == "paper":
        faults.append("freeze: the paper's recipe trains the whole model; leave out one of them")
    if faults:
        raise UsageError("; ".join(faults))


def choose_sizes(
    config: ClassifyConfig, device: torch.device, species: int, longest: int, bound: str
) -> ClassifyConfig:
    """Choose what depends on the device and on how long windows can be.

    Parameters
    ----------
    config
        What was said.
    device
        Where the model will run.
    species
        How many there are.
    longest, bound
        The longest window that every species has on every side; and of which species, on which
        side, there is none longer.

    Raises
    ------
    UsageError
        Where the length asked for is longer than that.
    """
    sizes = sizes_for(device)
    length = config.length
    if length is None:
        length = sizes.length
        while length > 16 and _WINDOWS * length > longest:
            length //= 2
    if length > longest:
        raise UsageError(
            f"--length {length}: the longest stretch of {bound} is of {longest:,} bases; choose a "
            "smaller --length, fewer --folds, or give it more sequence"
        )
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    paper = config.recipe == "paper"
    fewest, most = _BATCH
    batch = max(min(max(sizes.step_bases // length, fewest), most), species)
    batch = config.batch or (PAPER_BATCH if paper else batch)
    return dataclasses.replace(
        config,
        length=length,
        batch=batch,
        pool=config.pool or ("last" if paper else "mean"),
        substitute=(0.0 if paper else SUBSTITUTE)
        if config.substitute is None
        else config.substitute,
        preset=config.preset or (None if config.model else sizes.preset),
        precision=precision,
        micro_batch=config.micro_batch or _micro_batch(device, batch, length),
        test_windows=config.test_windows or max(_WINDOWS, sizes.scored_bases // (species * length)),
    )


def _micro_batch(device: torch.device, batch: int, length: int) -> int:
    """Return the windows that are read at once, before memory is tried.

    What is read in parts is read again in the backward: on a GPU that would be a third of the time.
    """
    return batch if device.type == "cuda" else min(batch, plan.micro_batch(device, length))


def steps_of(config: ClassifyConfig, bases: int, seconds: float) -> int:
    """Return the steps of a run that has its sizes.

    Parameters
    ----------
    config
        With sizes chosen.
    bases
        Training bases.
    seconds
        What a step takes.
    """
    length, batch = config.length or 1, config.batch or 1
    if config.steps:
        return config.steps
    if config.recipe == "paper":
        return PAPER_STEPS * ((config.epochs or PAPER_EPOCHS) + _doublings(length))
    step_bases = batch * length
    if config.epochs:
        return math.ceil(config.epochs * bases / step_bases)
    return plan.affordable_steps(seconds, step_bases, bases)


def selecting_windows(config: ClassifyConfig, species: int) -> int:
    """Return the windows of a species that a validation in training reads, at most.

    Validations may add a fifth to the time of the steps; a base costs a third of one trained on,
    and as many are read to centre the head.
    """
    read = (config.steps or 1) * (config.batch or 1)
    validations = -(-(config.steps or 1) // (config.validate_every or 1))
    affordable = int(plan.VALIDATION_SHARE * 3 / 2 * read / (validations * species))
    return max(_WINDOWS, min(config.test_windows or 1, affordable))


def stages_of(config: ClassifyConfig) -> list[Stage]:
    """Return the stages of a run that has its steps: those of a warm-up, or one."""
    length, batch, steps = config.length or 1, config.batch or 1, config.steps or 1
    doublings = _doublings(length)
    if config.recipe != "paper" or not doublings or config.length_warmup:
        return plan_stages(steps, length, batch, config.length_warmup)
    share = min(PAPER_STEPS, steps // (1 + doublings))
    *shorter, _ = lengths_up_to(length, length >> doublings)
    stages = [
        Stage(range(number * share, (number + 1) * share), short, batch)
        for number, short in enumerate(shorter)
    ]
    return [*stages, Stage(range(doublings * share, steps), length, batch)]


def _doublings(length: int) -> int:
    """Count the doublings above the length that the paper's recipe begins with."""
    return max(0, (length // PAPER_LENGTH).bit_length() - 1)


def contexts_of(length: int) -> list[int]:
    """Return the contexts that a classifier is tested at: a quarter of a quarter ... its own."""
    contexts = [length]
    while contexts[0] >= 4 * SHORTEST:
        contexts.insert(0, contexts[0] // 4)
    return contexts


def log_choices(config: ClassifyConfig, chosen: ClassifyConfig, bases: int) -> None:
    """Say what was chosen because nobody said, and how much reading that makes."""
    names = ["length", "batch"] + ["steps"] * (config.epochs is None and config.recipe != "paper")
    left = {name: getattr(chosen, name) for name in names if getattr(config, name) is None}
    if left:
        logger.info(
            "sized to end in ten minutes here: %s",
            ", ".join(f"--{name} {value}" for name, value in left.items()),
        )
    stages = stages_of(chosen)
    read = sum(len(stage.steps) * stage.batch * stage.length for stage in stages)
    logger.info(
        "%s steps of %s windows of %s bases: %sb, %.3g passes over %sb of training sequence",
        f"{chosen.steps:,}",
        chosen.batch,
        f"{chosen.length:,}",
        count_text(read),
        read / bases,
        count_text(bases),
    )
