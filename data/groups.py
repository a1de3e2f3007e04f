"""Folds of grouped rows: what belongs together, such as a chromosome's, is never parted."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dnamamba.errors import InputError


def assign_folds(groups: Sequence[str], folds: int, source: str) -> NDArray[np.int64]:
    """Put groups into folds of about as many rows each: the largest first, where there is least.

    Parameters
    ----------
    groups
        (rows,) the name of each row's.
    folds
        How many there are to be, 2 or more.
    source
        What errors call the table.

    Returns
    -------
    (rows,) the number of each row's fold, from 0 on; it depends on the names and sizes of groups
    alone.

    Raises
    ------
    InputError
        For fewer groups than folds.
    """
    sizes = Counter(groups)
    if len(sizes) < folds:
        raise InputError(
            f"{source}: {len(sizes)} groups ({', '.join(sorted(sizes)[:5])}) cannot fill {folds} "
            f"folds; give --folds {len(sizes)} or less, or another --group"
        )
    rows = [0] * folds
    fold_of: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        emptiest = rows.index(min(rows))
        fold_of[name] = emptiest
        rows[emptiest] += sizes[name]
    return np.array([fold_of[name] for name in groups], np.int64)
