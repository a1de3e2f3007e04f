"""B and C of every form, and several sequences in a row."""

import pytest
import torch
from torch import Tensor

from tests.kernels.scan.cases import (
    BACKENDS,
    assert_close,
    assert_equals_reference,
    draw,
    gradients,
    leaves_of,
    precision,
    results,
    scan,
    to,
)

FORMS: list[tuple[str | int, str | int]] = [
    ("constant", "constant"),
    ("constant", "varying"),
    ("varying", "constant"),
    (1, "varying"),
    (2, 2),
    (3, "varying"),
    (2, 3),
    ("constant", 3),
    (6, 6),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_forms_equal_the_reference(backend: str, form: tuple[str | int, str | int]) -> None:
    B, C = form
    inputs = draw(100, channels=6, B=B, C=C)
    seq_idx = torch.tensor([0, 1]).repeat_interleave(50).expand(2, -1)
    assert_equals_reference(backend, inputs)
    assert_equals_reference(backend, inputs, seq_idx=seq_idx, reverse=True)


@pytest.mark.parametrize("form", [(2, 2), (2, "constant"), ("constant", "varying")], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_wider_than_a_block(backend: str, form: tuple[str | int, str | int]) -> None:
    inputs = draw(40, channels=140, state=3, B=form[0], C=form[1])
    assert_equals_reference(backend, inputs)
    assert_equals_reference(backend, inputs, reverse=True)


def whole(weight: Tensor, batch: int, length: int, channels: int) -> Tensor:
    """Write a B or C out for each channel, (batch, length, channels, state), as the docs say."""
    if weight.dim() == 2:
        return weight.expand(batch, length, *weight.shape)
    grouped = weight if weight.dim() == 4 else weight[:, :, None]
    group = torch.arange(channels) // (channels // grouped.shape[2])
    return grouped[:, :, group]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_reference_follows_the_formula(form: tuple[str | int, str | int]) -> None:
    """Every channel by itself, with a B and C of its own, gives the same."""
    batch, length, channels = 2, 21, 6
    leaves = leaves_of(draw(length, channels=channels, B=form[0], C=form[1], optional=()))
    got = gradients(*scan(leaves, backend="reference"), leaves)
    twins = leaves_of(leaves)
    B, C = (whole(twins[name], batch, length, channels) for name in "BC")
    parts = [
        scan(
            {
                "u": twins["u"][..., d : d + 1],
                "delta": twins["delta"][..., d : d + 1],
                "A": twins["A"][d : d + 1],
                "B": B[:, :, d],
                "C": C[:, :, d],
            },
            backend="reference",
        )
        for d in range(channels)
    ]
    y, last = (torch.cat([part[i] for part in parts], dim=axis) for i, axis in ((0, 2), (1, 1)))
    assert_close(got, gradients(y, last, twins), 1e-12)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=["int32", "int64"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_rows_equal_the_reference(backend: str, reverse: bool, dtype: torch.dtype) -> None:
    lengths = [[1, 31, 1, 1, 64, 66, 3], [167]]
    seq_idx = torch.stack(
        [
            torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)).to(dtype)
            for row in lengths
        ]
    )
    assert_equals_reference(backend, draw(167), seq_idx=seq_idx, reverse=reverse)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_only_changes_of_the_index_count(backend: str) -> None:
    """An index may return, and need not rise; one for each step makes every state fresh."""
    inputs = to(draw(12), torch.float32)
    first = torch.tensor([0, 0, 1, 1, 0, 0, 5, 5, 2, 2, 3, 3]).expand(2, -1)
    second = torch.arange(6).repeat_interleave(2).expand(2, -1)
    assert torch.equal(
        scan(inputs, backend=backend, seq_idx=first)[0],
        scan(inputs, backend=backend, seq_idx=second)[0],
    )
    same = torch.full((2, 12), -3)
    packed, plain = (results(inputs, backend=backend, seq_idx=s) for s in (same, None))
    assert all(torch.equal(packed[name], plain[name]) for name in plain)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_a_sequence_for_each_step(backend: str) -> None:
    """Every state is fresh, so y is delta u times the product of B and C."""
    inputs = draw(12, optional=())
    dtype = precision(backend)[0] if backend in BACKENDS else torch.float64
    seq_idx = torch.arange(12).expand(2, -1)
    y, _ = scan(to(inputs, dtype), backend=backend, seq_idx=seq_idx)
    fed = torch.nn.functional.softplus(inputs["delta"]) * inputs["u"]
    wanted = fed * (inputs["B"] * inputs["C"]).sum(-1, keepdim=True)
    torch.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=1e-5)
