"""Setting a classifier's fit up and taking it to its report."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dnamamba.config import from_dict, to_dict, to_toml
from dnamamba.data.overlap import Overlap, measure_overlap
from dnamamba.data.tracks import tile_tracks
from dnamamba.errors import InputError, UsageError
from dnamamba.files import require_file, write_text
from dnamamba.log import logger, write_run_record
from dnamamba.models import pretrained
from dnamamba.models.block import Recompute
from dnamamba.models.classifier import Classifier, ClassifierConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.models.hub import model_folder
from dnamamba.models.presets import preset
from dnamamba.pipelines import options
from dnamamba.pipelines.classify_config import (
    ClassifyConfig,
    choose_sizes,
    contexts_of,
    log_choices,
    require_sound,
    steps_of,
)
from dnamamba.pipelines.classify_data import Sides, choose_sides, open_sheet
from dnamamba.pipelines.classify_job import Fit
from dnamamba.pipelines.classify_report import finish, run_contests
from dnamamba.pipelines.classify_run import MAY_CHANGE, calibrate, train
from dnamamba.pipelines.fitting import RESULTS
from dnamamba.pipelines.resume import (
    describe_inputs,
    read_record,
    require_same_inputs,
    require_same_settings,
)
from dnamamba.training import plan
from dnamamba.training.checkpoint import remove_leftovers
from dnamamba.training.loop import seconds_per_step


def fit(
    sheet: Path,
    output: Path,
    config: ClassifyConfig | None = None,
    *,
    asked: Mapping[str, Any] | None = None,
    allow_overlap: bool = False,
    resume: bool = False,
    force: bool = False,
    device: str = "auto",
    workers: int = 0,
) -> int:
    """Fit a classifier of labelled genomes, test it, and leave it in a run folder with a report.

    Parameters
    ----------
    sheet
        A TSV or CSV with species and fasta.
    output
        The run folder.
    config
        Settings; what is None is chosen for the machine and the genomes.
    asked
        Settings that were asked for by name, which a run to be resumed must have.
    allow_overlap
        Go on where the same sequence lies on the training and the test side.
    resume
        Go on from the last good checkpoint in `output`, or start where there is none.
    force
        Replace a run that lies in `output`.
    device
        `auto`, `cpu`, `mps`, `cuda` or `cuda:N`.
    workers
        Processes that read ahead; with 0 a thread does.

    Returns
    -------
    The exit code: 0 if the run is finished or was stopped by SIGTERM or SIGUSR1, 130 if by SIGINT.

    Raises
    ------
    UsageError
        For settings that do not fit together, the genomes, or the run that is to be resumed.
    InputError
        For a faulty sheet or genome, and the same sequence on two sides.
    """
    config = config or ClassifyConfig()
    require_sound(config)
    place = options.resolve_device(device)
    if not force or resume:
        options.prepare_output(output, force=force, resume=resume)
    record = read_record(output, "classify") if resume else None
    if record:
        require_same_settings(output, record["config"], asked or {}, MAY_CHANGE)
        free = {name: value for name, value in (asked or {}).items() if name in MAY_CHANGE}
        values = {**record["config"], **free}
        config = from_dict(ClassifyConfig, values, str(output / "run.json"))
    genomes = open_sheet(sheet)
    inputs = _inputs(sheet, config, {genome.store.source: genome.store for genome in genomes})
    if record:
        require_same_inputs(output, record["inputs"], inputs)
        if (output / RESULTS).exists():
            logger.info("%s is finished: %s has its figures", output, output / RESULTS)
            return 0
    sides = choose_sides(
        genomes,
        folds=config.folds,
        fold=config.fold,
        split=Path(config.split) if config.split else None,
        synteny=Path(config.synteny) if config.synteny else None,
    )
    chosen = choose_sizes(config, place, len(sides.species), *sides.longest())
    overlap = _require_apart(sides, chosen.length or 1, allow_overlap)
    ready = _set_up(output, chosen, config, inputs, sides, place)
    if force:
        options.prepare_output(output, force=True)
    remove_leftovers(output)
    _write_run(ready, sheet)
    if not ready.config.freeze:
        code = train(ready, workers)
        if code is not None:
            return code
    calibrate(ready)
    contests, places = run_contests(ready)
    finish(ready, contests, places, overlap)
    return 0


def _inputs(
    sheet: Path, config: ClassifyConfig, stores: Mapping[Path, Any]
) -> list[dict[str, Any]]:
    others = [Path(name) for name in (config.split, config.synteny) if name]
    for path in others:
        require_file(path)
    inputs = describe_inputs(list(stores.values()), [sheet, *others])
    if config.model:
        pretrained.read_config(config.model)
        size, digest = pretrained.fingerprint(model_folder(config.model))
        inputs.append({"path": config.model, "size": size, "sha256": digest})
    return inputs


def _require_apart(sides: Sides, length: int, allowed: bool) -> Overlap:
    """Look for the test side's sequence on the training side."""
    overlap = measure_overlap(sides.train, sides.test, length)
    if overlap.leaks:
        told = (
            f"{overlap.found:,} of {overlap.windows:,} test windows are found on the training side "
            f"by their k-mers, first {overlap.first}: an accuracy would say little"
        )
        if not allowed:
            raise InputError(
                f"{told}; part them (--split, --synteny, or the sheet's column split), or "
                "--allow-overlap"
            )
        logger.warning(told)
    return overlap


def _set_up(
    output: Path,
    config: ClassifyConfig,
    said: ClassifyConfig,
    inputs: list[dict[str, Any]],
    sides: Sides,
    device: torch.device,
) -> Fit:
    """Build the model, and choose what was left open."""
    length = config.length or 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.model:
            language = pretrained.load(config.model)
        else:
            language = LanguageModel(preset(config.preset or ""))
        contexts = tuple(contexts_of(length))
        about = ClassifierConfig(sides.species, contexts, config.pool or "mean")
        classifier = Classifier(language, about).to(device)
    language.backend = config.backend
    _require_windows(sides, length)
    ready = Fit(output, config, inputs, sides, classifier, device)
    if config.freeze:
        return ready
    batch = config.batch or 1
    micro_batch = min(config.micro_batch or 1, batch)
    ways: tuple[Recompute, ...] = ("scan", "block")
    if config.recompute != "auto":
        ways = (config.recompute,)
    language.recompute = recompute = ways[0]
    windows = ready.windows
    codes = torch.stack([windows[0, index] for index in range(micro_batch)]).to(device)
    if device.type == "cuda":
        micro_batch, recompute = plan.fit_memory(
            classifier,
            ready.trained_on,
            codes,
            ready.autocast,
            recompute=ways,
            whole=said.micro_batch is not None,
        )
    classifier.bases_at_once = micro_batch * length
    seconds = 1.0
    if not (config.steps or config.epochs or config.recipe == "paper"):
        some = [windows[0, index] for index in range(min(2 * micro_batch, batch))]
        seconds = seconds_per_step(
            classifier,
            ready.trained_on,
            torch.stack(some).to(device),
            batch=batch,
            autocast=ready.autocast,
        )
    steps = steps_of(config, windows.bases, seconds)
    validations = min(plan.VALIDATIONS, steps)
    chosen = dataclasses.replace(
        config,
        steps=steps,
        micro_batch=micro_batch,
        recompute=recompute,
        validate_every=config.validate_every or -(-steps // validations),
        checkpoint_every=config.checkpoint_every or -(-steps // 20),
    )
    log_choices(said, chosen, windows.bases)
    return dataclasses.replace(ready, config=chosen)


def _require_windows(sides: Sides, length: int) -> None:
    """Make sure that each species can be tuned and tested."""
    for side, species in (("valid", sides.valid), ("test", sides.test)):
        there = {window.species for window in tile_tracks(species, length)}
        for number, name in enumerate(sides.species):
            if number not in there:
                raise UsageError(
                    f"{name} has no window of {length:,} bases on the {side} side: choose a "
                    "smaller --length, or fewer --folds"
                )


def _write_run(ready: Fit, sheet: Path) -> None:
    """Write what a run is made of: run.json first, because it marks the folder as ours."""
    config = to_dict(ready.config)
    record = {
        "seed": ready.config.seed,
        "device": options.device_name(ready.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "config": config,
        "sheet": str(sheet),
        "inputs": ready.inputs,
    }
    write_run_record(ready.folder, "classify", record)
    write_text(ready.folder / "config.toml", to_toml(config))
