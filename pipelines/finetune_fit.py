"""Setting a fine-tuning up and taking it to its report."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnamamba.config import to_dict, to_toml
from dnamamba.data.outcomes import Outcomes
from dnamamba.errors import UsageError
from dnamamba.files import write_text
from dnamamba.log import logger, write_run_record
from dnamamba.models import pretrained
from dnamamba.models.adapters import Adapters
from dnamamba.models.block import Recompute
from dnamamba.models.hub import is_hub_id
from dnamamba.models.predictor import Predictor, PredictorConfig
from dnamamba.models.quantised import quantise
from dnamamba.pipelines import options
from dnamamba.pipelines.finetune_config import (
    FinetuneConfig,
    choose_sizes,
    choose_steps,
    require_able,
    require_sound,
)
from dnamamba.pipelines.finetune_data import read_sides
from dnamamba.pipelines.finetune_head import fit_head
from dnamamba.pipelines.finetune_job import Fit
from dnamamba.pipelines.finetune_record import go_on, inputs_of
from dnamamba.pipelines.finetune_report import finish
from dnamamba.pipelines.finetune_run import save, train
from dnamamba.pipelines.finetune_sides import Sides
from dnamamba.pipelines.fitting import RESULTS
from dnamamba.pipelines.resume import require_same_inputs
from dnamamba.training import plan
from dnamamba.training.checkpoint import remove_leftovers
from dnamamba.training.loop import seconds_per_step


def finetune(
    table: Path,
    output: Path,
    config: FinetuneConfig,
    *,
    valid: Path | None = None,
    test: Path | None = None,
    asked: Mapping[str, Any] | None = None,
    allow_overlap: bool = False,
    resume: bool = False,
    force: bool = False,
    device: str = "auto",
) -> int:
    """Fit a predictor of labels, measure it, and leave it in a run folder.

    Parameters
    ----------
    table
        Labelled sequences: CSV, TSV or Parquet; or regions of a genome that the settings name.
    output
        The run folder.
    config
        Settings; what is None is chosen for the machine and the table.
    valid
        Likewise, what the model that is kept is chosen on; None keeps a part of `table` for it.
    test
        Likewise, what is measured once, at the end. With a fold, both are cut out of `table`.
    asked
        Settings that were asked for by name, which a run to be resumed must have.
    allow_overlap
        Go on where the same sequence stands on two sides.
    resume
        Go on from the last good checkpoint in `output`, or start where there is none.
    force
        Replace a run that lies in `output`.
    device
        `auto`, `cpu`, `mps`, `cuda` or `cuda:N`.

    Returns
    -------
    The exit code: 0 if the run is finished or was stopped by SIGTERM or SIGUSR1, 130 if by SIGINT.

    Raises
    ------
    UsageError
        For settings that do not fit together, a library that is missing, or the run that is to be
        resumed.
    InputError
        For a faulty table, and the same sequence on two sides.
    CheckpointError
        For a model that cannot be read.
    """
    require_sound(config)
    place = options.resolve_device(device)
    if not force or resume:
        options.prepare_output(output, force=force, resume=resume)
    record = None
    if resume:
        record, config = go_on(output, config, asked or {})
    require_able(config, place)
    inputs = inputs_of(table, valid, test, config)
    if record:
        require_same_inputs(output, record["inputs"], inputs)
        if (output / RESULTS).exists():
            logger.info("%s is finished: %s has its figures", output, output / RESULTS)
            return 0
    sides = read_sides(table, valid, test, config, allow_overlap=allow_overlap)
    ready = _set_up(output, config, inputs, sides, place)
    if force:
        options.prepare_output(output, force=True)
    remove_leftovers(output)
    _write_run(ready)
    if ready.config.method == "frozen":
        fit_head(ready)
        save(ready, {})
    else:
        code = train(ready)
        if code is not None:
            return code
    finish(ready)
    return 0


def _set_up(
    output: Path,
    config: FinetuneConfig,
    inputs: list[dict[str, Any]],
    sides: Sides,
    device: torch.device,
) -> Fit:
    """Build the predictor, and choose what was left open."""
    lengths = sides.train.lengths
    chosen = choose_sizes(config, device, len(lengths), int(lengths.max()))
    language = pretrained.load(config.model, device)
    language.backend = config.backend
    if config.weights != "fp32":
        quantise(language, config.weights)
    adapters = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.method == "frozen":
            language.requires_grad_(False)
        elif config.adapter:
            adapters = Adapters(language)
            adapters.add("finetuned", config.adapter)
        base = None
        if config.method != "full":
            base = config.model if is_hub_id(config.model) else str(Path(config.model).resolve())
        about = _about(sides.train.outcomes, config, base, inputs[-1]["sha256"])
        predictor = Predictor(language, about).to(device)
    ready = Fit(output, chosen, inputs, sides, predictor, adapters, device)
    if config.method == "frozen":
        return ready
    ways: tuple[Recompute, ...] = ("scan", "block")
    if config.recompute != "auto":
        ways = (config.recompute,)
    language.recompute = recompute = ways[0]
    micro_batch = chosen.micro_batch or 1
    longest = [sides.train.sequences[int(lengths.argmax())]] * micro_batch
    codes = torch.from_numpy(np.stack(longest)).to(device)
    if device.type == "cuda":
        micro_batch, recompute = plan.fit_memory(
            predictor,
            ready.trained_on,
            codes,
            ready.autocast,
            recompute=ways,
            whole=config.micro_batch is not None,
        )
    seconds = None
    if config.steps is None and config.epochs is None:
        seconds = seconds_per_step(
            predictor,
            ready.trained_on,
            codes[:micro_batch],
            batch=chosen.batch or 1,
            autocast=ready.autocast,
        )
    chosen = dataclasses.replace(chosen, micro_batch=micro_batch, recompute=recompute)
    chosen = choose_steps(chosen, len(lengths), float(lengths.mean()), seconds)
    return dataclasses.replace(ready, config=chosen)


def _about(
    outcomes: Outcomes, config: FinetuneConfig, base: str | None, digest: str
) -> PredictorConfig:
    if config.class_weights == "balanced" and outcomes.kind == "values":
        raise UsageError("class_weights balanced: numbers have no classes to weigh")
    centres: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    if outcomes.kind == "values":
        deviations = np.nanstd(outcomes.values, 0, dtype=float)
        centres = tuple(map(float, np.nanmean(outcomes.values, 0, dtype=float)))
        scales = tuple(float(each) or 1.0 for each in deviations)
    return PredictorConfig(
        outcomes.kind,
        outcomes.names,
        config.pool,
        centres,
        scales,
        base,
        None if base is None else digest,
        per_base=outcomes.sizes is not None,
        window=config.window,
    )


def _write_run(ready: Fit) -> None:
    """Write what a run is made of: run.json first, because it marks the folder as ours."""
    config = to_dict(ready.config)
    record = {
        "seed": ready.config.seed,
        "device": options.device_name(ready.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "config": config,
        "inputs": ready.inputs,
    }
    write_run_record(ready.folder, "finetune", record)
    write_text(ready.folder / "config.toml", to_toml(config))
