"""What an embedding job leaves: one file, made of the array that its units have filled."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dnamamba import __version__
from dnamamba.config import to_dict
from dnamamba.data.store import Store
from dnamamba.errors import DnamambaError
from dnamamba.files import describe_os_error, take_space
from dnamamba.inference.embeddings import write_bases, write_embeddings
from dnamamba.log import logger
from dnamamba.models import pretrained
from dnamamba.models.hub import model_folder, model_name
from dnamamba.pipelines.embed_config import EmbedConfig, Windows
from dnamamba.pipelines.embed_job import Job

COORDINATES: Final = "0-based, half-open, as in BED"
_SLICE: Final = 2**14
"""Rows that are joined at a time."""


def write_output(
    output: Path, config: EmbedConfig, job: Job, windows: Windows, store: Store, digest: str
) -> None:
    """Write the file, with a digest of what was asked, and remove what the job has left behind.

    Raises
    ------
    DnamambaError
        Where the disk is full; nothing is lost, and a resume writes the file.
    """
    obs = windows.obs(store, config)
    about = {**describe(config, job, store), "job": digest}
    dims = job.embedder.names
    try:
        if job.per_base:
            write_bases(output, _blocks(job, config), obs, about, dims, config.dtype)
        else:
            write_embeddings(output, _joined(job, config), obs, about, dims=dims)
    except DnamambaError as error:
        raise DnamambaError(
            f"{error}; what was computed is kept in {job.scratch.folder}, and --resume goes on"
        ) from error
    shutil.rmtree(job.scratch.folder)
    logger.info("the embeddings are %s", output)


def describe(config: EmbedConfig, job: Job, store: Store) -> dict[str, Any]:
    """Say how the embeddings were made."""
    how = job.embedder.how
    folder = model_folder(config.model)
    return {
        "dnamamba": __version__,
        "coordinates": COORDINATES,
        "genome": store.source.name,
        "genome_sha256": store.checksum,
        "regions": Path(config.bed or config.gtf or "").name or None,
        "feature": (config.feature or "gene") if config.gtf else None,
        "model": model_name(config.model),
        "model_sha256": pretrained.fingerprint(folder)[1],
        "model_config": to_dict(job.embedder.model.config),
        "layers": list(how.layers),
        "layers_averaged": how.mean,
        "pool": how.pool,
        "rc": how.rc,
        "window": config.window,
        "stride": config.stride,
        "context": config.context,
        "stream": config.stream,
        "precision": config.precision,
        "n": "not read",
    }


def _joined(job: Job, config: EmbedConfig) -> NDArray[Any]:
    """Return (windows, dims): what is averaged is averaged in an array of its own."""
    array = job.scratch.array
    if config.rc != "average":
        return array.reshape(len(array), -1)
    shape = len(array), array.shape[2]
    path = job.scratch.folder / "joined"
    dtype = np.dtype(config.dtype)
    try:
        take_space(path, shape[0] * shape[1] * dtype.itemsize)
    except OSError as error:
        raise describe_os_error(error, path) from error
    joined = np.memmap(path, dtype, "r+", shape=shape)
    for start in range(0, len(array), _SLICE):
        joined[start : start + _SLICE] = job.embedder.join(array[start : start + _SLICE])
    return joined


def _blocks(job: Job, config: EmbedConfig) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the bases of each window in turn, a part at a time."""
    array = job.scratch.array
    for row, (first, last) in enumerate(zip(job.offsets, job.offsets[1:], strict=False)):
        for start in range(int(first), int(last), _SLICE):
            part = array[start : min(start + _SLICE, int(last))]
            yield row, job.embedder.join(part).astype(config.dtype, copy=False)
