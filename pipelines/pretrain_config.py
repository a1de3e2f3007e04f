"""The settings of a pretraining run: what may be given, and what is chosen where nothing is."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch

from dnamamba.config import from_dict, to_dict
from dnamamba.data.windows import HeldOutWindows, TrainingWindows
from dnamamba.errors import UsageError
from dnamamba.evaluation.language import Objective
from dnamamba.kernels.dispatch import BACKENDS
from dnamamba.log import logger
from dnamamba.models.backbone import Symmetry
from dnamamba.models.block import Recompute
from dnamamba.models.heads import LanguageModel
from dnamamba.models.precision import autocast_to
from dnamamba.models.presets import preset, preset_name
from dnamamba.pipelines import planner
from dnamamba.pipelines.resume import require_same_settings
from dnamamba.processes import ALONE, Processes
from dnamamba.training import plan
from dnamamba.training.footprint import Pass, free_memory
from dnamamba.training.loop import LoopConfig, seconds_per_step
from dnamamba.training.monitor import count_text
from dnamamba.training.objectives import MaskedBase, NextBase
from dnamamba.training.optimizer import OptimizerConfig
from dnamamba.training.stages import plan_stages


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of a run; those that are None are chosen for the machine and the genomes.

    Attributes
    ----------
    preset
        Size of the model.
    length
        Bases of a window.
    length_warmup
        Bases of the first windows: they double, in stages of as many steps each, up to `length`,
        with as many bases a step. None is `length` from the first step on.
    steps, tokens
        Optimiser steps, or the bases that they should read in all; give one.
    batch
        Windows a step.
    micro_batch
        Windows a forward and backward pass.
    tbptt
        Bases that gradients reach back over: longer windows are read in segments of so many, each
        from the exact state that the one before left. None is whole windows.
    objective
        Predict the next base, or masked ones.
    bidirectional, symmetry
        As in `ModelConfig`; for the masked objective.
    contigs
        Names and globs of the contigs to use.
    holdout
        Contigs to hold out.
    split
        BED file with a fold column.
    soft_mask_weight
        Weight of soft-masked targets in the training loss; N never weighs anything.
    reverse_complement
        Train on both strands.
    precision
        fp32, bf16, or auto: bf16 on a GPU.
    recompute
        What the backward makes again to save memory: nothing, all but scans, whole blocks; or auto:
        all but scans, and on a GPU whole blocks where that does not fit.
    backend
        How scans run.
    validate_every, checkpoint_every
        Steps between two validations, and between two checkpoints.
    held_out_bases
        The most held-out bases that are scored.
    seed
        Seed of the weights, the windows and the masks.
    optimizer
        AdamW, schedule and clipping.
    """

    preset: str | None = None
    length: int | None = None
    length_warmup: int | None = None
    steps: int | None = None
    tokens: int | None = None
    batch: int | None = None
    micro_batch: int | None = None
    tbptt: int | None = None
    objective: Literal["next", "masked"] = "next"
    bidirectional: bool = False
    symmetry: Symmetry = "none"
    contigs: tuple[str, ...] | None = None
    holdout: tuple[str, ...] | None = None
    split: str | None = None
    soft_mask_weight: float = 1.0
    reverse_complement: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    recompute: Literal["auto", "none", "scan", "block"] = "auto"
    backend: str = "auto"
    validate_every: int | None = None
    checkpoint_every: int | None = None
    held_out_bases: int | None = None
    seed: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


MAY_CHANGE: Final = frozenset(
    {"micro_batch", "recompute", "backend", "validate_every", "checkpoint_every", "split"}
)
"""Settings that a resume may change: they decide where and when, not what is learnt. The path of
`split` is one of them, because its checksum is among those of the inputs."""


def require_sound(config: PretrainConfig) -> None:
    """Raise one UsageError for all faults that the settings alone show."""
    faults = []
    try:
        preset(
            config.preset or "250k",
            objective=config.objective,
            bidirectional=config.bidirectional,
            symmetry=config.symmetry,
        )
    except UsageError as error:
        faults.append(str(error))
    for one, other in (("steps", "tokens"), ("holdout", "split")):
        if getattr(config, one) is not None and getattr(config, other) is not None:
            faults.append(f"{one} and {other}: give one of them")
    counts = ("length", "length_warmup", "steps", "tokens", "batch", "micro_batch", "tbptt")
    for name in (*counts, "validate_every", "checkpoint_every", "held_out_bases"):
        value = getattr(config, name)
        least = 2 if name.startswith("length") else 1
        if value is not None and value < least:
            faults.append(f"{name} {value}: give {least} or more")
    if config.tbptt is not None and (config.bidirectional or config.symmetry != "none"):
        faults.append("tbptt: a model that reads both ways or both strands has no state to carry")
    if not 0 <= config.soft_mask_weight <= 1:
        faults.append(f"soft_mask_weight {config.soft_mask_weight:g}: give a value from 0 to 1")
    if config.backend not in BACKENDS:
        faults.append(f"backend {config.backend!r}: choose one of {', '.join(BACKENDS)}")
    if faults:
        raise UsageError("; ".join(faults))


def changed(config: PretrainConfig) -> dict[str, Any]:
    """Return the settings that differ from the defaults."""
    default = to_dict(PretrainConfig())
    return {name: value for name, value in to_dict(config).items() if value != default[name]}


def resume_config(
    output: Path, before: Mapping[str, Any], asked: Mapping[str, Any]
) -> PretrainConfig:
    """Return the settings of the run to resume, if what is asked for now does not contradict."""
    asked = dict(asked)
    if asked.get("precision") == "auto":
        del asked["precision"]
    if "preset" in asked:
        asked["preset"] = preset_name(preset(asked["preset"]))
    if "tokens" in asked:
        asked["steps"] = steps_for(asked.pop("tokens"), before["batch"], before["length"])
    require_same_settings(output, before, asked, MAY_CHANGE)
    free = {name: value for name, value in asked.items() if name in MAY_CHANGE}
    return from_dict(PretrainConfig, {**before, **free}, str(output / "run.json"))


def build_model(config: PretrainConfig) -> LanguageModel:
    """Build the model with weights that depend on the seed alone."""
    size = preset(
        config.preset or "",
        objective=config.objective,
        bidirectional=config.bidirectional,
        symmetry=config.symmetry,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = LanguageModel(size)
    model.backend = config.backend
    return model


def build_objective(
    model: LanguageModel, config: PretrainConfig, soft_mask_weight: float
) -> Objective:
    """Make the objective; a weight of one is for scoring."""
    if config.objective == "masked":
        return MaskedBase(model.tokens, model.config.mask_id, config.seed, soft_mask_weight)
    return NextBase(model.tokens, soft_mask_weight)


def choose_sizes(
    config: PretrainConfig,
    device: torch.device,
    contigs: Iterable[int],
    processes: Processes = ALONE,
) -> PretrainConfig:
    """Choose preset, length, batch, precision and held-out bases where nobody said.

    Parameters
    ----------
    config
        What was said.
    device
        Where the model will run.
    contigs
        Lengths of the contigs.
    processes
        Who will train it.
    """
    sizes = plan.sizes_for(device)
    length = config.length or plan.default_length(sizes, contigs)
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    batch = max(1, sizes.step_bases // length)
    return dataclasses.replace(
        config,
        preset=preset_name(preset(config.preset or sizes.preset)),
        length=length,
        batch=config.batch or processes.readers * -(-batch // processes.readers),
        precision=precision,
        held_out_bases=config.held_out_bases or sizes.held_out_bases,
    )


def require_shareable(config: PretrainConfig, processes: Processes) -> None:
    """Raise one UsageError for all that keeps processes from sharing the work.

    Parameters
    ----------
    config
        With sizes chosen.
    processes
        Who will train it.
    """
    faults = []
    readers, parts = processes.readers, processes.parts
    if (config.batch or readers) % readers:
        faults.append(
            f"batch {config.batch}: {readers} processes cannot take as many windows each; give a "
            f"multiple of {readers}, or start a number of processes that divides it"
        )
    if parts > 1:
        what = f"--sequence-parallel {parts}:"
        if config.symmetry != "none":
            faults.append(f"{what} both strands of a window have to lie on one process")
        if config.tbptt is not None:
            faults.append(f"{what} a window is split, or read in segments by --tbptt, not both")
        looks_back = preset(config.preset or "").d_conv - 1
        shortest = config.length_warmup or config.length or parts
        if shortest // parts < looks_back:
            faults.append(
                f"{what} parts of {shortest:,} bases would be shorter than the {looks_back} that "
                "a convolution looks back; split over fewer processes"
            )
    if faults:
        raise UsageError("; ".join(faults))


def choose_steps(
    config: PretrainConfig,
    model: LanguageModel,
    windows: TrainingWindows,
    held_out: HeldOutWindows,
    device: torch.device,
    processes: Processes = ALONE,
) -> PretrainConfig:
    """Choose what nobody said of micro-batch, recompute and steps, by trying a real batch.

    Parameters
    ----------
    config
        With sizes chosen.
    model
        Lies on `device`; its weights are not changed, its `recompute` is set.
    windows, held_out
        What it will be trained on, and scored on.
    device
        Where it will run.
    processes
        Who will train it. Each tries its own share, by itself, and all choose the same.
    """
    length, batch = windows.length, config.batch or 1
    mine, here = processes.share(batch), processes.part(length)
    most = config.micro_batch or plan.micro_batch(device, length // processes.parts)
    micro_batch = min(most, len(mine))
    steps = config.steps or (steps_for(config.tokens, batch, length) if config.tokens else None)
    # "none" is a twentieth faster than "scan", and takes twice the memory.
    ways: tuple[Recompute, ...] = ("scan", "block") if device.type == "cuda" else ("scan",)
    if config.recompute != "auto":
        ways = (config.recompute,)
    if device.type == "cuda":
        fewest = micro_batch if config.micro_batch else 1
        element = 4 if config.precision == "fp32" else 2
        planner.require_fit(
            model,
            Pass(fewest, length, ways[-1], config.tbptt, processes.parts, element),
            device,
            free_memory(device),
        )
    model.recompute = recompute = ways[0]
    on_trial = device.type == "cuda" and (config.micro_batch is None or len(ways) > 1)
    if steps is None or on_trial:
        objective = build_objective(model, config, config.soft_mask_weight)
        autocast = autocast_to(config.precision, device)
        tried = torch.stack([windows[0, index] for index in mine[:micro_batch]])
        codes = tried[:, here].to(device)
        if on_trial:
            micro_batch, recompute = plan.fit_memory(
                model,
                objective,
                codes,
                autocast,
                recompute=ways,
                tbptt=config.tbptt,
                whole=config.micro_batch is not None,
                processes=processes,
            )
        if steps is None:
            seconds = seconds_per_step(
                model,
                objective,
                codes[:micro_batch],
                batch=len(mine),
                tbptt=config.tbptt,
                autocast=autocast,
            )
            (seconds,) = processes.largest(seconds)
            steps = plan.affordable_steps(seconds, batch * length, windows.bases)
    plan_stages(steps, length, batch, config.length_warmup)
    return dataclasses.replace(
        config,
        micro_batch=micro_batch,
        recompute=recompute,
        steps=steps,
        tokens=None,
        validate_every=config.validate_every
        or plan.steps_between_validations(steps, batch * length, len(held_out) * length),
        checkpoint_every=config.checkpoint_every or math.ceil(steps / 20),
    )


def steps_for(tokens: int, batch: int, length: int) -> int:
    """Return the steps that read at least `tokens` bases."""
    return math.ceil(tokens / (batch * length))


def loop_config(config: PretrainConfig) -> LoopConfig:
    """Return the loop's part of settings that are all chosen."""
    mine = {field.name for field in dataclasses.fields(config)}
    names = [field.name for field in dataclasses.fields(LoopConfig) if field.name in mine]
    return LoopConfig(**{name: getattr(config, name) for name in names})


def log_choices(config: PretrainConfig, chosen: PretrainConfig, bases: int) -> None:
    """Say what was chosen because nobody said, and how much reading that makes.

    Parameters
    ----------
    config, chosen
        What was said, and what it came to.
    bases
        Training bases that windows can reach.
    """
    said = {"preset", "length", "batch", "steps"} & changed(config).keys()
    if config.tokens is not None:
        said.add("steps")
    values = {name: getattr(chosen, name) for name in ("preset", "length", "batch", "steps")}
    stages = plan_stages(values["steps"], values["length"], values["batch"], chosen.length_warmup)
    if len(stages) > 1:
        logger.info(
            "length warm-up: windows of %s bases, %s steps each",
            ", ".join(f"{stage.length:,}" for stage in stages),
            f"{len(stages[0].steps):,}",
        )
    if left := {name: value for name, value in values.items() if name not in said}:
        logger.info(
            "sized to end in ten minutes here: %s",
            ", ".join(f"--{name} {value}" for name, value in left.items()),
        )
    read = values["steps"] * values["batch"] * values["length"]
    logger.info(
        "%s steps of %s windows of %s bases: %sb, %.3g passes over %sb of training sequence",
        *(f"{values[name]:,}" for name in ("steps", "batch", "length")),
        count_text(read),
        read / bases,
        count_text(bases),
    )
