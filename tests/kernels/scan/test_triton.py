"""Triton's kernels against the sequential reference in fp64, values and gradients by name.

Compiled on a GPU, the whole grid; in Triton's interpreter elsewhere, where a step takes
milliseconds, a few short lengths cut into chunks and spans as small as will do.
"""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from dnamamba.errors import UsageError
from dnamamba.kernels import selective_scan
from dnamamba.kernels.scan import triton_scan
from tests.kernels.scan.cases import (
    LENGTHS,
    OPTIONAL,
    assert_close,
    draw,
    lengthwise,
    results,
    scan,
)

WIDE = ("A", "D", "delta_bias", "initial_state")
"""Parameters and states, which stay fp32 beside half-precision activations."""
BOUNDS = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


@pytest.fixture
def small_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short sequences into several spans of several chunks."""
    monkeypatch.setattr(triton_scan, "CHUNK", 4)
    monkeypatch.setattr(triton_scan, "SPAN", 8)


def place(
    inputs: dict[str, Tensor], device: torch.device, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    return {
        name: tensor.to(device, torch.float32 if name in WIDE else dtype)
        for name, tensor in inputs.items()
    }


def assert_right(
    device: torch.device, inputs: dict[str, Tensor], dtype: torch.dtype, **options: Any
) -> None:
    """Hold the kernels against the reference in fp64 of the very same, rounded inputs."""
    placed = place(inputs, device, dtype)
    got = results(placed, backend="triton", **options)
    exact = {name: tensor.cpu().double() for name, tensor in placed.items()}
    if options.get("seq_idx") is not None:
        options["seq_idx"] = options["seq_idx"].cpu()
    wanted = results(exact, backend="reference", **options)
    assert_close({name: t.cpu() for name, t in got.items()}, wanted, BOUNDS[dtype])


CPU = torch.device("cpu")
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="compiled on this GPU instead")
FORMS: tuple[dict[str, Any], ...] = (
    {"B": 2, "C": 2},
    {"B": "constant", "C": "varying"},
    {"B": "varying", "C": "constant"},
    {"B": "constant", "C": "constant"},
)


@interpreted
@pytest.mark.usefixtures("small_cut")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("length", [1, 4, 19], ids=lambda length: f"L{length}")
def test_interpreted(length: int, reverse: bool) -> None:
    assert_right(CPU, draw(length, batch=2, channels=3, state=3), torch.float32, reverse=reverse)


@interpreted
def test_interpreted_in_one_span() -> None:
    """As many steps, channels and states as tiles hold: no mask anywhere."""
    assert_right(CPU, draw(4, batch=1, channels=128, state=16), torch.float32)


@interpreted
@pytest.mark.usefixtures("small_cut")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_interpreted_forms(form: dict[str, Any]) -> None:
    assert_right(CPU, draw(9, batch=1, channels=4, state=2, **form), torch.float32)


@interpreted
@pytest.mark.usefixtures("small_cut")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_interpreted_packed(reverse: bool) -> None:
    seq_idx = torch.tensor([[0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4]])
    inputs = draw(17, batch=1, channels=2, state=2)
    assert_right(CPU, inputs, torch.float32, seq_idx=seq_idx, reverse=reverse)


@interpreted
@pytest.mark.usefixtures("small_cut")
def test_interpreted_without_options() -> None:
    inputs = draw(9, batch=1, channels=2, state=2, optional=())
    assert_right(CPU, inputs, torch.float32, delta_softplus=False)


@interpreted
@pytest.mark.usefixtures("small_cut")
def test_interpreted_half_precision() -> None:
    assert_right(CPU, draw(9, batch=1, channels=2, state=2), torch.float16)


@interpreted
@pytest.mark.usefixtures("small_cut", "poisoned")
def test_interpreted_writes_every_element() -> None:
    inputs = place(draw(9, batch=1, channels=3, state=3), CPU)
    assert all(bool(value.isfinite().all()) for value in results(inputs, backend="triton").values())


@interpreted
@pytest.mark.usefixtures("small_cut")
def test_interpreted_inference_keeps_no_states() -> None:
    inputs = place(draw(17, batch=1, channels=3, state=3), CPU)
    y, last = scan(inputs, backend="triton")
    wanted, wanted_last = scan(inputs, backend="chunked")
    assert_close({"y": y, "last": last}, {"y": wanted, "last": wanted_last}, 1e-5)


def test_too_many_states_are_refused() -> None:
    inputs = place(draw(2, batch=1, channels=2, state=257), CPU)
    if torch.cuda.is_available():
        inputs = place(inputs, torch.device("cuda"))
    with pytest.raises(UsageError, match="at most 256 states"):
        scan(inputs, backend="triton")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(BOUNDS), ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("length", LENGTHS, ids=lambda length: f"L{length}")
def test_compiled(cuda: torch.device, length: int, dtype: torch.dtype) -> None:
    """Odd channels run in plain Triton, 32 of them with explicit layouts."""
    for channels, state in ((5, 8), (32, 16)):
        reverse = length % 2 == 0
        assert_right(cuda, draw(length, channels=channels, state=state), dtype, reverse=reverse)


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [5, 32])
@pytest.mark.parametrize(
    "kept",
    [kept for size in range(5) for kept in itertools.combinations(OPTIONAL, size)],
    ids=lambda kept: "-".join(kept) or "none",
)
def test_compiled_options(cuda: torch.device, kept: tuple[str, ...], channels: int) -> None:
    for softplus in (False, True):
        inputs = draw(151, channels=channels, optional=kept)
        assert_right(cuda, inputs, torch.float32, delta_softplus=softplus)


@pytest.mark.gpu
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_compiled_forms(cuda: torch.device, form: dict[str, Any], reverse: bool) -> None:
    for channels in (6, 64):
        inputs = draw(300, channels=channels, **form)
        assert_right(cuda, inputs, torch.float32, reverse=reverse)


@pytest.mark.gpu
@pytest.mark.parametrize("state", [1, 2, 3, 5, 16, 17, 33, 64, 100, 128, 256])
def test_compiled_states(cuda: torch.device, state: int) -> None:
    for channels in (3, 32):
        assert_right(cuda, draw(130, channels=channels, state=state), torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [1, 16, 31, 48, 100, 128, 200, 256])
def test_compiled_channels(cuda: torch.device, channels: int) -> None:
    assert_right(cuda, draw(200, channels=channels, state=16), torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("channels", [5, 32])
def test_compiled_packed(cuda: torch.device, channels: int, reverse: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    starts = torch.rand(2, 1000, generator=generator) < 0.01
    starts[0, 320:390] = True
    seq_idx = starts.cumsum(1)
    inputs = draw(1000, channels=channels, state=16)
    assert_right(cuda, inputs, torch.float32, seq_idx=seq_idx.to(cuda), reverse=reverse)


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [5, 32])
def test_compiled_runs_repeat_bit_for_bit(cuda: torch.device, channels: int) -> None:
    inputs = place(draw(2000, channels=channels, state=16), cuda, torch.bfloat16)
    first = results(inputs, backend="triton")
    for _ in range(99):
        again = results(inputs, backend="triton")
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.gpu
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("channels", [5, 32])
def test_compiled_writes_every_element(cuda: torch.device, channels: int) -> None:
    for length in (1, 63, 65, 500):
        inputs = place(draw(length, channels=channels, state=16), cuda)
        found = results(inputs, backend="triton")
        assert all(bool(value.isfinite().all()) for value in found.values())


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [5, 32])
@pytest.mark.parametrize("cut", [1, 64, 100, 511])
def test_compiled_split_with_the_state_handed_over(
    cuda: torch.device, cut: int, channels: int
) -> None:
    inputs = place(draw(512, channels=channels, state=16), cuda)
    whole, last = scan(inputs, backend="triton")
    head, state = scan(lengthwise(inputs, slice(None, cut)), backend="triton")
    rest = {**lengthwise(inputs, slice(cut, None)), "initial_state": state}
    tail, end = scan(rest, backend="triton")
    assert_close({"y": torch.cat([head, tail], 1), "last": end}, {"y": whole, "last": last}, 1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [5, 32])
@pytest.mark.parametrize(
    ("delta", "A"), list(itertools.product([0.0, 1e3, 100.0], [-1e-6, -1e4, -1.0]))
)
def test_compiled_extremes(cuda: torch.device, delta: float, A: float, channels: int) -> None:
    """Finite where the reference is, and as right as anywhere."""
    inputs = draw(100, channels=channels, state=16, optional=("D", "z", "initial_state"))
    inputs["delta"].fill_(delta)
    inputs["A"].fill_(A)
    for softplus in (False, True):
        assert_right(cuda, inputs, torch.float32, delta_softplus=softplus)


@pytest.mark.gpu
def test_compiled_strided_inputs(cuda: torch.device) -> None:
    """Halves of a projection, and slices of another, as a Mamba block hands them over."""
    generator = torch.Generator().manual_seed(5)
    projected = torch.randn(2, 300, 128, generator=generator).to(cuda)
    selected = torch.randn(2, 300, 40, generator=generator).to(cuda)
    u, z = projected.chunk(2, -1)
    _, B, C = selected.split([8, 16, 16], -1)
    delta, A = u.sigmoid(), -torch.rand(64, 16, generator=generator).to(cuda)
    strided = selective_scan(u, delta, A, B, C, z=z, backend="triton")
    dense = (t.contiguous() for t in (u, delta, A, B, C))
    assert torch.equal(strided, selective_scan(*dense, z=z.contiguous(), backend="triton"))
    transposed = (t.mT.contiguous().mT for t in (u, delta))
    again = selective_scan(*transposed, A, B, C, z=z, backend="triton")
    assert torch.equal(strided, again)


@pytest.mark.gpu
def test_compiled_a_million_steps(cuda: torch.device) -> None:
    """The longest length against the chunked path in fp64, which shorter lengths prove."""
    inputs = draw(2**20 + 3, batch=1, channels=16, state=16)
    wanted = results({n: t.to(cuda) for n, t in inputs.items()}, backend="chunked")
    got = results(place(inputs, cuda), backend="triton")
    assert_close(got, wanted, 1e-4)


@pytest.mark.gpu
@pytest.mark.slow
def test_compiled_more_than_two_to_the_31_elements(cuda: torch.device) -> None:
    """Right at the end of 2.1 billion elements: a tail, from the state handed over before it."""
    length, channels, tail = 1_048_579, 2048, 515
    torch.manual_seed(0)
    shape = (1, length, channels)
    u, z, dy = (torch.randn(shape, device=cuda, dtype=torch.bfloat16) for _ in range(3))
    delta = torch.rand(shape, device=cuda, dtype=torch.bfloat16)
    B, C = (torch.randn(1, length, 16, device=cuda, dtype=torch.bfloat16) for _ in range(2))
    A = -torch.rand(channels, 16, device=cuda)
    leaves = [t.requires_grad_() for t in (u, delta, B, C, z)]
    y = selective_scan(u, delta, A, B, C, z=z, backend="triton")
    gradients = torch.autograd.grad(y, leaves, dy)
    del y
    head = [t.detach()[:, :-tail] for t in (u, delta, B, C, z)]
    _, state = selective_scan(
        *head[:2], A, *head[2:4], z=head[4], backend="triton", return_last_state=True
    )
    ends = [t.detach()[:, -tail:].double().requires_grad_() for t in (u, delta, B, C, z)]
    wanted = selective_scan(
        *ends[:2], A.double(), *ends[2:4], z=ends[4], initial_state=state.double(),
        backend="chunked",
    )  # fmt: skip
    exact = torch.autograd.grad(wanted, ends, dy[:, -tail:].double())
    names = ("u", "delta", "B", "C", "z")
    assert_close(
        {n: g[:, -tail:] for n, g in zip(names, gradients, strict=True)},
        dict(zip(names, exact, strict=True)),
        BOUNDS[torch.bfloat16],
    )
