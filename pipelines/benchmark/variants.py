"""`dnamamba benchmark variants`: how well a model's scores tell labelled variants apart.

The labels are what INFO says. An allele is ranked by minus its score (`dnamamba score`), so that
`auroc` is the probability that a positive one is found less likely than a negative one. Beside the
model stand the same model with random weights and, as `baseline`, what needs no model: of
substitutions, whether it is a transversion, a transition, or a transition at CpG, in the order in
which mutation makes them ever more often; of what changes the length, by how many bases.

Kinds of variants are never mixed: an allele of more bases is less likely whatever it does. `gain`
is the area above that of the baseline on the same alleles. Intervals resample kilobases of the
genome. A group with too few of either label has its counts alone.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.data.store import open_store
from dnamamba.data.variants import read_alleles
from dnamamba.data.vcf import open_vcf
from dnamamba.errors import InputError
from dnamamba.evaluation.ranking import Ranking
from dnamamba.inference.score import mean_of_strands
from dnamamba.log import logger
from dnamamba.models import pretrained
from dnamamba.models.heads import LanguageModel
from dnamamba.models.hub import model_name
from dnamamba.pipelines import options
from dnamamba.pipelines.benchmark.labelled_variants import (
    EXAMPLE,
    Condition,
    Labelled,
    baseline,
    kind_of,
    label,
)
from dnamamba.pipelines.numbers import Count
from dnamamba.pipelines.score_config import ScoreConfig, read_model_config
from dnamamba.pipelines.score_job import Job
from dnamamba.pipelines.table import print_table

FEWEST: Final = 5
"""Alleles of either label that a group must have to be ranked."""
LOCUS: Final = 1000
"""Bases of a locus."""
_BASELINE: Final = "baseline"


@dataclass(frozen=True)
class Row:
    """How one predictor ranks the alleles of one group; None where they are too few."""

    kind: str
    group: str
    predictor: str
    positive: int
    negative: int
    loci: int
    auroc: float | None = None
    low: float | None = None
    high: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None


COLUMNS: Final = tuple(field.name for field in dataclasses.fields(Row))


def benchmark_variants(
    labelled: Labelled, scores: dict[str, NDArray[np.float64]], seed: int
) -> Iterator[Row]:
    """Rank the alleles of each kind, all together and group by group.

    Parameters
    ----------
    labelled
        The alleles.
    scores
        Predictor to (variants,), the higher the surer it is that an allele is positive; the first
        is what gains are against.
    seed
        Draws the resamples.
    """
    kinds = np.array([kind_of(variant) for variant in labelled.variants])
    groups = np.array(labelled.groups)
    for kind, _ in Counter(kinds.tolist()).most_common():
        inside = kinds == kind
        yield from _rows(kind, "all", labelled, inside, scores, seed)
        named = Counter(groups[inside].tolist())
        for group, _ in named.most_common() if len(named) > 1 else ():
            yield from _rows(kind, group, labelled, inside & (groups == group), scores, seed)


def _rows(
    kind: str,
    group: str,
    labelled: Labelled,
    which: NDArray[np.bool_],
    scores: dict[str, NDArray[np.float64]],
    seed: int,
) -> Iterator[Row]:
    positive = labelled.positive[which]
    places = [labelled.variants[number] for number in np.flatnonzero(which)]
    numbers: dict[tuple[str, int], int] = {}
    loci = [numbers.setdefault((v.contig, v.start // LOCUS), len(numbers)) for v in places]
    counts = int(positive.sum()), int((~positive).sum())
    plain = next(iter(scores.values()))[which]
    for name, values in scores.items():
        row = partial(Row, kind, group, name, *counts, len(numbers))
        if min(counts) < FEWEST:
            yield row()
            continue
        ranking = Ranking(positive, np.array(loci), seed)
        area = ranking.auroc(values[which])
        yield row(*area) if name == _BASELINE else row(*area, *ranking.gain(values[which], plain))


@click.command("variants", short_help="How well scores tell labelled variants apart.")
@click.argument("genome", type=click.Path(path_type=Path))
@click.argument("variants", type=click.Path(path_type=Path, allow_dash=True))
@click.option("-m", "--model", required=True, metavar="DIR", help="Model folder.")
@click.option("--positive", required=True, metavar="CONDITION", help=f"On INFO, as {EXAMPLE}.")
@click.option("--negative", required=True, metavar="CONDITION", help="Likewise.")
@click.option("--by", metavar="KEY", help="INFO key that groups alleles, such as MC.")
@click.option("--context", type=Count(), metavar="N", help="As in dnamamba score.  [4096]")
@click.option("--horizon", metavar="all|N", help="Likewise.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="Likewise.  [fp32]")
@options.seed
@options.device
@options.threads
@options.verbosity
def command(
    genome: Path,
    variants: Path,
    model: str,
    positive: str,
    negative: str,
    by: str | None,
    seed: int,
    device: str,
    threads: int,
    **settings: Any,
) -> None:
    """Measure how well scores tell the labelled VARIANTS (VCF) of a GENOME apart.

    A row for each kind and group of variants and each predictor: the area under the ROC curve, of
    the model, of the same model with random weights, and of a baseline that needs none.
    """
    torch.set_num_threads(threads)
    conditions = Condition.read(positive), Condition.read(negative)
    given = {name: value for name, value in settings.items() if value is not None}
    config = ScoreConfig(model=model, seed=seed, **given)
    scoring = config.scoring(read_model_config(model))
    here = options.resolve_device(device)
    store = open_store(genome)
    with open_vcf(variants) as vcf:
        records = list(vcf.records())
        alleles = read_alleles(records, store, vcf.source, store.source.name)
    if alleles.mismatched:
        raise InputError(alleles.describe_mismatches(vcf.source, store.source.name))
    labelled = label(records, alleles.reasons, alleles.variants, *conditions, by)
    scores = {_BASELINE: np.array([baseline(each, store) for each in labelled.variants])}
    trained = pretrained.load(model, here)
    torch.manual_seed(seed)
    untrained = LanguageModel(trained.config).to(here).eval()
    name = model_name(model)
    for title, scorer in ((f"{name}, untrained", untrained), (name, trained)):
        job = Job(scorer, store, config, here)
        logger.info("scoring %s alleles with %s", f"{len(labelled):,}", title)
        found = mean_of_strands(job.score(labelled.variants, scoring))
        if scoring.horizon is not None:
            sample = job.draw(len(labelled))
            chosen = [labelled.variants[number] for number in sample]
            logger.info("%s", job.measure_error(chosen, found[sample], scoring))
        scores[title] = -found
    rows = map(dataclasses.astuple, benchmark_variants(labelled, scores, seed))
    print_table(COLUMNS, (["" if cell is None else cell for cell in row] for row in rows))
