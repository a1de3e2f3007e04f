"""The flags that verbs share, one decorator each, and what they stand for.

A verb takes those it needs: `@options.output`, `@options.force`, `@options.verbosity` ...
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from dnamamba.errors import UsageError
from dnamamba.log import configure

if TYPE_CHECKING:
    import torch

Function = TypeVar("Function", bound=Callable[..., Any])

output = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Where results go.  [default: runs/VERB-INPUT]",
)
force = click.option("--force", is_flag=True, help="Replace results that are there already.")
resume = click.option("--resume", is_flag=True, help="Go on with the run in -o, if there is one.")
seed = click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of all that is random.",
)
device = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|mps|cuda[:N]",
    help="Where the model runs.",
)


def _threads_or_all(_context: click.Context, _option: click.Parameter, value: int | None) -> int:
    return value or available_threads()


threads = click.option(
    "-t",
    "--threads",
    type=click.IntRange(min=1),
    callback=_threads_or_all,
    help="CPU threads.  [default: all that this process may use]",
)


def verbosity(function: Function) -> Function:
    """Add `-q` and `-v`; the call sets up messages on stderr, and the verb gets no argument."""
    quiet = click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=_set_verbosity, help="Say less."
    )
    verbose = click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_set_verbosity,
        help="Say more; show tracebacks.",
    )
    return quiet(verbose(function))


def _set_verbosity(context: click.Context, option: click.Parameter, value: bool) -> None:
    level = {"quiet": -1, "verbose": 1}[str(option.name)]
    key = "dnamamba.verbosity"
    if value and context.meta.get(key, level) != level:
        raise click.UsageError("-q and -v exclude each other", context)
    if value:
        context.meta[key] = level
    configure(context.meta.get(key, 0))


def given(context: click.Context, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a command's flags that stand on the command line."""
    return {
        name: value
        for name, value in flags.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }


def available_threads() -> int:
    """Count the CPU cores that this process may use; several of torchrun's share them."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def resolve_device(text: str) -> "torch.device":
    """Turn `--device` into a torch device that is there.

    Parameters
    ----------
    text
        `auto` (CUDA, else MPS, else the CPU), `cpu`, `mps`, `cuda` or `cuda:N`.

    Raises
    ------
    UsageError
        For another text, or a device that this machine lacks.
    """
    import torch

    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", text):
        raise UsageError(f"--device {text}: choose auto, cpu, mps, cuda or cuda:N")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if text == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    wanted = torch.device(text)
    if wanted.type == "cuda" and not cuda:
        fault = "sees no GPU" if torch.version.cuda else "is built without CUDA"
        raise UsageError(
            f"--device {text}: no CUDA device (torch {torch.__version__} {fault}); "
            f"take --device cpu"
        )
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise UsageError(f"--device {text}: the last CUDA device is cuda:{last}")
    if wanted.type == "mps" and not mps:
        raise UsageError("--device mps: no Apple GPU; take --device cpu")
    return wanted


def device_name(device: "torch.device") -> str:
    """Name a device for a record: `cpu`, or `cuda:0 (NVIDIA H200)`."""
    import torch

    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"


def prepare_output(path: Path, *, force: bool = False, resume: bool = False) -> None:
    """Make sure that a run may write into the folder `path`, before any work is done.

    A folder that is missing or empty is left as it is; `force` empties one that holds a run.

    Raises
    ------
    UsageError
        Where `path` is a file, or holds something and neither flag is given, or holds something
        that is no run (no run.json of ours), which no flag clears or writes into.
    """
    if force and resume:
        raise UsageError("--force starts anew and --resume goes on: give one of them")
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: is a file; choose a folder with -o")
    if not path.exists() or all(_is_leftover(entry) for entry in path.iterdir()):
        return
    if not (force or resume):
        raise UsageError(
            f"{path}: exists; --resume goes on with it, --force replaces it, -o chooses another"
        )
    if not _is_run(path):
        raise UsageError(f"{path}: holds files but no run (no run.json); choose another -o")
    if force:
        for entry in path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _is_leftover(entry: Path) -> bool:
    """Tell a temporary file of an interrupted write."""
    return entry.name.startswith(".") and entry.name.endswith(".tmp")


def _is_run(path: Path) -> bool:
    try:
        record = json.loads((path / "run.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and {"verb", "argv", "version"} <= record.keys()
