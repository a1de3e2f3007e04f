"""The chunked path against the sequential reference, and that against the scan of Mamba-1."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from dnamamba.errors import UsageError
from dnamamba.kernels import selective_scan, ssd_scan
from dnamamba.kernels.ssd import chunked

TENSORS = ("x", "delta", "A", "B", "C", "D", "delta_bias", "initial_state")
OPTIONAL = ("D", "delta_bias", "initial_state")


def draw(
    length: int, *, heads: int = 4, width: int = 3, groups: int = 2, state: int = 5, seed: int = 0
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    return {
        "x": normal(2, length, heads, width),
        "delta": 0.5 * uniform(2, length, heads),
        "A": -0.5 * uniform(heads),
        "B": normal(2, length, groups, state),
        "C": normal(2, length, groups, state),
        "D": normal(heads),
        "delta_bias": 0.5 * uniform(heads),
        "initial_state": normal(2, heads, width, state),
    }


def scan(inputs: dict[str, Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    return ssd_scan(**inputs, return_last_state=True, **options)


def results(inputs: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    """Outputs, and the gradient of each input under random weights of both outputs."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    y, last = scan(leaves, **options)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in (y, last)]
    ((y * weights[0]).sum() + (last * weights[1]).sum()).backward()
    found = {"y": y.detach(), "last state": last.detach()}
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        found[f"gradient of {name}"] = leaf.grad
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        error = (found[name] - value).norm() / value.norm().clamp_min(1e-300)
        assert error < 1e-12, f"{name}: {error:.1e}"


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("length", [1, 2, 31, 63, 64, 65, 129, 200])
def test_equals_the_reference(length: int, reverse: bool) -> None:
    inputs = draw(length)
    options = {"reverse": reverse, "delta_softplus": True}
    assert_same(results(inputs, **options), results(inputs, backend="reference", **options))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_packed_sequences_equal_separate_ones(reverse: bool) -> None:
    ends = [0, 1, 60, 64, 130, 200]
    inputs = draw(200)
    seq_idx = torch.searchsorted(torch.tensor(ends), torch.arange(200), right=True).expand(2, -1)
    y, last = scan(inputs, reverse=reverse, seq_idx=seq_idx)
    first = len(ends) - 2 if reverse else 0
    final = 0 if reverse else len(ends) - 2
    for number, (start, end) in enumerate(itertools.pairwise(ends)):
        part = {
            name: tensor[:, start:end] if name in ("x", "delta", "B", "C") else tensor
            for name, tensor in inputs.items()
        }
        if number != first:
            del part["initial_state"]
        alone, state = scan(part, reverse=reverse)
        torch.testing.assert_close(y[:, start:end], alone, rtol=1e-12, atol=1e-12)
        if number == final:
            torch.testing.assert_close(last, state, rtol=1e-12, atol=1e-12)
    options = {"seq_idx": seq_idx, "reverse": reverse}
    assert_same(results(inputs, **options), results(inputs, backend="reference", **options))


def test_segments_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = draw(500)
    whole = results(inputs)
    monkeypatch.setattr(chunked, "SEGMENT", 2 * 2 * 4 * chunked.CHUNK**2)
    assert_same(results(inputs), whole)


@pytest.mark.parametrize("cut", [1, 64, 70, 199])
def test_a_sequence_in_two_parts_equals_the_whole(cut: int) -> None:
    inputs = draw(200)
    y, last = scan(inputs)
    parts = [dict(inputs), dict(inputs)]
    for name in ("x", "delta", "B", "C"):
        parts[0][name], parts[1][name] = inputs[name][:, :cut], inputs[name][:, cut:]
    before, state = scan(parts[0])
    after, end = scan({**parts[1], "initial_state": state})
    torch.testing.assert_close(torch.cat([before, after], 1), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(end, last, rtol=1e-12, atol=1e-12)


def test_is_the_selective_scan_with_one_decay_for_a_head() -> None:
    inputs = draw(100, heads=4, width=3, groups=2, state=5)
    y, last = scan(inputs, backend="reference", delta_softplus=True)

    def each(tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(3, -1)

    theirs, state = selective_scan(
        inputs["x"].flatten(2),
        each(inputs["delta"]),
        each(inputs["A"])[:, None].expand(-1, 5),
        inputs["B"],
        inputs["C"],
        D=each(inputs["D"]),
        delta_bias=each(inputs["delta_bias"]),
        delta_softplus=True,
        initial_state=inputs["initial_state"].flatten(1, 2),
        return_last_state=True,
        backend="reference",
    )
    torch.testing.assert_close(y.flatten(2), theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last.flatten(1, 2), state, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("left_out", OPTIONAL)
def test_optional_inputs(left_out: str) -> None:
    inputs = {name: tensor for name, tensor in draw(70).items() if name != left_out}
    assert_same(results(inputs), results(inputs, backend="reference"))


def test_computes_in_fp32_and_answers_in_the_type_of_x() -> None:
    inputs = draw(300)
    exact, _ = scan(inputs)
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in inputs.items()}
    narrow = {name: tensor.double() for name, tensor in rounded.items()}
    y, state = scan(rounded)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(y.double(), scan(narrow)[0], rtol=2**-8, atol=1e-4)
    single = {name: tensor.float() for name, tensor in inputs.items()}
    torch.testing.assert_close(scan(single)[0].double(), exact, rtol=1e-5, atol=1e-5)


def test_a_growing_state_does_not_overflow_where_it_is_not_read() -> None:
    inputs = draw(128)
    inputs["delta"] = torch.full_like(inputs["delta"], 40.0)
    y, last = scan({name: tensor.float() for name, tensor in inputs.items()})
    assert torch.isfinite(y).all()
    assert torch.isfinite(last).all()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x", lambda t: t[0], r"x has shape .*\(batch, length, heads, width\)"),
        ("delta", lambda t: t[..., :3], r"delta has shape \(2, 8, 3\); .* wants \(2, 8, 4\)"),
        (
            "B",
            lambda t: t.repeat(1, 1, 2, 1)[:, :, :3],
            "3 groups, which do not divide x's 4 heads",
        ),
        ("C", lambda t: t[..., :4], r"C has shape"),
        ("A", lambda t: t.long(), "A has type torch.int64"),
        ("initial_state", lambda t: t[:1], "initial_state has shape"),
    ],
)
def test_what_does_not_fit_is_named(name: str, change: Any, message: str) -> None:
    inputs = draw(8)
    with pytest.raises(UsageError, match=message):
        scan({**inputs, name: change(inputs[name])})


def test_an_unknown_backend() -> None:
    with pytest.raises(UsageError, match="backend 'cuda' is not one of auto, reference, chunked"):
        scan(draw(8), backend="cuda")
