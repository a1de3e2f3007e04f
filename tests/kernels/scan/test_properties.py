"""What holds for every input: cuts, packing, direction and chunk size change nothing."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.kernels import sequence_index
from tests.kernels.scan.cases import (
    BACKENDS,
    CHUNKS,
    assert_close,
    draw,
    gradients,
    leaves_of,
    lengthwise,
    precision,
    results,
    scan,
    to,
)

forms = st.sampled_from(["varying", "constant", 3])
backends = st.sampled_from(BACKENDS)
seeds = st.integers(0, 10**6)


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(2, 200),
    cut=st.floats(0, 1),
    reverse=st.booleans(),
    backend=backends,
    seed=seeds,
)
def test_split_anywhere_equals_the_whole(
    length: int, cut: float, reverse: bool, backend: str, seed: int
) -> None:
    at = min(max(1, round(cut * length)), length - 1)
    dtype, bound = precision(backend)
    inputs = to(draw(length, seed=seed), dtype)
    parts = (slice(at, None), slice(at)) if reverse else (slice(at), slice(at, None))
    leaves = leaves_of(inputs)
    y1, state = scan(lengthwise(leaves, parts[0]), backend=backend, reverse=reverse)
    second = {**lengthwise(leaves, parts[1]), "initial_state": state}
    y2, last = scan(second, backend=backend, reverse=reverse)
    got = gradients(torch.cat([y2, y1] if reverse else [y1, y2], dim=1), last, leaves)
    assert_close(got, results(inputs, backend=backend, reverse=reverse), 10 * bound)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=6),
    reverse=st.booleans(),
    form=forms,
    backend=backends,
    seed=seeds,
)
def test_packed_equals_separate(
    lengths: list[int], reverse: bool, form: str | int, backend: str, seed: int
) -> None:
    dtype, bound = precision(backend)
    inputs = to(draw(sum(lengths), batch=1, channels=6, B=form, seed=seed), dtype)
    ends = torch.tensor([0, *lengths]).cumsum(0)
    options = {"backend": backend, "reverse": reverse}
    packed = results(inputs, seq_idx=sequence_index(ends), **options)

    leaves = leaves_of(inputs)
    initial = leaves["initial_state"]
    spans = [slice(a, b) for a, b in pairwise(ends.tolist())]
    separate = []
    for place, span in enumerate(spans):
        part = lengthwise(leaves, span)
        first = place == (len(spans) - 1 if reverse else 0)
        part["initial_state"] = initial if first else torch.zeros_like(initial)
        separate.append(scan(part, **options))
    last = separate[0 if reverse else -1][1]
    wanted = gradients(torch.cat([y for y, _ in separate], dim=1), last, leaves)
    assert_close(packed, wanted, 10 * bound)


@settings(max_examples=15, deadline=None)
@given(length=st.integers(1, 150), form=forms, backend=backends, seed=seeds)
def test_reverse_equals_flipped_copies(
    length: int, form: str | int, backend: str, seed: int
) -> None:
    inputs = to(draw(length, channels=6, C=form, seed=seed), torch.float32)
    backwards = torch.arange(length - 1, -1, -1)
    seq_idx = (torch.arange(length) // 40).expand(2, -1)
    y, last = scan(inputs, backend=backend, reverse=True, seq_idx=seq_idx)
    flipped = scan(lengthwise(inputs, backwards), backend=backend, seq_idx=seq_idx[:, backwards])
    assert torch.equal(y, flipped[0].flip(1))
    assert torch.equal(last, flipped[1])


@pytest.mark.parametrize("steps", [1, 7, 16, 128])
@pytest.mark.parametrize("backend", BACKENDS)
def test_chunk_size_changes_nothing(
    backend: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, bound = precision(backend)
    inputs = to(draw(150), dtype)
    wanted = results(inputs, backend=backend)
    monkeypatch.setattr(*CHUNKS[backend], steps)
    assert_close(results(inputs, backend=backend), wanted, bound)
