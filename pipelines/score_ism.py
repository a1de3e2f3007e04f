"""`dnamamba score --ism`: every base of a region replaced by each of the three others."""

import time
from pathlib import Path
from typing import Final

import numpy as np

from dnamamba.alphabet import Codes, N
from dnamamba.data.region import Region, parse_region
from dnamamba.data.store import open_store
from dnamamba.errors import UsageError
from dnamamba.inference.ism import Saturation, read_reference, variants_at
from dnamamba.inference.score import Scoring, is_symmetric
from dnamamba.log import logger
from dnamamba.pipelines import options
from dnamamba.pipelines.score_config import ScoreConfig, read_model_config
from dnamamba.pipelines.score_ism_output import default_output, require_outputs, write_saturation
from dnamamba.pipelines.score_job import Job

EXAMPLE: Final = "chr17:43,044,295-43,125,364"


def score_ism(
    genome: Path,
    ism: str,
    output: Path | None,
    config: ScoreConfig,
    *,
    force: bool = False,
    device: str = "auto",
) -> None:
    """Score all substitutions of a region.

    Parameters
    ----------
    genome
        FASTA, plain, gzip or BGZF; indexed where it is not yet.
    ism
        The region, as samtools writes it.
    output
        `.h5`; a `.bedgraph` and a `.png` are written beside it. None is a name in `runs`.
    config
        Settings.
    force
        Replace what is there.
    device
        As `--device`.

    Raises
    ------
    UsageError
        For settings that do not fit each other, the model or the output.
    InputError
        For a genome that cannot be read, or a region that it lacks or that is N alone.
    CheckpointError
        For what is no model folder.
    DnamambaError
        Where memory or disk do not suffice.
    """
    if output is not None:
        require_outputs(output, force=force)
    _require_settings(config)
    scoring = config.scoring(read_model_config(config.model))
    here = options.resolve_device(device)
    store = open_store(genome)
    region = parse_region(ism, store.lengths, store.source.name)
    reference = read_reference(store, region)
    if output is None:
        output = default_output(region)
        require_outputs(output, force=force)
    job = Job.load(store, config, here)
    count = _tell_plan(job, region, reference)
    began = time.monotonic()
    found = job.saturate(region, count, scoring)
    job.tell_pace(count, began)
    about = _provenance(job, scoring)
    if scoring.horizon is not None:
        about["horizon_error"] = _measure_error(job, found, scoring)
        logger.info("%s", about["horizon_error"])
    written = write_saturation(output, found, about)
    logger.info("written: %s", ", ".join(map(str, written)))


def _require_settings(config: ScoreConfig) -> None:
    """Refuse what has no meaning for substitutions of the genome's own bases."""
    if config.flank is not None:
        raise UsageError("--flank: is for insertions and deletions; leave it out with --ism")
    if config.skip_mismatches:
        raise UsageError("--skip-mismatches: is for a VCF; leave it out with --ism")


def _tell_plan(job: Job, region: Region, reference: Codes) -> int:
    """Say what will be scored, and return how many substitutions that is."""
    known = int(np.count_nonzero(reference < N))
    said = f"{region}: {len(region):,} bases, {3 * known:,} substitutions"
    if known < len(region):
        said += f", none of {len(region) - known:,} N"
    if job.model.config.objective == "masked":
        both = job.config.strands == "both" and not is_symmetric(job.model.config)
        said += f", {known * (1 + both):,} readings of a window with one base masked"
    logger.info("%s", said)
    return 3 * known


def _provenance(job: Job, scoring: Scoring) -> dict[str, str | int]:
    about = {**job.provenance(scoring), "genome": job.store.source.name}
    about.pop("flank", None)  # substitutions have none
    return {**about, "genome_sha256": job.store.checksum}


def _measure_error(job: Job, found: Saturation, scoring: Scoring) -> str:
    """Hold some substitutions against the same read to the window's end."""
    scored = np.argwhere(~np.isnan(found.ratios))
    chosen = scored[job.draw(len(scored))]
    ratios = found.ratios[chosen[:, 0], chosen[:, 1]]
    return job.measure_error(variants_at(found.region, chosen), ratios, scoring)
