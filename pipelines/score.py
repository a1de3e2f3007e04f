"""`dnamamba score`: variants by how much likelier a model finds the genome with them in it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import click
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from dnamamba import __version__
from dnamamba.config import from_dict
from dnamamba.data.store import Store, open_store
from dnamamba.data.variants import Alleles, Variant, read_alleles
from dnamamba.data.vcf import open_vcf
from dnamamba.errors import DnamambaError, InputError
from dnamamba.inference.score import Scorer, Scoring, Strands, collect
from dnamamba.kernels.dispatch import BACKENDS
from dnamamba.log import logger, progress
from dnamamba.models import pretrained
from dnamamba.models.heads import LanguageModel
from dnamamba.models.hub import model_name
from dnamamba.models.precision import autocast_to
from dnamamba.pipelines import options
from dnamamba.pipelines.numbers import Count, show_count
from dnamamba.pipelines.score_config import EXACT, HORIZON, ScoreConfig, read_model_config
from dnamamba.pipelines.score_output import (
    Scored,
    is_vcf,
    require_output,
    require_unscored,
    write_scores,
)

SAMPLE: Final = 32
"""Variants that are scored to the window's end too, to see what a horizon leaves out."""


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
        model = pretrained.load(config.model, here)
        model.backend = config.backend
        job = _Job(model, store, config, here)
        began = time.monotonic()
        scored = Scored(alleles, job.score(alleles.variants, scoring))
        seconds = time.monotonic() - began
        about = _describe(config, scoring, model)
        if scoring.horizon is not None and alleles.variants:
            error = job.measure_error(scored, scoring)
            logger.info("%s", error)
            about += f"; {error}"
        write_scores(output, vcf, scored, about)
    _tell(scored, config, seconds)


def _require_matches(alleles: Alleles, config: ScoreConfig, source: str, store: Store) -> None:
    if not alleles.mismatched:
        return
    said = alleles.describe_mismatches(source, store.source.name)
    if not config.skip_mismatches:
        raise InputError(f"{said}; --skip-mismatches scores the others")
    logger.warning("%s; they are skipped", said)


@dataclass(frozen=True)
class _Job:
    """A model and a genome."""

    model: LanguageModel
    store: Store
    config: ScoreConfig
    device: torch.device

    def score(self, variants: list[Variant], scoring: Scoring) -> NDArray[np.float64]:
        """Score variants, with a bar: (variants, 2)."""
        autocast = autocast_to(self.config.precision, self.device)
        scorer = Scorer(self.model, scoring, device=self.device, autocast=autocast)

        def parts() -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
            with progress(len(variants), "score", "variants") as bar:
                for numbers, found in scorer.score(self.store, variants):
                    bar.update(len(numbers))
                    yield numbers, found

        try:
            return collect(parts(), len(variants))
        except torch.OutOfMemoryError as error:
            raise DnamambaError(
                f"{self.device} is out of memory: free some of it, or give --device cpu"
            ) from error

    def measure_error(self, scored: Scored, scoring: Scoring) -> str:
        """Score some variants to the window's end too, and say how far off a horizon is."""
        variants = scored.alleles.variants
        count = min(SAMPLE, len(variants))
        rng = np.random.default_rng(self.config.seed)
        sample = np.sort(rng.choice(len(variants), count, replace=False))
        chosen = [variants[number] for number in sample]
        exact = Scored(scored.alleles, self.score(chosen, scoring.to_the_end())).ratios
        return describe_error(scored.ratios[sample], exact, scoring)


def describe_error(found: NDArray[np.float64], exact: NDArray[np.float64], scoring: Scoring) -> str:
    """Say in words how far scores with a horizon, (variants,), are from exact ones."""
    off = np.abs(found - exact)
    said = (
        f"horizon {scoring.horizon:,} against {len(exact):,} variants read to the window's end: "
        f"median difference {np.median(off):.2g} nats, largest {off.max():.2g}"
    )
    if len(exact) < 3 or np.ptp(found) == 0 or np.ptp(exact) == 0:
        return said
    pearson = stats.pearsonr(found, exact).statistic
    spearman = stats.spearmanr(found, exact).statistic
    return f"{said}, Pearson {pearson:.4f}, Spearman {spearman:.4f}"


def _describe(config: ScoreConfig, scoring: Scoring, model: LanguageModel) -> str:
    """Say how scores were made."""
    masked = model.config.objective == "masked"
    behind = "all" if scoring.horizon is None else str(scoring.horizon)
    return "; ".join(
        (
            f"version {__version__}",
            f"model {model_name(config.model)}",
            f"context {scoring.context}",
            f"flank {scoring.flank}" if masked else f"horizon {behind}",
            f"strands {scoring.strands}",
            f"precision {config.precision}",
        )
    )


def _tell(scored: Scored, config: ScoreConfig, seconds: float) -> None:
    alleles = scored.alleles
    count = len(alleles.variants)
    skipped = alleles.skipped()
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(skipped.items()))
    logger.info(
        "%s records, %s alleles: %s scored, %s skipped%s",
        *(f"{alleles.records:,}", f"{len(alleles.reasons):,}", f"{count:,}"),
        f"{skipped.total():,}",
        f" ({reasons})" if reasons else "",
    )
    if count:
        rate = show_count(count / max(seconds, 1e-9))
        name = model_name(config.model)
        logger.info("%.1f s, %s variants a second, with %s", seconds, rate.strip(), name)


@click.command("score")
@click.argument("genome", type=click.Path(path_type=Path))
@click.argument("variants", type=click.Path(path_type=Path, allow_dash=True))
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
    help="A file: .vcf or .tsv, or either with .gz.  [a table on stdout]",
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
    variants: Path,
    output: Path | None,
    force: bool,
    device: str,
    threads: int,
    **settings: Any,
) -> None:
    """Score the VARIANTS (VCF) of a GENOME (FASTA).

    The score of an allele is the natural logarithm of how many times likelier the model finds the
    genome with it than without: below 0 where it is less likely. Each record comes out again, in
    its place, with the scores in its INFO; or each allele as a row of a table.
    """
    torch.set_num_threads(threads)
    config = from_dict(ScoreConfig, options.given(context, settings), "score")
    score(genome, variants, output, config, force=force, device=device)
