"""`dnamamba score`: variants by how much likelier a model finds the genome with them in it."""

import time
from pathlib import Path
from typing import Any, get_args

import click
import torch

from dnamamba.config import from_dict
from dnamamba.data.store import Store, open_store
from dnamamba.data.variants import Alleles, read_alleles
from dnamamba.data.vcf import open_vcf
from dnamamba.errors import InputError, UsageError
from dnamamba.inference.score import Strands
from dnamamba.kernels.dispatch import BACKENDS
from dnamamba.log import logger
from dnamamba.pipelines import options
from dnamamba.pipelines.numbers import Count
from dnamamba.pipelines.score_config import EXACT, HORIZON, ScoreConfig, read_model_config
from dnamamba.pipelines.score_ism import EXAMPLE, score_ism
from dnamamba.pipelines.score_job import Job
from dnamamba.pipelines.score_output import (
    Scored,
    is_vcf,
    require_output,
    require_unscored,
    write_scores,
)


def score(
    genome: Path,
    variants: Path,
    output: Path | None,
    config: ScoreConfig,
    *,
    force: bool = False,
    device: str = "auto",
) -> None:
    """Score the variants of a VCF.

    Parameters
    ----------
    genome
        FASTA, plain, gzip or BGZF; indexed where it is not yet.
    variants
        VCF, plain, gzip or BGZF, in any order; `-` is stdin.
    output
        `.vcf` or `.tsv`, plain or `.gz`; None is a table on stdout.
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
        For a genome or a VCF that cannot be read, contigs that the genome lacks, or REF that is not
        what it has.
    CheckpointError
        For what is no model folder.
    DnamambaError
        Where memory or disk do not suffice.
    """
    require_output(output, force=force)
    scoring = config.scoring(read_model_config(config.model))
    here = options.resolve_device(device)
    with open_vcf(variants) as vcf:
        if is_vcf(output):
            require_unscored(vcf)
        store = open_store(genome)
        alleles = read_alleles(vcf.records(), store, vcf.source, store.source.name)
        _require_matches(alleles, config, vcf.source, store)
        job = Job.load(store, config, here)
        began = time.monotonic()
        scored = Scored(alleles, job.score(alleles.variants, scoring))
        _tell(scored)
        if alleles.variants:
            job.tell_pace(len(alleles.variants), began)
        about = [f"{name} {value}" for name, value in job.provenance(scoring).items()]
        if scoring.horizon is not None and alleles.variants:
            sample = job.draw(len(alleles.variants))
            chosen = [alleles.variants[number] for number in sample]
            about.append(job.measure_error(chosen, scored.ratios[sample], scoring))
            logger.info("%s", about[-1])
        write_scores(output, vcf, scored, "; ".join(about))


def _require_matches(alleles: Alleles, config: ScoreConfig, source: str, store: Store) -> None:
    if not alleles.mismatched:
        return
    said = alleles.describe_mismatches(source, store.source.name)
    if not config.skip_mismatches:
        raise InputError(f"{said}; --skip-mismatches scores the others")
    logger.warning("%s; they are skipped", said)


def _tell(scored: Scored) -> None:
    alleles = scored.alleles
    skipped = alleles.skipped()
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(skipped.items()))
    logger.info(
        "%s records, %s alleles: %s scored, %s skipped%s",
        *(f"{alleles.records:,}", f"{len(alleles.reasons):,}", f"{len(alleles.variants):,}"),
        f"{skipped.total():,}",
        f" ({reasons})" if reasons else "",
    )


@click.command("score")
@click.argument("genome", type=click.Path(path_type=Path))
@click.argument("variants", required=False, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--ism",
    metavar="REGION",
    help=f"Instead of VARIANTS: all substitutions of a region, such as {EXAMPLE}.",
)
@click.option("-m", "--model", metavar="DIR", help="Model folder.")
@click.option(
    "--context",
    type=Count(),
    metavar="N",
    help="Bases of a window, up to 1Mi; a quarter or more on either side of a variant.  [4096]",
)
@click.option(
    "--horizon",
    metavar="all|N",
    help="Bases behind an allele that are read for it; all is exact.  "
    f"[all up to --context {EXACT}, else {HORIZON}]",
)
@click.option(
    "--strands",
    type=click.Choice(get_args(Strands)),
    help="Both are averaged, or the forward one is read alone.  [both]",
)
@click.option(
    "--flank",
    type=click.IntRange(min=0),
    metavar="N",
    help="Of a masked model: bases beside an indel that are asked for.  [16]",
)
@click.option(
    "--skip-mismatches",
    is_flag=True,
    default=None,
    help="Pass over records whose REF is not what the genome has.",
)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="[fp32]")
@click.option("--backend", type=click.Choice(BACKENDS), help="How scans run.  [auto]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A file: .vcf or .tsv, or either with .gz; .h5 of --ism.  [a table on stdout; "
    "runs/ism-REGION.h5]",
)
@options.force
@options.seed
@options.device
@options.threads
@options.verbosity
@click.pass_context
def command(
    context: click.Context,
    /,
    genome: Path,
    variants: Path | None,
    ism: str | None,
    output: Path | None,
    force: bool,
    device: str,
    threads: int,
    **settings: Any,
) -> None:
    """Score the VARIANTS (VCF) of a GENOME (FASTA), or all substitutions of a region (--ism).

    The score of an allele is the natural logarithm of how many times likelier the model finds the
    genome with it than without: below 0 where it is less likely. Each record comes out again, in
    its place, with the scores in its INFO; or each allele as a row of a table. --ism leaves an
    array (HDF5), and beside it a track (bedGraph) and a logo (PNG).
    """
    torch.set_num_threads(threads)
    config = from_dict(ScoreConfig, options.given(context, settings), "score")
    if ism is not None:
        if variants is not None:
            raise UsageError(
                f"--ism: scores a region, and {variants} is a VCF; leave out one of them"
            )
        score_ism(genome, ism, output, config, force=force, device=device)
        return
    if variants is None:
        raise UsageError(f"VARIANTS: give a VCF; or --ism REGION, such as --ism {EXAMPLE}")
    score(genome, variants, output, config, force=force, device=device)
