"""`dnamamba classify`: fit a classifier of labelled genomes, or call unknown ones with it.

The halves are `fit` in `dnamamba.pipelines.classify_fit`, which leaves a run folder with a report,
and `predict` in `dnamamba.pipelines.classify_predict`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import torch

import dnamamba.data
from dnamamba.config import from_dict, read_toml
from dnamamba.errors import UsageError
from dnamamba.kernels.dispatch import BACKENDS
from dnamamba.models.presets import PRESETS
from dnamamba.pipelines import options
from dnamamba.pipelines.classify_config import ClassifyConfig, peak_rate
from dnamamba.pipelines.classify_fit import fit
from dnamamba.pipelines.classify_folds import cross_validate
from dnamamba.pipelines.classify_predict import Per, predict
from dnamamba.pipelines.classify_report import show
from dnamamba.pipelines.fitting import RESULTS
from dnamamba.pipelines.numbers import Count
from dnamamba.pipelines.table import print_table

BUNDLED: Final = Path(dnamamba.data.__path__[0]) / "samples" / "great_apes_mt.tsv"
"""The sheet of the mitochondria that come with the program."""


@click.command("classify")
@click.argument("fasta", required=False, type=click.Path(path_type=Path))
@click.option(
    "--species",
    "sheet",
    is_flag=False,
    flag_value=str(BUNDLED),
    metavar="[SHEET]",
    help="Fit: a TSV or CSV with columns species and fasta, and split or region if you like.  "
    "[alone: the bundled mitochondria]",
)
@click.option("-m", "--model", metavar="DIR", help="Model to start from; or a RUN to call with.")
@click.option("--length", type=Count(), metavar="N", help="Bases of a window.  [by machine]")
@click.option(
    "--length-warmup", type=Count(), metavar="N", help="Bases of the first windows, which double."
)
@click.option("--preset", metavar="SIZE", help=f"From scratch: {', '.join(PRESETS)}.")
@click.option(
    "--head",
    "pool",
    type=click.Choice(["last", "mean", "both"]),
    help="Hidden states that the head sees: the last, their mean, or both.  [mean]",
)
@click.option("--freeze", is_flag=True, default=None, help="Fit a probe on frozen embeddings.")
@click.option(
    "--recipe",
    type=click.Choice(["default", "paper"]),
    help="paper: as the Mamba paper fits its great apes.",
)
@click.option("--steps", type=Count(), metavar="N", help="Optimiser steps.  [ten minutes' worth]")
@click.option("--epochs", type=Count(), metavar="N", help="Passes over the training bases.")
@click.option("--batch", type=Count(), metavar="N", help="Windows a step.")
@click.option("--micro-batch", type=Count(), metavar="N", help="Windows a pass.  [what fits]")
@click.option(
    "--substitute", type=float, metavar="SHARE", help="Of training bases, drawn anew.  [0.01]"
)
@click.option(
    "--lr", type=float, metavar="RATE", help="Peak learning rate.  [0.001; with -m 0.0003]"
)
@click.option("--folds", type=click.IntRange(3), help="Folds that loci are cut into.  [5]")
@click.option("--fold", type=click.IntRange(1), help="The fold that is tested.  [1]")
@click.option(
    "--cross-validate",
    "cross_validate_",
    is_flag=True,
    help="Test every fold in turn, by its own model.",
)
@click.option("--split", metavar="BED", help="Sides of shared coordinates: train, valid, test.")
@click.option("--synteny", metavar="TSV", help="What is homologous: species, contig ... locus.")
@click.option("--allow-overlap", is_flag=True, help="Fit though test sequence is in train.")
@click.option(
    "--target", type=float, metavar="SHARE", help="Of sure calls that should be right.  [0.95]"
)
@click.option("--test-windows", type=Count(), metavar="N", help="Of a species, at most.")
@click.option("--validate-every", type=Count(), metavar="N", help="Steps.  [a tenth]")
@click.option("--checkpoint-every", type=Count(), metavar="N", help="Steps.  [a twentieth]")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="[auto]")
@click.option("--recompute", type=click.Choice(["auto", "none", "scan", "block"]), help="[auto]")
@click.option("--backend", type=click.Choice(BACKENDS), help="How scans run.  [auto]")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Processes reading ahead.")
@click.option(
    "--per",
    type=click.Choice(["record", "window"]),
    default="record",
    show_default=True,
    help="Call: what a row is of.",
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
    fasta: Path | None,
    sheet: str | None,
    config: Path | None,
    output: Path | None,
    cross_validate_: bool,
    allow_overlap: bool,
    resume: bool,
    force: bool,
    device: str,
    threads: int,
    workers: int,
    per: Per,
    **settings: Any,
) -> int:
    """Tell species apart: fit a classifier, or call a FASTA with one.

    dnamamba classify --species SHEET [-m MODEL] -o RUN fits, and leaves a report in RUN.

    dnamamba classify -m RUN FASTA > calls.tsv calls each record of FASTA (- is stdin): its species,
    or unsure, with the probability of each. A classifier knows the species of its sheet and no
    other; what belongs to none of them is at best unsure.
    """
    torch.set_num_threads(threads)
    given = options.given(context, settings)
    if fasta is not None:
        if sheet is not None:
            raise UsageError("--species fits and a FASTA is called: give one of them")
        if "model" not in given:
            raise UsageError("-m RUN: the folder of a fitted classifier is wanted to call with")
        return _call(given, fasta, per, device)
    if sheet is None:
        raise UsageError(
            "give --species SHEET to fit (--species alone takes the bundled mitochondria), or "
            "-m RUN and a FASTA to call"
        )
    asked = {**(read_toml(config) if config else {}), **given}
    if "lr" in asked:
        asked["optimizer"] = {**asked.get("optimizer", {}), "lr": asked.pop("lr")}
    rate = peak_rate(asked.get("recipe", "default"), bool(asked.get("model")))
    values = {**asked, "optimizer": {"lr": rate, **asked.get("optimizer", {})}}
    output = output or Path("runs") / f"classify-{Path(sheet).stem}"
    run = cross_validate if cross_validate_ else fit
    code = run(
        Path(sheet),
        output,
        from_dict(ClassifyConfig, values, str(config or "classify")),
        asked=asked,
        allow_overlap=allow_overlap,
        resume=resume,
        force=force,
        device=device,
        workers=workers,
    )
    if (output / RESULTS).exists():
        show(output)
    return code


def _call(given: Mapping[str, Any], fasta: Path, per: Per, device: str) -> int:
    known = {"model", "length", "precision", "seed"}
    if others := given.keys() - known:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(others))
        raise UsageError(f"{flags}: for a fit, with --species")
    columns, rows = predict(
        Path(given["model"]),
        fasta,
        length=given.get("length"),
        per=per,
        device=options.resolve_device(device),
        precision=given.get("precision", "auto"),
    )
    print_table(columns, rows)
    return 0
