"""`dnamamba info`: what a genome, a model, a run or this installation is."""

import json
import platform
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import click
import torch

from dnamamba import __version__
from dnamamba.config import to_dict
from dnamamba.data.store import Store, find_store, open_store
from dnamamba.data.tokenise import MANIFEST
from dnamamba.errors import InputError
from dnamamba.kernels.dispatch import choose_scan_backend
from dnamamba.log import read_metrics
from dnamamba.models.heads import LanguageModel
from dnamamba.models.presets import preset_name
from dnamamba.models.pretrained import CONFIG, is_model_folder, load
from dnamamba.pipelines import options
from dnamamba.pipelines.table import print_table
from dnamamba.training.checkpoint import list_states

RUN, METRICS = "run.json", "metrics.tsv"
PACKAGES = ("torch", "triton", "numba", "numpy", "safetensors")


def info(path: Path | None = None) -> dict[str, Any]:
    """Describe what lies at `path`.

    Parameters
    ----------
    path
        A FASTA (whose store is built where it is missing), a store, a model folder or a run
        folder; None describes the installation.

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
        return _genome(path)
    if (path / MANIFEST).is_file():
        return _store(Store(path))
    if (path / RUN).is_file():
        return _run(path)
    if is_model_folder(path) or (path / CONFIG).is_file():
        return {"kind": "model", "path": str(path), **_model(load(path))}
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


def _model(model: LanguageModel) -> dict[str, Any]:
    by_module: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        *_, module, last = name.split(".")
        by_module[module if last in ("weight", "bias") else last] += parameter.numel()
    return {
        "preset": preset_name(model.config),
        "parameters": model.parameters_count,
        "parameters_by_module": dict(by_module),
        "config": to_dict(model.config),
    }


def _run(folder: Path) -> dict[str, Any]:
    path = folder / RUN
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        argv = shlex.join(record["argv"])
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); start the run again with --force") from error
    states = list_states(folder)
    return {
        "kind": "run",
        "path": str(folder),
        "run": {**record, "argv": argv},
        "last_checkpoint": int(states[0].stem.removeprefix("step-")) if states else None,
        **_progress(folder / METRICS),
        "model": _model(load(folder)) if is_model_folder(folder) else "not written yet",
    }


def _progress(metrics: Path) -> dict[str, Any]:
    """Read the steps done and the last held-out figures from a metrics.tsv."""
    if not metrics.is_file():
        return {"steps_done": 0}
    columns = read_metrics(metrics)
    last = {name: next(filter(None, reversed(cells)), None) for name, cells in columns.items()}
    figures = {
        name: float(cell) for name, cell in last.items() if name.startswith("valid_") and cell
    }
    return {"steps_done": int(last.get("step") or 0), "held_out": figures or "not yet"}


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
@options.verbosity
def command(path: Path | None, as_json: bool) -> None:
    """Describe a genome, a model, a run or this installation.

    PATH is a FASTA file, its store, a model folder or a run folder. Without it: versions, devices,
    and which backend will run here and why.
    """
    described = info(path)
    if as_json:
        click.echo(json.dumps(described, indent=2))
    else:
        print_table(("key", "value"), _flat(described))
