"""`dnamamba embed`: windows, regions or whole contigs of a genome as vectors, with coordinates."""

import hashlib
import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

import click
import numpy as np
import torch

from dnamamba.config import from_dict, to_dict
from dnamamba.data.gtf import Feature
from dnamamba.data.store import Store, open_store
from dnamamba.data.targets import Short
from dnamamba.errors import UsageError
from dnamamba.inference.embed import Embedder, Strands
from dnamamba.inference.embeddings import PER_BASE, describe, require_format
from dnamamba.inference.genome import GenomeReader
from dnamamba.inference.pooling import Pool
from dnamamba.inference.stream import spilled_bytes
from dnamamba.kernels.dispatch import BACKENDS
from dnamamba.log import logger, peak_resident, progress
from dnamamba.models import pretrained
from dnamamba.models.heads import LanguageModel
from dnamamba.models.hub import model_folder
from dnamamba.models.precision import autocast_to
from dnamamba.pipelines import options
from dnamamba.pipelines.embed_config import Dtype, EmbedConfig, Windows, read_windows
from dnamamba.pipelines.embed_job import BATCHES, Job, Scratch, Unit, cut_into_units, share_out
from dnamamba.pipelines.embed_output import write_output
from dnamamba.pipelines.numbers import Count, Names, show_bytes, show_count
from dnamamba.processes import Processes, join
from dnamamba.training.signals import StopRequest, stop_on_signal

PART: Final = ".part"
"""What is added to the output's name for the folder of a job that is not finished."""


def embed(
    genome: Path,
    output: Path,
    config: EmbedConfig,
    *,
    resume: bool = False,
    force: bool = False,
    device: str = "auto",
) -> int:
    """Embed windows, regions or contigs of a genome, and write them with their coordinates.

    Parameters
    ----------
    genome
        FASTA, plain, gzip or BGZF; indexed where it is not yet.
    output
        `.h5ad`, `.parquet` or `.npz`; `.h5` for one embedding per base.
    config
        Settings.
    resume
        Go on with a job that was interrupted.
    force
        Replace what is there, and start anew.
    device
        As `--device`.

    Returns
    -------
    0, or 130 where Ctrl-C stopped it.

    Raises
    ------
    UsageError
        For settings that do not fit each other, the model or the output.
    InputError
        For a genome or regions that cannot be read.
    CheckpointError
        For what is no model folder.
    DnamambaError
        Where memory or disk do not suffice.
    """
    require_format(output, per_base=config.pool == "none")
    if not config.model:
        raise UsageError("-m MODEL: a model folder is wanted; dnamamba pretrain GENOME makes one")
    with join(options.resolve_device(device)) as (processes, here):
        part = output.with_name(output.name + PART)
        finished = processes.on_first(
            lambda: _is_finished(output, part, force=force, resume=resume)
        )
        if config.precision == "auto":
            config = replace(config, precision="bf16" if here.type == "cuda" else "fp32")
        model = pretrained.load(config.model, here)
        model.backend = config.backend
        store = processes.on_first(lambda: open_store(genome))
        windows = processes.on_first(lambda: read_windows(config, store))
        embedder = _embedder(config, model, here)
        block = BATCHES * embedder.batch_bases
        units = _units(config, embedder, windows, store, block)
        scratch = _scratch(config, embedder, windows, part)
        identity = _identity(config, windows, store)
        if finished:
            processes.on_first(lambda: _require_same(output, identity))
            return 0
        processes.on_first(lambda: _begin(scratch, {**identity, "block": block}, resume=resume))
        if processes.is_first:
            _tell_plan(embedder, windows, units, scratch, stream=config.stream)
        with stop_on_signal() as stop:
            job = Job(embedder, GenomeReader(store, config.context), windows.targets, scratch, stop)
            code = _run(job, units, processes, stop)
            if code is None:
                told = _digest(identity)
                processes.on_first(lambda: write_output(output, config, job, windows, store, told))
        return code or 0


def _is_finished(output: Path, part: Path, *, force: bool, resume: bool) -> bool:
    """Tell whether there is nothing left to do, and make sure that nothing is overwritten."""
    if force and resume:
        raise UsageError("--force starts anew and --resume goes on: give one of them")
    if output.is_dir():
        raise UsageError(f"{output}: is a folder; name a file with -o")
    if output.exists() and resume and not part.exists():
        return True
    if output.exists() and not force:
        raise UsageError(f"{output}: exists; --force replaces it, -o chooses another")
    if part.exists() and force:
        shutil.rmtree(part)
    if part.exists() and not resume:
        raise UsageError(
            f"{part}: a job that was broken off; --resume goes on with it, --force starts anew"
        )
    return False


def _require_same(output: Path, identity: dict[str, Any]) -> None:
    """Make sure that a finished file is what is asked for."""
    if describe(output)["about"].get("job") != _digest(identity):
        raise UsageError(
            f"{output}: is of another job (dnamamba info {output} describes it); give the same "
            "settings, or --force to make it anew"
        )
    logger.info("%s is finished; --force makes it anew", output)


def _digest(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _embedder(config: EmbedConfig, model: LanguageModel, device: torch.device) -> Embedder:
    return Embedder(
        model,
        config.how(model.config),
        device=device,
        batch=config.batch,
        autocast=autocast_to(config.precision, device),
    )


def _units(
    config: EmbedConfig, embedder: Embedder, windows: Windows, store: Store, block: int
) -> list[Unit]:
    return cut_into_units(
        windows.targets,
        list(store.lengths.values()),
        context=config.context,
        stream=config.stream,
        strands=1 if config.rc == "none" else 2,
        block=block,
        splits_long=embedder.is_causal,
    )


def _scratch(config: EmbedConfig, embedder: Embedder, windows: Windows, folder: Path) -> Scratch:
    targets = windows.targets
    items = len(targets)
    if config.pool == "none":
        items = int((targets.ends - targets.starts).sum())
    strands = 1 if config.rc == "none" else 2
    # What is averaged later is kept in full.
    dtype = np.dtype("float32" if config.rc == "average" else config.dtype)
    return Scratch(folder, (items, strands, embedder.channels), dtype)


def _identity(config: EmbedConfig, windows: Windows, store: Store) -> dict[str, Any]:
    """Return what has to be the same where a job goes on."""
    targets = windows.targets
    digest = hashlib.sha256()
    for column in (targets.contig, targets.starts, targets.ends, targets.reverse):
        digest.update(np.ascontiguousarray(column).tobytes())
    settings = {**to_dict(config), "model": pretrained.fingerprint(model_folder(config.model))[1]}
    for name in ("bed", "gtf", "batch", "backend"):
        del settings[name]
    settings["contigs"] = list(config.contigs)
    return {**settings, "genome": store.checksum, "windows": digest.hexdigest()}


def _begin(scratch: Scratch, identity: dict[str, Any], *, resume: bool) -> None:
    if not (resume and scratch.folder.exists()):
        scratch.create(identity)
        return
    before = scratch.identity()
    differing = sorted(name for name in identity if before.get(name) != identity[name])
    if differing:
        raise UsageError(
            f"{scratch.folder}: was begun with another {', '.join(differing)}; give the same, or "
            "start anew with --force"
        )


def _tell_plan(
    embedder: Embedder, windows: Windows, units: list[Unit], scratch: Scratch, *, stream: bool
) -> None:
    targets = windows.targets
    sizes = targets.ends - targets.starts
    least, most = int(sizes.min()), int(sizes.max())
    logger.info(
        "%s windows of %s bases, contigs %s, dims %s; %s of scratch beside the output",
        f"{len(targets):,}",
        f"{least:,}" + (f" to {most:,}" if least < most else ""),
        f"{len(np.unique(targets.contig)):,}",
        f"{len(embedder.names):,}",
        show_bytes(scratch.size),
    )
    if stream and not embedder.is_causal:
        longest = max(unit.bases for unit in units)
        logger.info(
            "the model reads both ways: contigs are read layer by layer, with up to %s on disk for "
            "each process meanwhile",
            show_bytes(spilled_bytes(longest, embedder.model.config.d_model)),
        )
    if any(map(scratch.is_done, units)):
        done = sum(unit.bases for unit in units if scratch.is_done(unit))
        share = 100 * done / sum(unit.bases for unit in units)
        logger.info("going on: %.0f %% of the bases have been read", share)


def _run(job: Job, units: list[Unit], processes: Processes, stop: StopRequest) -> int | None:
    """Do this process's units; return an exit code where a signal came to any process."""
    mine = share_out(units, processes.size, processes.rank)
    total = sum(unit.bases for unit in mine if not job.scratch.is_done(unit))
    started = time.monotonic()
    with progress(total, "embed", "b") as bar:
        is_done = job.run(mine, bar)
    (is_left,) = processes.largest(not is_done)
    if not is_left:
        seconds = time.monotonic() - started
        if processes.is_first and total:
            logger.info(
                "%sb in %.1f s, %sb a second in each process of %d, peak %s",
                *(show_count(total), seconds, show_count(total / seconds), processes.size),
                _peak(job.embedder.device),
            )
        return None
    if processes.is_first:
        logger.info(
            "stopped; what is done is kept in %s, and the same command with --resume goes on",
            job.scratch.folder,
        )
    return 130 if stop.signal == signal.SIGINT else 0


def _peak(device: torch.device) -> str:
    size = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident()
    return show_bytes(size)


@click.command("embed")
@click.argument("genome", type=click.Path(path_type=Path))
@click.option("-m", "--model", metavar="DIR", help="Model folder.")
@click.option("--bed", metavar="FILE", help="Regions, BED3 to BED12; - is stdin.")
@click.option("--gtf", metavar="FILE", help="An annotation, GTF, plain or gzipped.")
@click.option(
    "--feature", type=click.Choice(get_args(Feature)), help="What of --gtf is embedded.  [gene]"
)
@click.option(
    "--contigs", type=Names(), help="Without regions: names and globs, with commas.  [all]"
)
@click.option(
    "--window",
    type=Count(),
    metavar="N",
    help="Bases of a window: around each region, or side by side along each contig.  [regions and "
    "contigs whole]",
)
@click.option(
    "--stride", type=Count(), metavar="N", help="Bases from one window to the next; along regions."
)
@click.option(
    "--short",
    type=click.Choice(get_args(Short)),
    help="Where a window does not fit: refuse, pad (read what there is), skip.  [refuse]",
)
@click.option(
    "--context", type=Count(), metavar="N", help="Bases on either side: read, not pooled.  [0]"
)
@click.option(
    "--layer", help="A block (1 is the first, -1 the last), several (4,8), or mean:4-8.  [-1]"
)
@click.option(
    "--pool",
    type=click.Choice(get_args(Pool)),
    help="Of the hidden states of a window; none keeps those of each base.  [mean]",
)
@click.option(
    "--rc",
    type=click.Choice(get_args(Strands)),
    help="The reverse complement: average it in, set it behind, or none.  [none]",
)
@click.option(
    "--stream", is_flag=True, default=None, help="Read each contig as one context, end to end."
)
@click.option("--dtype", type=click.Choice(get_args(Dtype)), help="[float32]")
@click.option("--batch", metavar="auto|N", help="Windows that are read at once.  [auto]")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="[auto]")
@click.option("--backend", type=click.Choice(BACKENDS), help="How scans run.  [auto]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A file: .h5ad, .parquet, .npz; .h5 for --pool none.  [runs/embed-GENOME.h5ad]",
)
@options.resume
@options.force
@options.device
@options.threads
@options.verbosity
@click.pass_context
def command(
    context: click.Context,
    /,
    genome: Path,
    output: Path | None,
    batch: str | None,
    resume: bool,
    force: bool,
    device: str,
    threads: int,
    **settings: Any,
) -> int:
    """Embed windows, regions or whole contigs of GENOME (FASTA), with their coordinates.

    Each --bed or --gtf region gets a row, in the order of the file; --window N lays a window around
    the middle of each, and with --stride they are cut into windows instead. Without regions,
    contigs are cut into windows, or embedded whole. N are not read.
    """
    torch.set_num_threads(threads)
    asked = options.given(context, settings)
    if batch not in (None, "auto"):
        option = next(each for each in context.command.params if each.name == "batch")
        asked["batch"] = Count().convert(batch, option, context)
    config = from_dict(EmbedConfig, asked, "embed")
    if output is None:
        suffix = PER_BASE if config.pool == "none" else ".h5ad"
        output = Path("runs") / f"embed-{_stem(genome)}{suffix}"
    return embed(genome, output, config, resume=resume, force=force, device=device)


def _stem(genome: Path) -> str:
    name = genome.name.removesuffix(".gz").removesuffix(".bgz")
    return Path(name).stem
