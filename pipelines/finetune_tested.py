"""What a fold predicts of its test side, on disk, so that folds can be pooled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from dnamamba.errors import CheckpointError
from dnamamba.files import atomic_path, describe_os_error

TESTED: Final = "tested.npz"


@dataclass(frozen=True, eq=False)
class Tested:
    """Predictions of a test side.

    Attributes
    ----------
    numbers
        (rows,) int64 lines in the table, or of Parquet rows.
    new
        (rows,) bool, which of them stand on no other side.
    found
        What each predictor is called to (rows, names) float64; of each base (bases, names).
    """

    numbers: NDArray[np.int64]
    new: NDArray[np.bool_]
    found: Mapping[str, NDArray[np.float64]]


def save_tested(
    folder: Path,
    numbers: Sequence[int],
    new: NDArray[np.bool_],
    found: Mapping[str, NDArray[np.float64]],
) -> None:
    """Write what `load_tested` reads into a run folder, atomically.

    Raises
    ------
    DnamambaError
        Where the disk is full or the folder cannot be written.
    """
    arrays: dict[str, Any] = dict(found)
    with atomic_path(folder / TESTED) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, numbers=np.array(numbers, np.int64), new=new, **arrays)


def load_tested(folder: Path) -> Tested:
    """Read a fold's predictions.

    Raises
    ------
    CheckpointError
        If they are missing or damaged.
    """
    path = folder / TESTED
    try:
        with path.open("rb") as handle, np.load(handle) as file:
            arrays = {name: file[name] for name in file.files}
        return Tested(arrays.pop("numbers"), arrays.pop("new"), arrays)
    except OSError as error:
        raise CheckpointError(str(describe_os_error(error, path))) from error
    except (BadZipFile, KeyError, ValueError, EOFError) as error:
        raise CheckpointError(
            f"{path}: damaged ({error}); remove {folder}, and --resume fits it again"
        ) from error
