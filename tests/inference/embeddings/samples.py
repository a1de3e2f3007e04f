"""A small table of regions and what is stored of it, for tests of every format."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

ABOUT: dict[str, Any] = {
    "model": {"preset": "1.4m", "layers": [4, 8], "bidirectional": False, "d_model": 128},
    "pool": "mean",
    "context": 2.5,
    "columns": ["gène", "score"],
    "nothing": [],
    "coordinates": "0-based, half-open",
}
"""What every format gives back as it was."""


def table(rows: int) -> dict[str, NDArray[Any]]:
    """Regions of three contigs, on three strands, with a column of every type."""
    index = np.arange(rows)
    return {
        "chrom": np.array([f"chr{(1, 10, 2)[i % 3]}" for i in index], dtype=object),
        "start": 100 * index,
        "end": 100 * index + 50,
        "strand": np.array(["+-."[i % 3] for i in index], dtype=object),
        "name": np.array([f"gène {i}" for i in index], dtype=object),
        "type": np.array(["enhancer"] * rows, dtype=object),
        "gc": index / 7,
        "kept": index % 2 == 0,
    }


def values(rows: int, dims: int = 5, dtype: str = "float32") -> NDArray[Any]:
    return np.random.default_rng(0).standard_normal((rows, dims)).astype(dtype)
