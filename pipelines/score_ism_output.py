"""What `dnamamba score --ism` leaves: an array, a track for genome browsers and a logo."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import h5py
import numpy as np

from dnamamba.alphabet import DECODE
from dnamamba.data.region import Region
from dnamamba.errors import UsageError
from dnamamba.evaluation.plots_ism import plot_ism
from dnamamba.files import describe_os_error, fsync_folder, write_text
from dnamamba.inference.embeddings.hdf5 import create
from dnamamba.inference.ism import Saturation

SUFFIXES: Final = (".h5", ".bedgraph", ".png")
"""How the files are named; the first is what -o names."""
RATIO: Final = (
    "llr (bases, 4): natural logarithm of p(genome with A, C, G or T there) / p(genome as it is), "
    "mean of the strands that were read; NaN at the reference base and at N"
)
IMPORTANCE: Final = "minus the mean log-likelihood ratio of the three substitutions, in nats"


def default_output(region: Region) -> Path:
    """Return `runs/ism-CONTIG_START-END.h5`, 1-based, both ends inside."""
    contig = re.sub(r"[^\w.-]", "_", region.contig)
    return Path("runs", f"ism-{contig}_{region.start + 1}-{region.end}.h5")


def require_outputs(output: Path, *, force: bool) -> None:
    """Find out before any work that the files can be written later.

    Raises
    ------
    UsageError
        For another suffix, a folder, or a file that is there and is not to be replaced.
    """
    if output.suffix != SUFFIXES[0]:
        raise UsageError(f"{output}: --ism writes HDF5; name it .h5")
    for path in map(output.with_suffix, SUFFIXES):
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; choose another name with -o")
        if path.exists() and not force:
            raise UsageError(f"{path}: exists; --force replaces it, -o chooses another")


def write_saturation(
    output: Path, found: Saturation, about: Mapping[str, str | int]
) -> tuple[Path, ...]:
    """Write an array, a track and a plot, all or none.

    Parameters
    ----------
    output
        The array's name; the others stand beside it.
    found
        The scores.
    about
        How they were made.

    Returns
    -------
    What was written: without matplotlib no plot, and a message says so.

    Raises
    ------
    DnamambaError
        Where the disk is full or the folder cannot be written.
    """
    with _all_or_none(output) as name:
        _write_array(name, found, about)
        write_text(name.with_suffix(".bedgraph"), "".join(_track(found, about)))
        place = found.region.contig, found.region.start
        plot_ism(found.reference, found.importance, *place, name.with_suffix(".png"))
    return tuple(path for path in map(output.with_suffix, SUFFIXES) if path.exists())


@contextmanager
def _all_or_none(output: Path) -> Iterator[Path]:
    """Yield a name in a temporary folder; what is written there moves beside `output` in the end.

    Of what was there before nothing stays, so that no plot stands beside another job's array.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
            name = Path(folder) / output.name
            yield name
            for suffix in SUFFIXES:
                made, place = name.with_suffix(suffix), output.with_suffix(suffix)
                if made.exists():
                    made.replace(place)
                else:
                    place.unlink(missing_ok=True)
        fsync_folder(output.parent)
    except OSError as error:
        raise describe_os_error(error, output) from error


def _write_array(path: Path, found: Saturation, about: Mapping[str, str | int]) -> None:
    arrays = {
        "llr": found.ratios,
        "llr_forward": found.strands[..., 0],
        "llr_reverse": found.strands[..., 1],
    }
    with create(path) as (file, _):
        for name, values in arrays.items():
            file[name] = values.astype(np.float32)
        file["reference"] = DECODE[found.reference].view("S1")
        region = found.region
        place = {"contig": region.contig, "start": region.start, "end": region.end}
        file.attrs.update({**place, **about, "description": RATIO})


def describe_saturation(path: Path) -> dict[str, Any] | None:
    """Say what an array of ours holds and how it was made; None of what is no such file."""
    try:
        with h5py.File(path) as file:
            if "llr" not in file or "reference" not in file:
                return None
            attributes = {
                name: value.item() if isinstance(value, np.generic) else value
                for name, value in file.attrs.items()
            }
            ratios = file["llr"][:]
    except OSError:
        return None
    contig, start, end = (attributes.pop(name) for name in ("contig", "start", "end"))
    scored = ratios[~np.isnan(ratios)]
    return {
        "region": str(Region(contig, start, end)),
        "bases": len(ratios),
        "substitutions": scored.size,
        "llr_mean": round(float(scored.mean()), 4) if scored.size else None,
        "llr_lowest": round(float(scored.min()), 4) if scored.size else None,
        **attributes,
    }


def _track(found: Saturation, about: Mapping[str, str | int]) -> Iterator[str]:
    """Yield the lines of a bedGraph, 0-based and half-open; N have none."""
    yield f"# {'; '.join(f'{name} {value}' for name, value in about.items())}\n"
    yield f'track type=bedGraph name="ISM {found.region}" description="{IMPORTANCE}"\n'
    contig, first = found.region.contig, found.region.start
    for start, value in enumerate(found.importance.tolist(), first):
        if not np.isnan(value):
            yield f"{contig}\t{start}\t{start + 1}\t{value:.6g}\n"
