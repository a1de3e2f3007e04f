"""`dnamamba info`: what a genome, model, run, file of results or installation is."""

import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, get_args

import click
import torch

from dnamamba import __version__
from dnamamba.data.store import Store, find_store, open_store
from dnamamba.data.tokenise import MANIFEST
from dnamamba.errors import InputError, UsageError
from dnamamba.inference import embeddings
from dnamamba.kernels.dispatch import choose_scan_backend
from dnamamba.log import logger
from dnamamba.models.backbone import Objective, Symmetry
from dnamamba.models.presets import preset
from dnamamba.models.pretrained import CONFIG, is_model_folder, load
from dnamamba.pipelines import options, planner
from dnamamba.pipelines.info_run import RUN, describe_model, describe_run
from dnamamba.pipelines.numbers import Count
from dnamamba.pipelines.score_ism_output import describe_saturation
from dnamamba.pipelines.table import print_table
from dnamamba.training.footprint import Pass

PACKAGES = ("torch", "triton", "numba", "numpy", "safetensors")


def info(path: Path | None = None) -> dict[str, Any]:
    """Describe what lies at `path`; of a run, draw the plots too.

    Parameters
    ----------
    path
        A FASTA (whose store is built where it is missing), a store, a model folder, a run folder, a
        file of embeddings or of saturation mutagenesis; None describes the installation.

    Returns
    -------
    Nested dictionaries of plain values; the first item is the `kind`.

    Raises
    ------
    InputError
        If it is none of these.
    CheckpointError
        If it is a model that cannot be loaded.
    """
    if path is None:
        return _installation()
    if not path.is_dir():
        return _file(path) if path.suffix.lower() in embeddings.SUFFIXES else _genome(path)
    if (path / MANIFEST).is_file():
        return _store(Store(path))
    if (path / RUN).is_file():
        return describe_run(path)
    if is_model_folder(path) or (path / CONFIG).is_file():
        return {"kind": "model", "path": str(path), **describe_model(load(path))}
    raise InputError(
        f"{path}: neither a run ({RUN}), a model ({CONFIG}) nor a genome's store ({MANIFEST})"
    )


def _installation() -> dict[str, Any]:
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    return {
        "kind": "installation",
        "dnamamba": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in PACKAGES},
        "cpu_threads": options.available_threads(),
        "gpus": {name: _gpu(name) for name in devices[1:]} or "none",
        "selective_scan": {name: _backend(name) for name in devices},
    }


def _version(package: str) -> str:
    try:
        return package_version(package)
    except PackageNotFoundError:
        return "not installed"


def _gpu(device: str) -> str:
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def _backend(device: str) -> str:
    choice = choose_scan_backend("auto", torch.device(device))
    return f"{choice.backend}: {choice.reason}"


def _genome(path: Path) -> dict[str, Any]:
    found = find_store(path)
    described = _store(found or open_store(path))
    return described if found else {**described, "state": "built just now"}


def _file(path: Path) -> dict[str, Any]:
    saturation = describe_saturation(path)
    described = embeddings.describe(path) if saturation is None else saturation
    kind = "embeddings" if saturation is None else "saturation mutagenesis"
    return {"kind": kind, "path": str(path), "size_bytes": path.stat().st_size, **described}


def _store(store: Store) -> dict[str, Any]:
    bases = sum(store.lengths.values())
    longest = max(store.lengths, key=lambda contig: store.lengths[contig])
    return {
        "kind": "genome",
        "path": str(store.source),
        "store": str(store.folder),
        "state": _freshness(store),
        "contigs": len(store.lengths),
        "longest_contig": longest,
        "longest_contig_bases": store.lengths[longest],
        "bases": bases,
        "n": store.n_total,
        "n_fraction": round(store.n_total / bases, 6),
        "soft_masked_fraction": round(store.soft_masked / bases, 6),
        "sha256": store.checksum,
    }


def _freshness(store: Store) -> str:
    if not store.source.is_file():
        return "stale: the FASTA is gone"
    stat = store.source.stat()
    if (stat.st_size, stat.st_mtime_ns) != (store.size, store.mtime_ns):
        return "stale: the FASTA has changed"
    return "fresh"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Turn nested dictionaries into rows, `inputs.0.path` and its text."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.")
        elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
            yield from _flat({str(index): item for index, item in enumerate(value)}, f"{key}.")
        elif isinstance(value, (list, tuple)):
            yield key, ", ".join(map(str, value))
        elif isinstance(value, bool):
            yield key, "yes" if value else "no"
        else:
            yield key, "-" if value is None else str(value)


@click.command("info")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--plan", "planned", is_flag=True, help="Say what of a training step fits a GPU.")
@click.option("--preset", "name", default="1.4m", metavar="SIZE", help="Of --plan.  [1.4m]")
@click.option("--length", type=Count(), default=2**20, metavar="N", help="Of --plan.  [1Mi]")
@click.option("--micro-batch", type=Count(), default=1, metavar="N", help="Of --plan.  [1]")
@click.option("--precision", type=click.Choice(["bf16", "fp32"]), default="bf16", help="Of --plan.")
@click.option("--bidirectional", is_flag=True, help="Of --plan.")
@click.option(
    "--symmetry", type=click.Choice(get_args(Symmetry)), default="none", help="Of --plan."
)
@click.option(
    "--device-memory", type=float, metavar="GIB", help="Of --plan.  [default: this GPU's]"
)
@options.verbosity
def command(
    path: Path | None,
    as_json: bool,
    planned: bool,
    name: str,
    length: int,
    micro_batch: int,
    precision: str,
    bidirectional: bool,
    symmetry: Symmetry,
    device_memory: float | None,
) -> None:
    """Describe a genome, a model, a run, embeddings or this installation, or plan a run.

    PATH is a FASTA file, its store, a file of embeddings (.h5ad, .parquet, .npz, .h5) or of score
    --ism (.h5), a model folder or a run folder, whose loss.png and throughput.png are drawn as far
    as it has come.
    Without it: versions, devices, and which backend will run here and why. With --plan: the memory
    and time of a forward and backward pass.
    """
    if planned and path:
        raise UsageError(f"--plan describes no {path}: give one or the other")
    if planned:
        both = bidirectional or symmetry != "none"
        objective: Objective = "masked" if both else "next"
        config = preset(name, bidirectional=bidirectional, symmetry=symmetry, objective=objective)
        asked = Pass(micro_batch, length, element=2 if precision == "bf16" else 4)
        memory = planner.memory_here(device_memory)
        print_table(planner.COLUMNS, planner.plan(config, asked, memory))
        logger.info("%s", planner.verdict(config, asked, memory))
        return
    described = info(path)
    if as_json:
        click.echo(json.dumps(described, indent=2))
    else:
        print_table(("key", "value"), _flat(described))
