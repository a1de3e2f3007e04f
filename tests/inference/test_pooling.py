import itertools
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dnamamba.inference.pooling import PIECE, Pool, Pooler


def pooled_whole(
    hidden: NDArray[np.float32], spans: NDArray[np.int64], pool: Pool
) -> NDArray[np.float64]:
    rows = []
    for start, end in spans:
        part = hidden[start:end].astype(np.float64)
        of = {
            "mean": part.mean(0),
            "max": part.max(0),
            "last": part[-1],
            "center": hidden[(start + end) // 2],
        }
        rows.append(of[pool])
    return np.array(rows)


def pooled_in_parts(
    hidden: NDArray[np.float32],
    spans: NDArray[np.int64],
    pool: Pool,
    cuts: list[int],
    *,
    restart: bool = False,
) -> NDArray[np.float32]:
    pooler = Pooler(spans, pool)
    values = np.full((len(spans), hidden.shape[1]), np.nan, np.float32)
    bounds = [0, *sorted(cuts), len(hidden)]
    for start, end in itertools.pairwise(bounds):
        rows, found = pooler.add(torch.from_numpy(hidden[start:end]))
        values[rows] = found
        if restart:
            state = pooler.state()
            pooler = Pooler(spans, pool)
            pooler.restore(state)
    return values


@pytest.mark.parametrize("pool", ["mean", "max", "last", "center"])
@pytest.mark.parametrize("restart", [False, True])
@given(data=st.data())
def test_parts_pool_as_the_whole_does(pool: str, restart: bool, data: st.DataObject) -> None:
    length = data.draw(st.integers(2, 3 * PIECE))
    drawn = data.draw(
        st.lists(st.tuples(st.integers(0, length - 1), st.integers(1, length)), min_size=1)
    )
    spans = np.array([(start, min(start + size, length)) for start, size in drawn])
    cuts = data.draw(st.lists(st.integers(1, length - 1), max_size=4, unique=True))
    hidden = np.random.default_rng(length).normal(size=(length, 3)).astype(np.float32) + 10
    kind = cast(Pool, pool)
    np.testing.assert_allclose(
        pooled_in_parts(hidden, spans, kind, cuts, restart=restart),
        pooled_whole(hidden, spans, kind),
        rtol=2e-6,  # of sums of PIECE fp32 values
    )


def test_what_no_span_needs_any_more_is_let_go() -> None:
    spans = np.array([(i * 10, i * 10 + 10) for i in range(100)])
    pooler = Pooler(spans, "mean")
    for _ in range(10):
        pooler.add(torch.ones(100, 2))
        assert not pooler.state()["kept"].size
