"""Every backend against the sequential reference in fp64, values and gradients by name."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dnamamba.errors import UsageError
from dnamamba.kernels import selective_scan, selective_state_update
from dnamamba.kernels.scan import chunked, cpu

BACKENDS = ("chunked", "numba")
LENGTHS = (1, 2, 8, 16, 31, 32, 33, 63, 64, 65, 127, 129, 151, 257, 372, 784, 1134)
TENSORS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


def draw(
    length: int,
    *,
    batch: int = 2,
    channels: int = 5,
    state: int = 8,
    seed: int = 0,
    optional: tuple[str, ...] = ("D", "z", "delta_bias", "initial_state"),
) -> dict[str, Tensor]:
    """Inputs as the peers' tests draw them, in fp64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return 0.5 * torch.rand(*shape, generator=generator, dtype=torch.float64)

    drawn = {
        "u": normal(batch, length, channels),
        "delta": uniform(batch, length, channels),
        "A": -uniform(channels, state),
        "B": normal(batch, length, state),
        "C": normal(batch, length, state),
        "D": normal(channels),
        "z": normal(batch, length, channels),
        "delta_bias": uniform(channels),
        "initial_state": normal(batch, channels, state),
    }
    return {name: drawn[name] for name in TENSORS if name in optional or name in "udeltaABC"}


def scan(inputs: dict[str, Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    keywords = {"delta_softplus": True, **options}
    return selective_scan(**inputs, return_last_state=True, **keywords)  # type: ignore[arg-type]


def results(inputs: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    """Output, last state, and the gradient of a fixed weighting of both, by name."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in inputs.items()}
    y, last = scan(leaves, **options)
    generator = torch.Generator().manual_seed(99)
    weights = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in (y, last)]
    loss = (y * weights[0].to(y.device)).sum() + (last * weights[1].to(y.device)).sum()
    loss.backward()
    gradients = {f"d{name}": tensor.grad for name, tensor in leaves.items()}
    assert all(gradient is not None for gradient in gradients.values())
    return {"y": y.detach(), "last": last.detach(), **gradients}  # type: ignore[dict-item]


def assert_close(got: dict[str, Tensor], wanted: dict[str, Tensor], bound: float) -> None:
    errors = {
        name: float((got[name].double() - value).norm() / value.norm().clamp_min(1e-30))
        for name, value in wanted.items()
    }
    assert max(errors.values()) <= bound, errors


def precision(backend: str) -> tuple[torch.dtype, float]:
    return (torch.float64, 1e-12) if backend == "chunked" else (torch.float32, 1e-5)


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every walk take several segments of a few chunks."""
    monkeypatch.setitem(chunked.WIDTH, "cpu", 3 * 2 * 5 * 8)
    monkeypatch.setattr(cpu, "SEGMENT", 3 * 2 * 5 * 32)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("length", LENGTHS, ids=lambda length: f"L{length}")
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_reference(backend: str, length: int, reverse: bool) -> None:
    inputs = draw(length)
    dtype, bound = precision(backend)
    wanted = results(inputs, backend="reference", reverse=reverse)
    narrow = {name: tensor.to(dtype) for name, tensor in inputs.items()}
    assert_close(results(narrow, backend=backend, reverse=reverse), wanted, bound)


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_many_segments_equal_the_reference(backend: str, reverse: bool) -> None:
    inputs = draw(500)
    dtype, bound = precision(backend)
    wanted = results(inputs, backend="reference", reverse=reverse)
    narrow = {name: tensor.to(dtype) for name, tensor in inputs.items()}
    assert_close(results(narrow, backend=backend, reverse=reverse), wanted, bound)


@pytest.mark.parametrize("softplus", [False, True], ids=["plain", "softplus"])
@pytest.mark.parametrize("left_out", ["D", "z", "delta_bias", "initial_state", "all"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_optional_inputs(backend: str, left_out: str, softplus: bool) -> None:
    optional = {"D", "z", "delta_bias", "initial_state"}
    kept = set() if left_out == "all" else optional - {left_out}
    inputs = draw(70, optional=tuple(kept))
    dtype, bound = precision(backend)
    wanted = results(inputs, backend="reference", delta_softplus=softplus)
    narrow = {name: tensor.to(dtype) for name, tensor in inputs.items()}
    assert_close(results(narrow, backend=backend, delta_softplus=softplus), wanted, bound)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 16), (1, 70, 2), (2, 130, 3)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_odd_shapes(backend: str, shape: tuple[int, int, int]) -> None:
    batch, channels, state = shape
    inputs = draw(67, batch=batch, channels=channels, state=state)
    dtype, bound = precision(backend)
    narrow = {name: tensor.to(dtype) for name, tensor in inputs.items()}
    assert_close(results(narrow, backend=backend), results(inputs, backend="reference"), bound)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_inputs(backend: str, dtype: torch.dtype) -> None:
    inputs = draw(151, optional=("D", "z", "delta_bias"))
    wide = ("A", "D", "delta_bias")
    narrow = {n: t.to(torch.float32 if n in wide else dtype) for n, t in inputs.items()}
    exact = {name: tensor.double() for name, tensor in narrow.items()}
    got, wanted = results(narrow, backend=backend), results(exact, backend="reference")
    assert got["y"].dtype == got["du"].dtype == got["dB"].dtype == dtype
    assert got["dA"].dtype == torch.float32
    assert_close(got, wanted, 3e-3 if dtype == torch.float16 else 3e-2)


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(2, 200),
    cut=st.floats(0, 1),
    reverse=st.booleans(),
    backend=st.sampled_from(BACKENDS),
    seed=st.integers(0, 10**6),
)
def test_split_anywhere_equals_the_whole(
    length: int, cut: float, reverse: bool, backend: str, seed: int
) -> None:
    at = min(max(1, round(cut * length)), length - 1)
    dtype, bound = precision(backend)
    inputs = {name: tensor.to(dtype) for name, tensor in draw(length, seed=seed).items()}

    def halves(**tensors: Tensor) -> tuple[Tensor, Tensor]:
        long = ("u", "delta", "B", "C", "z")
        first, second = (
            {n: t[:, part] if n in long else t for n, t in tensors.items()}
            for part in ((slice(at, None), slice(at)) if reverse else (slice(at), slice(at, None)))
        )
        y1, state = scan(first, backend=backend, reverse=reverse)
        y2, last = scan({**second, "initial_state": state}, backend=backend, reverse=reverse)
        return torch.cat([y2, y1] if reverse else [y1, y2], dim=1), last

    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    y, last = halves(**leaves)
    whole = results(inputs, backend=backend, reverse=reverse)
    generator = torch.Generator().manual_seed(99)
    loss = (y * torch.randn(y.shape, generator=generator, dtype=torch.float64)).sum()
    (
        loss + (last * torch.randn(last.shape, generator=generator, dtype=torch.float64)).sum()
    ).backward()
    got = {"y": y.detach(), "last": last.detach()}
    got |= {f"d{name}": tensor.grad for name, tensor in leaves.items() if tensor.grad is not None}
    assert_close(got, {name: value.double() for name, value in whole.items()}, 10 * bound)


@settings(max_examples=15, deadline=None)
@given(length=st.integers(1, 150), backend=st.sampled_from(BACKENDS), seed=st.integers(0, 10**6))
def test_reverse_equals_flipped_copies(length: int, backend: str, seed: int) -> None:
    inputs = {name: tensor.float() for name, tensor in draw(length, seed=seed).items()}
    flipped = {n: t.flip(1) if n in ("u", "delta", "B", "C", "z") else t for n, t in inputs.items()}
    y, last = scan(inputs, backend=backend, reverse=True)
    y_flipped, last_flipped = scan(flipped, backend=backend)
    torch.testing.assert_close(y, y_flipped.flip(1), rtol=0, atol=0)
    torch.testing.assert_close(last, last_flipped, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_of_a_batch_equals_a_batch_of_one(backend: str) -> None:
    inputs = {name: tensor.float() for name, tensor in draw(200, batch=3).items()}
    row = {n: t[1:2] if n not in ("A", "D", "delta_bias") else t for n, t in inputs.items()}
    torch.testing.assert_close(
        scan(inputs, backend=backend)[0][1:2], scan(row, backend=backend)[0], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_runs_give_the_same_bits(backend: str) -> None:
    inputs = {name: tensor.float() for name, tensor in draw(333, channels=70).items()}
    first = results(inputs, backend=backend)
    second = results(inputs, backend=backend)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("delta", [0.0, 1e-6, 1e3], ids=lambda value: f"delta{value:g}")
@pytest.mark.parametrize("A", [-1e-6, -1e4], ids=lambda value: f"A{value:g}")
def test_extreme_inputs(backend: str, delta: float, A: float) -> None:
    inputs = draw(130)
    inputs["delta"] = torch.full_like(inputs["delta"], delta)
    inputs["A"] = torch.full_like(inputs["A"], A)
    del inputs["delta_bias"]
    wanted = results(inputs, backend="reference", delta_softplus=False)
    narrow = {name: tensor.float() for name, tensor in inputs.items()}
    got = results(narrow, backend=backend, delta_softplus=False)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in got.values())
    # The decay of a state may round to 0 where fp64 still holds e-200; such gradients are nothing.
    scale = {name: value for name, value in wanted.items() if value.abs().max() > 1e-6}
    assert_close({n: got[n] for n in scale}, scale, 1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_where_it_can_reach(backend: str) -> None:
    inputs = {name: tensor.float() for name, tensor in draw(90).items()}
    inputs["u"][0, 50, 2] = math.nan
    y, _ = scan(inputs, backend=backend)
    assert y[0, 50:, 2].isnan().all()
    assert not y[0, :50].isnan().any()
    assert not y[1].isnan().any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_element_is_written(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Freshly allocated buffers hold NaN; none may be left."""
    empty, empty_like, new_empty = torch.empty, torch.empty_like, Tensor.new_empty

    def poison(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: Any, **kwargs: Any) -> Tensor:
            tensor = make(*args, **kwargs)
            return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

        return made

    monkeypatch.setattr(torch, "empty", poison(empty))
    monkeypatch.setattr(torch, "empty_like", poison(empty_like))
    monkeypatch.setattr(Tensor, "new_empty", poison(new_empty))
    inputs = {name: tensor.float() for name, tensor in draw(101).items()}
    assert all(bool(value.isfinite().all()) for value in results(inputs, backend=backend).values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_never_holds_length_by_state(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    length, channels, state = 5_000, 8, 16
    monkeypatch.setitem(chunked.WIDTH, "cpu", 2**10)
    monkeypatch.setattr(cpu, "SEGMENT", 2**12)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    inputs = {
        n: t.float() for n, t in draw(length, batch=1, channels=channels, state=state).items()
    }
    with Watch():
        results(inputs, backend=backend)
    assert largest <= 2 * length * max(channels, state)


def test_auto_takes_a_fast_path_and_fp64_stays_fp64() -> None:
    inputs = draw(40)
    torch.testing.assert_close(scan(inputs)[0], scan(inputs, backend="reference")[0])
    single = {name: tensor.float() for name, tensor in inputs.items()}
    assert torch.equal(scan(single)[0], scan(single, backend="numba")[0])


def test_steps_equal_the_scan() -> None:
    inputs = draw(20)
    y, last = scan(inputs, backend="reference")
    state = inputs["initial_state"]
    for t in range(20):
        out, state = selective_state_update(
            state,
            *(inputs[n][:, t] for n in ("u", "delta")),
            inputs["A"],
            *(inputs[n][:, t] for n in ("B", "C")),
            D=inputs["D"],
            z=inputs["z"][:, t],
            delta_bias=inputs["delta_bias"],
            delta_softplus=True,
        )
        torch.testing.assert_close(out, y[:, t])
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_autocast_leaves_the_scan_in_fp32(backend: str) -> None:
    inputs = {name: tensor.float() for name, tensor in draw(64).items()}
    wanted = results(inputs, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = results(inputs, backend=backend)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"u": torch.ones(2, 9)}, ("u has shape (2, 9)", "(batch, length, channels)")),
        ({"delta": torch.ones(2, 8, 5)}, ("delta has shape (2, 8, 5)", "(2, 9, 5)")),
        ({"A": torch.ones(4, 8)}, ("A has shape (4, 8)", "(5, 8)")),
        ({"B": torch.ones(2, 9, 7)}, ("B has shape (2, 9, 7)", "(2, 9, 8)")),
        ({"z": torch.ones(2, 9, 5, dtype=torch.int64)}, ("z has type torch.int64",)),
        ({"D": torch.ones(5, device="meta")}, ("D is on meta", "cpu")),
        ({"initial_state": torch.ones(2, 8, 5)}, ("initial_state has shape", "(2, 5, 8)")),
        ({"backend": "cuda"}, ("backend 'cuda'", "reference, chunked, numba")),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], words: tuple[str, ...]) -> None:
    inputs = {name: tensor.float() for name, tensor in draw(9).items()}
    with pytest.raises(UsageError) as error:
        selective_scan(**{**inputs, **change})
    assert all(word in str(error.value) for word in words)


def test_numba_refuses_fp64() -> None:
    with pytest.raises(UsageError, match="float64"):
        scan(draw(4), backend="numba")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_million_steps(backend: str) -> None:
    """The longest length against the chunked path in fp64, which shorter lengths prove."""
    inputs = draw(2**20 + 3, batch=1, channels=4, state=8)
    wanted = results(inputs, backend="chunked")
    narrow = {name: tensor.float() for name, tensor in inputs.items()}
    assert_close(results(narrow, backend=backend), wanted, 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("length", [1, 33, 372, 2049, 6145], ids=lambda length: f"L{length}")
def test_chunked_on_a_gpu_equals_the_reference(
    cuda: torch.device, length: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(chunked.WIDTH, "cuda", 2**14)
    wide = ("A", "D", "delta_bias", "initial_state")
    narrow = {n: t.to(torch.float32 if n in wide else dtype) for n, t in draw(length).items()}
    exact = {name: tensor.double() for name, tensor in narrow.items()}
    on_gpu = {name: tensor.to(cuda) for name, tensor in narrow.items()}
    got = {name: tensor.cpu() for name, tensor in results(on_gpu, backend="auto").items()}
    wanted = results(exact, backend="reference")
    assert_close(got, wanted, 1e-5 if dtype == torch.float32 else 3e-2)
