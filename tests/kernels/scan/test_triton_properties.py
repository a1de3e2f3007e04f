"""What holds for every input holds for Triton's kernels: cuts, packing, direction, batch, chunks.

On a GPU at any length; in Triton's interpreter at a few, cut into chunks as small as will do.
"""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dnamamba.kernels import sequence_index
from dnamamba.kernels.scan import triton_scan
from tests.kernels.scan.cases import (
    assert_close,
    draw,
    gradients,
    leaves_of,
    lengthwise,
    results,
    rowwise,
    scan,
)

GPU = torch.cuda.is_available()
LONGEST = 400 if GPU else 9
EXAMPLES = 25 if GPU else 3
BOUND = 1e-5
"""In the norm of a result, between two orders of the same sums in fp32."""
OPTIONS = {"backend": "triton"}

lengths = st.integers(2, LONGEST)
seeds = st.integers(0, 10**6)
# Channels as the plain kernels take them, and as those with explicit layouts do.
widths = st.sampled_from([5, 32]) if GPU else st.just(2)
forms = st.sampled_from(["varying", "constant"])


@pytest.fixture(scope="module", autouse=True)
def small_cut() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if not GPU:
            patch.setattr(triton_scan, "CHUNK", 2)
            patch.setattr(triton_scan, "SPAN", 4)
        yield


def inputs_of(length: int, channels: int, seed: int, form: str = "varying") -> dict[str, Tensor]:
    drawn = draw(length, channels=channels, state=8 if GPU else 2, seed=seed, B=form)
    return {name: t.to("cuda" if GPU else "cpu", torch.float32) for name, t in drawn.items()}


@settings(max_examples=EXAMPLES, deadline=None)
@given(length=lengths, cut=st.floats(0, 1), reverse=st.booleans(), channels=widths, seed=seeds)
def test_split_anywhere_equals_the_whole(
    length: int, cut: float, reverse: bool, channels: int, seed: int
) -> None:
    at = min(max(1, round(cut * length)), length - 1)
    inputs = inputs_of(length, channels, seed)
    parts = (slice(at, None), slice(at)) if reverse else (slice(at), slice(at, None))
    leaves = leaves_of(inputs)
    y1, state = scan(lengthwise(leaves, parts[0]), reverse=reverse, **OPTIONS)
    second = {**lengthwise(leaves, parts[1]), "initial_state": state}
    y2, last = scan(second, reverse=reverse, **OPTIONS)
    got = gradients(torch.cat([y2, y1] if reverse else [y1, y2], dim=1), last, leaves)
    assert_close(got, results(inputs, reverse=reverse, **OPTIONS), BOUND)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    sizes=st.lists(st.integers(1, LONGEST // 3), min_size=1, max_size=3),
    reverse=st.booleans(),
    form=forms,
    channels=widths,
    seed=seeds,
)
def test_packed_equals_separate(
    sizes: list[int], reverse: bool, form: str, channels: int, seed: int
) -> None:
    inputs = rowwise(inputs_of(sum(sizes), channels, seed, form), slice(1))
    ends = torch.tensor([0, *sizes], device=inputs["u"].device).cumsum(0)
    packed = results(inputs, seq_idx=sequence_index(ends), reverse=reverse, **OPTIONS)

    leaves = leaves_of(inputs)
    spans = [slice(a, b) for a, b in pairwise(ends.tolist())]
    first = len(spans) - 1 if reverse else 0
    separate = []
    for place, span in enumerate(spans):
        part = lengthwise(leaves, span)
        if place != first:
            part["initial_state"] = torch.zeros_like(part["initial_state"])
        separate.append(scan(part, reverse=reverse, **OPTIONS))
    last = separate[0 if reverse else -1][1]
    wanted = gradients(torch.cat([y for y, _ in separate], dim=1), last, leaves)
    assert_close(packed, wanted, BOUND)


@settings(max_examples=EXAMPLES, deadline=None)
@given(length=lengths, form=forms, channels=widths, seed=seeds)
def test_reverse_equals_flipped_copies(length: int, form: str, channels: int, seed: int) -> None:
    """To the bit: the same kernel steps the other way."""
    inputs = inputs_of(length, channels, seed, form)
    backwards = torch.arange(length - 1, -1, -1)
    seq_idx = (torch.arange(length, device=inputs["u"].device) // 5).expand(2, -1)
    y, last = scan(inputs, reverse=True, seq_idx=seq_idx, **OPTIONS)
    flipped = scan(lengthwise(inputs, backwards), seq_idx=seq_idx[:, backwards], **OPTIONS)
    assert torch.equal(y, flipped[0].flip(1))
    assert torch.equal(last, flipped[1])


@settings(max_examples=EXAMPLES, deadline=None)
@given(length=lengths, channels=widths, seed=seeds)
def test_a_batch_of_one_equals_a_row(length: int, channels: int, seed: int) -> None:
    inputs = inputs_of(length, channels, seed)
    y, last = scan(inputs, **OPTIONS)
    alone, last_alone = scan(rowwise(inputs, slice(1, 2)), **OPTIONS)
    assert_close({"y": alone, "last": last_alone}, {"y": y[1:], "last": last[1:]}, BOUND)


@pytest.mark.parametrize(("chunk", "span"), [(4, 8), (16, 16), (8, 64), (64, 128)])
def test_chunks_and_spans_change_nothing(
    chunk: int, span: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = inputs_of(150 if GPU else 9, 32 if GPU else 2, 0)
    wanted = results(inputs, **OPTIONS)
    monkeypatch.setattr(triton_scan, "CHUNK", chunk)
    monkeypatch.setattr(triton_scan, "SPAN", span)
    assert_close(results(inputs, **OPTIONS), wanted, BOUND)
