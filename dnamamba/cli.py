"""The command line: a table of verbs, each imported only when it is called."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from dnamamba import __version__
from dnamamba.pipelines.group import LazyGroup

VERBS = {
    "pretrain": "Pretrain a Mamba model on genomes.",
    "classify": "Tell species apart: fit a classifier, or call sequences with one.",
    "finetune": "Fit a model to a table of labelled sequences.",
    "predict": "Predict new sequences with a fine-tuned model.",
    "embed": "Embed windows, regions or whole contigs, with their coordinates.",
    "score": "Score variants: how much likelier a model finds the alternate allele.",
    "generate": "Make new DNA with a model, as FASTA.",
    "convert": "Turn published models into ours, or ours into transformers'.",
    "fetch": "Fetch reference genomes, verified and ready to index.",
    "index": "Tokenise genomes once into memory-mapped stores.",
    "split": "Cut genomes into training and held-out regions, and audit the cut.",
    "info": "Describe a model, a run, a store, embeddings or this installation.",
    "benchmark": "Measure speed and memory, as TSV.",
}


program = LazyGroup(
    "dnamamba",
    package="dnamamba.pipelines",
    table=VERBS,
    help="Long DNA sequences with Mamba.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
program = click.version_option(__version__, "-V", "--version", prog_name="dnamamba")(program)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and leave with its exit code: 0, 1 failed, 2 usage, 130 interrupted."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the program on `arguments` (the command line's by default); return the exit code."""
    from dnamamba.errors import DnamambaError

    try:
        result: Any = program.main(arguments, prog_name="dnamamba", standalone_mode=False)
    except click.exceptions.Abort:
        return _fail("interrupted", 130)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except DnamambaError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        from dnamamba.files import describe_os_error

        return _fail(str(describe_os_error(error)), 1)
    return result if isinstance(result, int) else 0


def _fail(message: str, code: int) -> int:
    details = logging.getLogger("dnamamba").isEnabledFor(logging.DEBUG)
    if details and sys.exc_info()[0] is not None:
        logging.getLogger("dnamamba").debug("traceback:", exc_info=True)
    click.echo(f"dnamamba: error: {message}", err=True)
    return code
