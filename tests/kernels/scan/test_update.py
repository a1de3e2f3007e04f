"""One fused step against the sequential reference in fp64, values and gradients by name."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dnamamba.errors import UsageError
from dnamamba.kernels import selective_state_update
from dnamamba.kernels.scan import cpu_update, triton_scan
from dnamamba.kernels.scan.update import update
from tests.kernels.scan.cases import OPTIONAL, assert_close, draw, gradients, leaves_of

GPU = torch.cuda.is_available()
DEVICE = {"triton": torch.device("cuda" if GPU else "cpu"), "numba": torch.device("cpu")}
BACKENDS = tuple(DEVICE)
WIDE = ("state", "A", "D", "delta_bias")
"""Parameters and states, which stay fp32 beside half-precision activations."""
BOUNDS = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the interpreter the steps of a gradient's chunk after the first."""
    if not GPU:
        monkeypatch.setattr(triton_scan, "CHUNK", 2)


def draw_step(**options: Any) -> dict[str, Tensor]:
    """Inputs of one step, in fp64."""
    inputs = draw(1, **options)
    inputs["state"] = inputs.pop("initial_state")
    steps = {name: inputs[name][:, 0] for name in ("u", "delta", "B", "C", "z") if name in inputs}
    return inputs | steps


def place(
    inputs: dict[str, Tensor], dtype: torch.dtype = torch.float32, backend: str = "triton"
) -> dict[str, Tensor]:
    return {
        name: tensor.to(DEVICE[backend], torch.float32 if name in WIDE else dtype)
        for name, tensor in inputs.items()
    }


def step(inputs: dict[str, Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    keywords = {"delta_softplus": True, "backend": "triton", **options}
    return selective_state_update(**inputs, **keywords)  # type: ignore[arg-type]


def results(inputs: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    leaves = leaves_of(inputs)
    return gradients(*step(leaves, **options), leaves)


def assert_right(
    inputs: dict[str, Tensor],
    dtype: torch.dtype = torch.float32,
    softplus: bool = True,
    backend: str = "triton",
) -> None:
    """Hold a backend against the reference in fp64 of the very same, rounded inputs."""
    placed = place(inputs, dtype, backend)
    got = results(placed, delta_softplus=softplus, backend=backend)
    exact = {name: tensor.cpu().double() for name, tensor in placed.items()}
    wanted = results(exact, backend="reference", delta_softplus=softplus)
    assert_close({name: t.cpu() for name, t in got.items()}, wanted, BOUNDS[dtype])
    assert got["y"].dtype == dtype
    assert got["last"].dtype == torch.float32


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 5, "state": 8},
        {"channels": 5, "state": 3},
        {"channels": 1, "state": 1},
        {"channels": 37, "state": 16},
        {"channels": 3, "state": 256},
        {"channels": 6, "B": 2, "C": 2},
        {"channels": 6, "B": 2, "C": 3},
        {"channels": 6, "B": 6, "C": "varying"},
        {"channels": 4, "optional": ("initial_state",)},
        {"channels": 4, "optional": ("z", "initial_state")},
    ],
    ids=lambda options: "-".join(f"{name}{value}" for name, value in options.items()),
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step(backend: str, options: dict[str, Any]) -> None:
    assert_right(draw_step(batch=1, **options), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_without_softplus(backend: str) -> None:
    assert_right(draw_step(), softplus=False, backend=backend)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision(backend: str, dtype: torch.dtype) -> None:
    assert_right(draw_step(), dtype, backend=backend)


def test_threads_share_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = place(draw_step(batch=7, channels=5, state=3), backend="numba")
    alone = step(inputs, backend="numba")
    monkeypatch.setattr(cpu_update, "TASK", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for one, other in zip(step(inputs, backend="numba"), alone, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_of_one_result_alone(backend: str) -> None:
    inputs = draw_step()
    wanted, got = [], []
    for found, chosen, leaves in (
        (wanted, "reference", leaves_of(inputs)),
        (got, backend, leaves_of(place(inputs, backend=backend))),
    ):
        y, new = step(leaves, backend=chosen)
        found += [
            torch.autograd.grad(result.sum(), leaves["u"], retain_graph=True)[0]
            for result in (y, new)
        ]
    torch.testing.assert_close([g.cpu() for g in got], [w.float() for w in wanted])


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_inputs(backend: str) -> None:
    """Halves of a projection, and slices of another, as a Mamba block hands them over."""
    generator = torch.Generator().manual_seed(5)
    projected = torch.randn(2, 12, generator=generator).to(DEVICE[backend])
    selected = torch.randn(2, 19, generator=generator).to(DEVICE[backend])
    u, z = projected.chunk(2, -1)
    _, B, C = selected.split([3, 8, 8], -1)
    state = torch.randn(2, 8, 6, generator=generator).to(DEVICE[backend]).mT
    A = -torch.rand(8, 6, generator=generator).to(DEVICE[backend]).T
    inputs = {"state": state, "u": u, "delta": u.T.contiguous().T, "A": A, "B": B, "C": C, "z": z}
    dense = {name: tensor.contiguous() for name, tensor in inputs.items()}
    before = state.clone()
    found = (step(each, backend=backend) for each in (inputs, dense))
    for strided, plain in zip(*found, strict=True):
        assert torch.equal(strided, plain)
    assert torch.equal(state, before)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_element_is_written(backend: str) -> None:
    for channels, state in ((5, 3), (37, 16)):
        inputs = place(draw_step(channels=channels, state=state), backend=backend)
        results = step(inputs, backend=backend)
        assert all(bool(result.isfinite().all()) for result in results)


@pytest.mark.parametrize("optional", [OPTIONAL, ("initial_state",)], ids=["all", "least"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_op_is_what_it_says(backend: str, optional: tuple[str, ...]) -> None:
    inputs = draw_step(channels=2, state=2, B=1, C=1, optional=optional)
    leaves = leaves_of(place(inputs, backend=backend))
    names = ("state", "u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    torch.library.opcheck(update, (*(leaves.get(name) for name in names), True, backend))


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_into_one_graph(backend: str, autocast: bool) -> None:
    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    inputs = place(draw_step(channels=4, state=2), backend=backend)
    wanted = results(inputs, backend=backend)
    leaves = leaves_of(inputs)
    with torch.autocast(DEVICE[backend].type, torch.bfloat16, enabled=autocast):
        found = compiled(leaves, backend=backend)
    got = gradients(*found, leaves)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_more_states_and_fp64_run_in_pytorch() -> None:
    many = place(draw_step(channels=2, state=257))
    with pytest.raises(UsageError, match="up to 256 states"):
        step(many)
    if GPU:
        assert torch.equal(step(many, backend="auto")[0], step(many, backend="reference")[0])
    for backend in BACKENDS:
        with pytest.raises(UsageError, match="float64"):
            step(draw_step(), backend=backend)
    with pytest.raises(UsageError, match="auto, reference, numba, triton"):
        step(draw_step(), backend="chunked")


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("dtype", list(BOUNDS), ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("state", [1, 5, 16, 100, 256])
@pytest.mark.parametrize("channels", [31, 128, 1536])
def test_usual_shapes(channels: int, state: int, dtype: torch.dtype) -> None:
    assert_right(draw_step(batch=3, channels=channels, state=state), dtype)


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_a_hundred_runs_give_the_same_bits() -> None:
    inputs = place(draw_step(batch=64, channels=1024, state=16), torch.bfloat16)
    first = results(inputs)
    for _ in range(99):
        again = results(inputs)
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.gpu
@pytest.mark.slow
def test_more_elements_than_32_bits_count(cuda: torch.device) -> None:
    batch, channels, state = 2**15 + 1, 4096, 16
    torch.manual_seed(0)
    u, delta, z = (torch.rand(batch, channels, device=cuda) for _ in range(3))
    B, C = (torch.randn(batch, state, device=cuda) for _ in range(2))
    inputs = {
        **{"state": torch.randn(batch, channels, state, device=cuda), "u": u, "delta": delta},
        **{"A": -torch.rand(channels, state, device=cuda), "B": B, "C": C, "z": z},
    }
    y, new = step(inputs)
    last = {name: t if name == "A" else t[-1:] for name, t in inputs.items()}
    wanted = step({name: t.double() for name, t in last.items()}, backend="reference")
    assert_close({"y": y[-1:], "new": new[-1:]}, dict(zip(("y", "new"), wanted, strict=True)), 1e-5)
