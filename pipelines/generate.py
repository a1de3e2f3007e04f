"""`dnamamba generate`: new DNA from a model, as FASTA, and how like real DNA it is."""

import signal
from pathlib import Path
from typing import Any

import click
import torch

from dnamamba.config import from_dict, to_dict
from dnamamba.data.known import Known
from dnamamba.data.records import Record, read_records
from dnamamba.data.store import Store
from dnamamba.errors import DnamambaError, InputError, UsageError
from dnamamba.inference.generate import require_generative
from dnamamba.log import logger, write_run_record
from dnamamba.models import pretrained
from dnamamba.pipelines import options
from dnamamba.pipelines.generate_config import GenerateConfig
from dnamamba.pipelines.generate_job import Job
from dnamamba.pipelines.generate_report import Report
from dnamamba.pipelines.numbers import Count
from dnamamba.pipelines.resume import describe_inputs
from dnamamba.training.signals import Interruption, stop_on_signal


def generate(
    config: GenerateConfig,
    *,
    report: Path | None = None,
    against: Path | None = None,
    device: str = "auto",
) -> int:
    """Make sequences, and write them to stdout, a batch as soon as it is whole.

    Parameters
    ----------
    config
        Settings.
    report
        A folder for how like real DNA they are; none by default.
    against
        The real DNA, FASTA.
    device
        As `--device`.

    Returns
    -------
    0; or, where a signal stopped it, 130 for Ctrl-C and 1 for another. What is written is whole.

    Raises
    ------
    UsageError
        For settings that do not fit each other, the model or the real DNA.
    InputError
        For prompts or a genome that cannot be read.
    CheckpointError
        For what is no model folder.
    DnamambaError
        Where memory or disk do not suffice.
    """
    if not config.model:
        raise UsageError("-m MODEL: a model folder is wanted; dnamamba pretrain GENOME makes one")
    _require_folder(report, against)
    where = options.resolve_device(device)
    model = pretrained.load(config.model, where)
    require_generative(model, config.model)
    prompts = _read_prompts(config.prompt)
    comparison = None
    if report and against:
        count = config.sequences * max(1, len(prompts))
        comparison = Report(report, against, count, config.length, config.seed)
    job = Job(config, model, prompts, comparison.spectrum if comparison else None)
    with stop_on_signal() as stop:
        try:
            job.run(stop)
            if report and comparison:
                with stop.breaks_off():
                    comparison.write(model, job.score)
                    _write_record(report, config, comparison.store, where)
        except Interruption:
            logger.info("stopped: %s whole sequences were written", f"{job.written:,}")
            return 130 if stop.signal == signal.SIGINT else 1
        except torch.OutOfMemoryError as error:
            raise DnamambaError(
                f"{where} is out of memory: give a smaller --batch, or --device cpu"
            ) from error
    return 0


def _require_folder(report: Path | None, against: Path | None) -> None:
    if report and not against:
        raise UsageError("--report: compares with real DNA; give --against GENOME")
    if against and not report:
        raise UsageError("--against: is for a report; give --report FOLDER")
    if report and report.exists() and (not report.is_dir() or any(report.iterdir())):
        raise UsageError(f"{report}: exists; remove it, or choose another --report")


def _read_prompts(place: str | None) -> list[Record]:
    """Read all prompts, so that what is wrong is known before anything is made."""
    prompts = list(read_records(Path(place))) if place else []
    for prompt in prompts:
        if not len(Known(prompt.codes)):
            raise InputError(
                f"{place}: {prompt.name} has no base other than N to continue; remove the record"
            )
    return prompts


def _write_record(folder: Path, config: GenerateConfig, store: Store, device: torch.device) -> None:
    prompts = [Path(config.prompt)] if config.prompt not in (None, "-") else []
    record = {
        "seed": config.seed,
        "device": options.device_name(device),
        "torch": torch.__version__,
        "config": to_dict(config),
        "inputs": describe_inputs([store], prompts),
    }
    write_run_record(folder, "generate", record)


@click.command("generate")
@click.option("-m", "--model", metavar="DIR", help="Model folder.")
@click.option(
    "--prompt", metavar="FASTA", help="Continue each of its records; - is stdin.  [from nothing]"
)
@click.option(
    "--with-prompt", is_flag=True, default=None, help="Write the prompt before what continues it."
)
@click.option("-n", "--sequences", type=Count(), metavar="N", help="How many, of each prompt.  [1]")
@click.option("--length", type=Count(), metavar="N", help="Bases of each.  [1000]")
@click.option(
    "--temperature",
    type=float,
    metavar="T",
    help="Below 1 likely bases are likelier still; 0 takes the likeliest.  [1]",
)
@click.option("--top-k", type=int, metavar="K", help="Draw from the K likeliest bases.  [4]")
@click.option(
    "--top-p", type=float, metavar="P", help="Draw from the fewest that have a share of P.  [1]"
)
@click.option("--batch", type=Count(), metavar="N", help="How many are made side by side.  [auto]")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A folder for bits per base and k-mers beside real DNA.",
)
@click.option(
    "--against", type=click.Path(path_type=Path), metavar="GENOME", help="The real DNA, FASTA."
)
@options.seed
@options.device
@options.threads
@options.verbosity
@click.pass_context
def command(
    context: click.Context,
    /,
    report: Path | None,
    against: Path | None,
    device: str,
    threads: int,
    **settings: Any,
) -> int:
    """Make new DNA with a model of the next base; FASTA goes to stdout.

    Each base is drawn from what the model says after all bases before it, which it carries as a
    state: memory is the same for a kilobase and a megabase. Sequence i is the same whatever -n is.
    """
    torch.set_num_threads(threads)
    config = from_dict(GenerateConfig, options.given(context, settings), "generate")
    return generate(config, report=report, against=against, device=device)
