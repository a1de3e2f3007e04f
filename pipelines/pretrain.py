"""`dnamamba pretrain`: a language model from genomes, in one run folder.

`pretrain` sets a run up, `dnamamba.pipelines.pretrain_run` trains it; the command is last.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import torch

from dnamamba.config import from_dict, read_toml, to_dict, to_toml
from dnamamba.data.splits import Split, format_splits
from dnamamba.data.store import Store, open_store
from dnamamba.data.windows import HeldOutWindows, Source, TrainingWindows, tile
from dnamamba.errors import UsageError
from dnamamba.files import require_file, write_text
from dnamamba.kernels.dispatch import BACKENDS
from dnamamba.log import logger, write_run_record
from dnamamba.models.presets import PRESETS
from dnamamba.pipelines import options
from dnamamba.pipelines.fitting import RESULTS
from dnamamba.pipelines.numbers import Count, Names
from dnamamba.pipelines.pretrain_config import (
    PretrainConfig,
    build_model,
    changed,
    choose_sizes,
    choose_steps,
    log_choices,
    loop_config,
    require_shareable,
    require_sound,
    resume_config,
)
from dnamamba.pipelines.pretrain_run import Run, train
from dnamamba.pipelines.resume import describe_inputs, read_record, require_same_inputs
from dnamamba.pipelines.split import choose_splits
from dnamamba.processes import Processes, join
from dnamamba.training.checkpoint import remove_leftovers
from dnamamba.training.events import require_tensorboard
from dnamamba.training.parallel import WAYS, Way


def pretrain(
    genomes: Sequence[Path],
    output: Path,
    config: PretrainConfig | None = None,
    *,
    asked: Mapping[str, Any] | None = None,
    resume: bool = False,
    force: bool = False,
    device: str = "auto",
    workers: int = 0,
    tensorboard: bool = False,
    parallel: Way = "ddp",
    sequence_parallel: int = 1,
) -> int:
    """Pretrain a language model on genomes, and leave it in a run folder.

    Where torchrun started this process with others, they train one model together, and the first
    writes.

    Parameters
    ----------
    genomes
        FASTA files.
    output
        The run folder.
    config
        Settings; what is None is chosen for the machine and the genomes.
    asked
        Settings that were asked for by name, which a run to be resumed must have; by default those
        of `config` that differ from its defaults.
    resume
        Go on from the last good checkpoint in `output`, or start where there is none.
    force
        Replace a run that lies in `output`.
    device
        `auto`, `cpu`, `mps`, `cuda` or `cuda:N`.
    workers
        Processes that read ahead; with 0 a thread does.
    tensorboard
        Whether event files for TensorBoard are written into the run folder.
    parallel
        Whether each process holds all of the model, or a share of it.
    sequence_parallel
        How many processes hold a part each of the same windows.

    Returns
    -------
    The exit code: 0 if the run is finished or was stopped by SIGTERM or SIGUSR1, 130 if by SIGINT.

    Raises
    ------
    UsageError
        For settings that do not fit together, the genomes, or the run that is to be resumed.
    DnamambaError
        For inputs that cannot be used, a full disk, a loss that is not finite, or a process that
        died.
    """
    config = config or PretrainConfig()
    with join(options.resolve_device(device), sequence_parallel) as (processes, place):
        if not processes.is_first:
            logger.setLevel(logging.WARNING)
        require_sound(config)
        if tensorboard:
            require_tensorboard()

        def look() -> dict[str, Any] | None:
            if not force or resume:
                options.prepare_output(output, force=force, resume=resume)
            return read_record(output, "pretrain") if resume else None

        record = processes.on_first(look)
        if record:
            asked = changed(config) if asked is None else asked
            config = resume_config(output, record["config"], asked)
        others = [Path(config.split)] if config.split else []
        for path in (*genomes, *others):
            require_file(path)
        processes.on_first(lambda: _index(genomes))
        stores = [open_store(genome) for genome in genomes]
        inputs = describe_inputs(stores, others)
        if record:
            require_same_inputs(output, record["inputs"], inputs)
            if processes.on_first((output / RESULTS).exists):
                logger.info("%s is finished: %s has its figures", output, output / RESULTS)
                return 0
        run, splits = _set_up(output, config, stores, inputs, place, processes, parallel)

        def write() -> None:
            if force:
                options.prepare_output(output, force=True)
            remove_leftovers(output)
            _write_run(run, splits)

        processes.on_first(write)
        return train(run, workers, tensorboard=tensorboard)


def _index(genomes: Sequence[Path]) -> None:
    """Build what stores there are to build; the other processes find them."""
    for genome in genomes:
        open_store(genome)


def _set_up(
    output: Path,
    config: PretrainConfig,
    stores: Sequence[Store],
    inputs: list[dict[str, Any]],
    device: torch.device,
    processes: Processes,
    way: Way,
) -> tuple[Run, list[Split]]:
    """Cut the genomes, build the model, and choose what was left open."""
    lengths = [bases for store in stores for bases in store.lengths.values()]
    chosen = choose_sizes(config, device, lengths, processes)
    require_shareable(chosen, processes)
    length = chosen.length or max(lengths)
    splits, notes = choose_splits(
        stores,
        length=length,
        contigs=config.contigs,
        holdout=config.holdout,
        split=Path(config.split) if config.split else None,
        seed=config.seed,
    )
    for note in notes:
        logger.info(note)
    pairs = list(zip(stores, splits, strict=True))
    train = [Source(store, split.train) for store, split in pairs]
    side = "valid" if any(split.valid for split in splits) else "test"
    valid = [Source(store, split.side(side)) for store, split in pairs]
    windows = TrainingWindows(
        train, length, seed=config.seed, reverse_complement=config.reverse_complement
    )
    held_out = _hold_out(valid, length, chosen.held_out_bases or length)
    model = build_model(chosen).to(device)
    chosen = choose_steps(chosen, model, windows, held_out, device, processes)
    log_choices(config, chosen, windows.bases)
    loop = loop_config(chosen)
    run = Run(output, chosen, loop, inputs, windows, held_out, model, device, processes, way)
    return run, splits


def _hold_out(sources: Sequence[Source], length: int, bases: int) -> HeldOutWindows:
    every = tile(sources, length)
    if not every:
        raise UsageError(
            f"no held-out region holds a window of {length:,} bases that is not mostly N: "
            "choose a smaller --length, or other regions with --holdout or --split"
        )
    kept = tile(sources, length, limit=max(1, bases // length))
    logger.info(
        "held out: %s of %s windows of %s bases are scored",
        f"{len(kept):,}",
        f"{len(every):,}",
        f"{length:,}",
    )
    return HeldOutWindows(sources, kept)


def _write_run(run: Run, splits: Sequence[Split]) -> None:
    """Write what a run is made of: run.json first, because it marks the folder as ours."""
    config = to_dict(run.config)
    record = {
        "seed": run.config.seed,
        "device": options.device_name(run.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "config": config,
        "inputs": run.inputs,
    }
    if run.processes.size > 1:
        parts = run.processes.parts
        together = {"parallel": run.way, "sequence_parallel": parts}
        record["processes"] = {"count": run.processes.size, **together}
    write_run_record(run.folder, "pretrain", record)
    write_text(run.folder / "config.toml", to_toml(config))
    names = [Path(entry["path"]).name for entry in run.inputs[: len(splits)]]
    write_text(run.folder / "split.bed", format_splits(splits, names))


Function = TypeVar("Function", bound=Callable[..., Any])


def _count(name: str, text: str) -> Callable[[Function], Function]:
    return click.option(f"--{name}", type=Count(), metavar="N", help=text)


@click.command("pretrain")
@click.argument(
    "genomes", metavar="GENOME...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--preset", metavar="SIZE", help=f"{', '.join(PRESETS)}.  [default: by machine]")
@_count("length", "Bases of a window.  [default: 1024, on a GPU 8192]")
@_count("length-warmup", "Bases of the first windows, which double in stages up to --length.")
@_count("tokens", "Bases to read in all.  [default: ten minutes' worth]")
@_count("steps", "Optimiser steps, instead of --tokens.")
@_count("batch", "Windows a step.")
@_count("micro-batch", "Windows a forward and backward pass.  [default: what fits]")
@_count("tbptt", "Bases that gradients reach back over, for longer windows than memory holds.")
@click.option("--objective", type=click.Choice(["next", "masked"]), help="[default: next]")
@click.option("--bidirectional", is_flag=True, default=None, help="Read both ways (masked only).")
@click.option(
    "--symmetry",
    type=click.Choice(["none", "shared", "average"]),
    help="Reverse complement: shared weights, or averaged in use.  [default: none]",
)
@click.option("--lr", type=float, metavar="RATE", help="Peak learning rate.  [default: 0.008]")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="[default: auto]")
@click.option(
    "--recompute",
    type=click.Choice(["auto", "none", "scan", "block"]),
    help="What the backward makes again to save memory: nothing, all but scans, or whole blocks.  "
    "[default: auto]",
)
@click.option("--backend", type=click.Choice(BACKENDS), help="How scans run.  [default: auto]")
@click.option("--contigs", type=Names(), help="Contigs to use: names and globs, with commas.")
@click.option("--holdout", type=Names(), help="Contigs to hold out, with commas.")
@click.option("--split", metavar="BED", help="Regions and their fold: train, valid or test.")
@click.option("--soft-mask-weight", type=float, metavar="W", help="Of soft-masked targets.  [1]")
@click.option("--no-rc", is_flag=True, default=None, help="Train on the given strand only.")
@_count(
    "validate-every",
    "Steps between validations.  [default: ten, or fewer]",
)
@_count("checkpoint-every", "Steps between checkpoints.  [default: a twentieth]")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Processes reading ahead.")
@click.option("--tensorboard", is_flag=True, help="Write events for TensorBoard, as it trains.")
@click.option(
    "--parallel",
    type=click.Choice(WAYS),
    default=WAYS[0],
    help="Under torchrun, what each process holds of the model: ddp, all; fsdp, a share.  [ddp]",
)
@click.option(
    "--sequence-parallel",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Under torchrun, processes that each window is split over.  [1]",
)
@click.option("--config", metavar="TOML", type=click.Path(path_type=Path), help="Settings.")
@options.output
@options.resume
@options.force
@options.seed
@options.device
@options.threads
@options.verbosity
@click.pass_context
def command(
    context: click.Context,
    /,
    genomes: tuple[Path, ...],
    config: Path | None,
    output: Path | None,
    resume: bool,
    force: bool,
    device: str,
    threads: int,
    workers: int,
    tensorboard: bool,
    parallel: Way,
    sequence_parallel: int,
    **settings: Any,
) -> int:
    """Pretrain a Mamba model on genomes.

    GENOME is a FASTA file: plain text, gzip or BGZF. The run folder (-o) is a model folder, and
    holds metrics.tsv, loss.png, throughput.png, run.json, config.toml and what a --resume needs. On
    a CPU the same command on as many threads gives the same model, bit for bit.

    Many GPUs: torchrun --nproc-per-node N -m dnamamba pretrain GENOME... trains one model on all;
    --resume may go on with another number of them.
    """
    torch.set_num_threads(threads)
    asked = _asked(config, settings, context)
    return pretrain(
        genomes,
        output or Path("runs") / f"pretrain-{_stem(genomes[0])}",
        from_dict(PretrainConfig, asked, str(config or "pretrain")),
        asked=asked,
        resume=resume,
        force=force,
        device=device,
        workers=workers,
        tensorboard=tensorboard,
        parallel=parallel,
        sequence_parallel=sequence_parallel,
    )


def _asked(path: Path | None, flags: dict[str, Any], context: click.Context) -> dict[str, Any]:
    """Gather what was asked for by name: the TOML file's settings, and flags, which win."""
    given = options.given(context, flags)
    settings = read_toml(path) if path else {}
    if "tokens" in given or "steps" in given:
        settings.pop("steps", None)
        settings.pop("tokens", None)
    if "lr" in given:
        settings["optimizer"] = {**settings.get("optimizer", {}), "lr": given.pop("lr")}
    if given.pop("no_rc", False):
        given["reverse_complement"] = False
    return {**settings, **given}


def _stem(genome: Path) -> str:
    """Return a genome's name without its suffixes."""
    name = genome.name.removesuffix(".gz").removesuffix(".bgz")
    return name.rpartition(".")[0] or name
