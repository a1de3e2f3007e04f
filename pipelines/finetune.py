"""`dnamamba finetune`: fit a model to a table of labelled sequences.

The work is `finetune` in `dnamamba.pipelines.finetune_fit`; `dnamamba predict` uses what it leaves.
"""

from pathlib import Path
from typing import Any

import click
import torch

from dnamamba.config import from_dict, read_toml
from dnamamba.data.outcomes import KINDS
from dnamamba.data.tasks import FOLDER, find_files, is_task_name
from dnamamba.errors import UsageError
from dnamamba.kernels.dispatch import BACKENDS
from dnamamba.log import logger
from dnamamba.pipelines import options
from dnamamba.pipelines.finetune_config import RATES, FinetuneConfig
from dnamamba.pipelines.finetune_fit import finetune
from dnamamba.pipelines.finetune_folds import cross_validate
from dnamamba.pipelines.finetune_report import show
from dnamamba.pipelines.fitting import RESULTS
from dnamamba.pipelines.numbers import Count


@click.command("finetune")
@click.argument("train", type=click.Path(path_type=Path))
@click.option("-m", "--model", metavar="DIR", help="Model to start from, a folder or a hub's.")
@click.option(
    "--data",
    "folder",
    type=click.Path(path_type=Path),
    help=f"Where data sets named by TRAIN lie.  [{FOLDER}]",
)
@click.option("--valid", type=click.Path(path_type=Path), help="What the best is chosen on.")
@click.option("--test", type=click.Path(path_type=Path), help="What is measured at the end.")
@click.option("--method", type=click.Choice(list(RATES)), help="What is trained.  [lora]")
@click.option("--rank", type=Count(), metavar="N", help="Of an adapter.  [16]")
@click.option("--alpha", type=Count(), metavar="N", help="Of an adapter.  [32]")
@click.option(
    "--state-space", is_flag=True, default=None, help="Adapters train A, D and delta, too."
)
@click.option("--sequence", metavar="COLUMN", help="Of sequences.  [sequence]")
@click.option(
    "--label", "labels", metavar="COLUMN", multiple=True, help="To predict; repeatable.  [label]"
)
@click.option("--genome", metavar="FASTA", help="TRAIN, --valid and --test are regions in it.")
@click.option("--window", type=Count(), metavar="N", help="Bases around each region's middle.")
@click.option(
    "--track",
    "tracks",
    metavar="FILE",
    multiple=True,
    help="What each base is: BED, bedGraph or bigWig; repeatable, in place of --label.",
)
@click.option("--task", type=click.Choice(KINDS), help="What labels are.  [by what they hold]")
@click.option(
    "--head",
    "pool",
    type=click.Choice(["last", "mean", "both"]),
    help="Hidden states that the head sees.  [mean]",
)
@click.option("--class-weights", type=click.Choice(["none", "balanced"]), help="[none]")
@click.option("--valid-share", type=float, metavar="SHARE", help="Of TRAIN, to choose on.  [0.2]")
@click.option(
    "--cross-validate",
    "cross_validate_",
    is_flag=True,
    help="Test every fold of TRAIN in turn, by its own model.",
)
@click.option("--folds", type=Count(), metavar="N", help="That TRAIN is cut into.  [5]")
@click.option("--fold", type=Count(), metavar="N", help="Test this one alone; the next is valid.")
@click.option(
    "--group",
    metavar="COLUMN",
    help="Of what is never parted.  [with folds, chromosomes; else equal sequences]",
)
@click.option("--steps", type=Count(), metavar="N", help="Optimiser steps.  [ten minutes' worth]")
@click.option("--epochs", type=Count(), metavar="N", help="Passes over TRAIN.  [up to 10]")
@click.option("--batch", type=Count(), metavar="N", help="Sequences a step.  [32]")
@click.option("--micro-batch", type=Count(), metavar="N", help="Of the longest, a pass.  [fits]")
@click.option("--lr", type=float, metavar="RATE", help="Peak.  [0.001; of full 0.0003]")
@click.option("--patience", type=Count(), metavar="N", help="Validations without gain.  [5]")
@click.option("--validate-every", type=Count(), metavar="N", help="Steps.  [a twentieth]")
@click.option("--checkpoint-every", type=Count(), metavar="N", help="Steps.  [a twentieth]")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="[auto]")
@click.option(
    "--weights", type=click.Choice(["fp32", "int8", "fp8"]), help="That stand still.  [fp32]"
)
@click.option("--optimizer-bits", type=Count(), metavar="32|8", help="Of its moments.  [32]")
@click.option("--recompute", type=click.Choice(["auto", "none", "scan", "block"]), help="[auto]")
@click.option("--backend", type=click.Choice(BACKENDS), help="How scans run.  [auto]")
@click.option("--allow-overlap", is_flag=True, help="Fit though test sequences are in TRAIN.")
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
    train: Path,
    folder: Path | None,
    valid: Path | None,
    test: Path | None,
    config: Path | None,
    output: Path | None,
    cross_validate_: bool,
    allow_overlap: bool,
    resume: bool,
    force: bool,
    device: str,
    threads: int,
    **settings: Any,
) -> int:
    """Fit a model to the labelled sequences in TRAIN, and measure it.

    TRAIN is CSV, TSV or Parquet with a sequence and its labels in each row: one of several classes,
    any of several labels (a column of 0 and 1 for each --label), or numbers.

    With --genome the rows are regions instead: BED (--label name is its fourth column), or a table
    with chrom, start and end, 0-based and half-open as in BED; on strand - the reverse complement
    is read. --track predicts each base: inside a BED's regions or not, or a bigWig's numbers.

    --cross-validate tests every row of TRAIN by a model that was not fitted on it, and pools what
    the folds' models, RUN/fold-1 and so on, predict.

    TRAIN may also be the name of a data set that dnamamba fetch brings: its train side, and its
    test side as --test. What is left in RUN predicts others: dnamamba predict RUN FILE.
    """
    torch.set_num_threads(threads)
    asked = {**(read_toml(config) if config else {}), **options.given(context, settings)}
    if "model" not in asked:
        raise UsageError(
            "-m MODEL: a pretrained model is wanted, a folder or owner/name on the hub"
        )
    cutting = "--cross-validate" if cross_validate_ else "--fold" if "fold" in asked else None
    if settings["folds"] and not (cutting or resume):
        raise UsageError("--folds: goes with --cross-validate, or with --fold")
    output = output or Path("runs") / f"finetune-{train.name.partition('.')[0]}"
    if is_task_name(str(train)) and not train.exists():
        files = find_files(str(train), folder or FOLDER)
        train = files.train
        if cutting:
            logger.info("%s cuts folds out of %s; %s is left alone", cutting, train, files.test)
        else:
            test = test or files.test
        asked.setdefault("sequence", files.sequence)
    elif folder is not None:
        raise UsageError(
            f"--data: goes with the name of a data set, and {train} is none; see fetch"
        )
    if "lr" in asked:
        asked["optimizer"] = {**asked.get("optimizer", {}), "lr": asked.pop("lr")}
    start = {"lr": RATES.get(asked.get("method", "lora"), 0.0), "weight_decay": 0.01}
    values = {**asked, "optimizer": {**start, **asked.get("optimizer", {})}}
    run = cross_validate if cross_validate_ else finetune
    code = run(
        train,
        output,
        from_dict(FinetuneConfig, values, str(config or "finetune")),
        valid=valid,
        test=test,
        asked=asked,
        allow_overlap=allow_overlap,
        resume=resume,
        force=force,
        device=device,
    )
    if (output / RESULTS).exists():
        show(output)
    return code
