"""The functions of mamba_ssm and causal_conv1d: their formulas, and published model code."""

import functools
import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnamamba.errors import UsageError
from dnamamba.kernels import compat


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def scan_inputs(B: tuple[int, ...], C: tuple[int, ...]) -> dict[str, Tensor]:
    """Draw batch 2, 6 channels, 30 steps and 4 states."""
    return {
        "u": normal(2, 6, 30),
        "delta": normal(2, 6, 30, seed=1).abs(),
        "A": -normal(6, 4).exp(),
        "B": normal(*B, seed=2),
        "C": normal(*C, seed=3),
        "D": normal(6),
        "z": normal(2, 6, 30, seed=4),
        "delta_bias": normal(6, seed=5),
    }


def scan_by_formula(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    def of_channel(weight: Tensor, d: int, t: int) -> Tensor:
        if weight.dim() == 2:
            return weight[d]
        group = d // (6 // weight.shape[1])
        return weight[:, :, t] if weight.dim() == 3 else weight[:, group, :, t]

    ys, lasts = [], []
    for d in range(6):
        h, y = torch.zeros(2, 4, dtype=torch.float64), []
        for t in range(30):
            step = F.softplus(delta[:, d, t] + bias[d])[:, None]
            h = torch.exp(step * A[d]) * h + step * of_channel(B, d, t) * u[:, d, t, None]
            y.append((h * of_channel(C, d, t)).sum(-1) + D[d] * u[:, d, t])
        ys.append(torch.stack(y, dim=-1))
        lasts.append(h)
    return torch.stack(ys, dim=1) * F.silu(z), torch.stack(lasts, dim=1)


@pytest.mark.parametrize(
    ("B", "C"),
    [((2, 4, 30), (2, 4, 30)), ((2, 3, 4, 30), (2, 2, 4, 30)), ((6, 4), (2, 4, 30))],
    ids=["varying", "grouped", "constant"],
)
def test_selective_scan(B: tuple[int, ...], C: tuple[int, ...]) -> None:
    ours, theirs = (
        {name: tensor.clone().requires_grad_() for name, tensor in scan_inputs(B, C).items()}
        for _ in range(2)
    )
    y, last = compat.selective_scan_fn(**ours, delta_softplus=True, return_last_state=True)
    assert y.shape == (2, 6, 30)
    wanted, wanted_last = scan_by_formula(*theirs.values())
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(last, wanted_last)
    (y.square().sum() + last.square().sum()).backward()
    (wanted.square().sum() + wanted_last.square().sum()).backward()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor.grad, theirs[name].grad, msg=name)


def test_selective_scan_returns_one_tensor_in_the_type_of_u() -> None:
    inputs = {n: t.float() for n, t in scan_inputs((2, 4, 30), (2, 4, 30)).items()}
    inputs["u"] = inputs["u"].bfloat16()
    assert compat.selective_scan_fn(**inputs).dtype == torch.bfloat16
    assert compat.selective_scan_fn(**inputs, return_last_state=True)[1].dtype == torch.float32


def conv_by_formula(x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor) -> Tensor:
    return F.conv1d(torch.cat([past, x], dim=-1), weight[:, None], bias, groups=len(weight))


@pytest.mark.parametrize("activation", [None, "silu", "swish"])
@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("length", [1, 2, 20])
def test_causal_conv1d(length: int, width: int, activation: str | None) -> None:
    x, weight, bias = normal(2, 5, length), normal(5, width), normal(5)
    past = normal(2, 5, width - 1, seed=1)
    for initial in (None, past):
        seen = torch.zeros_like(past) if initial is None else past
        out = torch.empty_like(past)
        y, final = compat.causal_conv1d_fn(
            x,
            weight,
            bias,
            initial_states=initial,
            return_final_states=True,
            final_states_out=out,
            activation=activation,
        )
        wanted = conv_by_formula(x, weight, bias, seen)
        torch.testing.assert_close(y, wanted if activation is None else F.silu(wanted))
        assert final is out
        assert torch.equal(final, torch.cat([seen, x], dim=-1)[:, :, -(width - 1) :])
    assert isinstance(compat.causal_conv1d_fn(x, weight), Tensor)


def test_causal_conv1d_keeps_packed_sequences_apart_and_silences_padding() -> None:
    x, weight, bias = normal(1, 5, 12), normal(5, 4), normal(5)
    seq_idx = torch.tensor([[0] * 5 + [1] * 4 + [-1] * 3], dtype=torch.int32)
    y = compat.causal_conv1d_fn(x, weight, bias, seq_idx, activation="silu")
    zeros = x.new_zeros(1, 5, 3)
    parts = [conv_by_formula(part, weight, bias, zeros) for part in (x[..., :5], x[..., 5:9])]
    torch.testing.assert_close(y[..., :9], F.silu(torch.cat(parts, dim=-1)))
    assert not y[..., 9:].any()


@pytest.mark.parametrize("ring", [False, True], ids=["shifted", "ring"])
@pytest.mark.parametrize("kept", [3, 4, 7])
@pytest.mark.parametrize("lengths", [[1] * 12, [2, 5, 1, 4]], ids=["steps", "pieces"])
def test_causal_conv1d_update(kept: int, lengths: list[int], ring: bool) -> None:
    """A sequence fed piece by piece gives what the whole does; rows may be of different age."""
    total = sum(lengths)
    x, weight, bias = normal(2, 5, total), normal(5, 4), normal(5)
    wanted = F.silu(conv_by_formula(x, weight, bias, x.new_zeros(2, 5, 3)))
    state, age = x.new_zeros(2, 5, kept), torch.tensor([0, 11], dtype=torch.int32)
    ys = []
    for piece in x.split(lengths, dim=-1):
        given = piece.squeeze(-1) if piece.shape[-1] == 1 else piece
        y = compat.causal_conv1d_update(
            given, state, weight, bias, activation="silu", cache_seqlens=age if ring else None
        )
        assert y.shape == given.shape
        ys.append(y.view(piece.shape))
        age = age + piece.shape[-1]
    torch.testing.assert_close(torch.cat(ys, dim=-1), wanted)
    for row in range(2):
        slots = [int(age[row] - kept + i) % kept if ring else i for i in range(kept)]
        assert torch.equal(state[row][:, slots], x[row, :, -kept:])


@pytest.mark.parametrize("ring", [False, True], ids=["shifted", "ring"])
def test_causal_conv1d_update_of_chosen_rows(ring: bool) -> None:
    x, weight = normal(4, 5), normal(5, 4)
    pool = normal(6, 5, 4)
    indices = torch.tensor([0, -1, 4, 2], dtype=torch.int32)
    age = torch.tensor([3, 9, 5, 8], dtype=torch.int32) if ring else None
    live, rows = [0, 2, 3], [0, 4, 2]
    wanted_pool, alone = pool.clone(), pool[rows].clone()
    wanted = compat.causal_conv1d_update(
        x[live], alone, weight, cache_seqlens=None if age is None else age[live]
    )
    wanted_pool[rows] = alone
    y = compat.causal_conv1d_update(x, pool, weight, cache_seqlens=age, conv_state_indices=indices)
    torch.testing.assert_close(y[live], wanted)
    assert not y[1].any()
    assert torch.equal(pool, wanted_pool)


def step_inputs(heads: tuple[int, ...], groups: tuple[int, ...]) -> dict[str, Tensor]:
    return {
        "state": normal(3, *heads, 6, 4),
        "x": normal(3, *heads, 6),
        "dt": normal(3, *heads, 6, seed=1),
        "A": -normal(*heads, 6, 4).exp(),
        "B": normal(3, *groups, 4, seed=2),
        "C": normal(3, *groups, 4, seed=3),
        "D": normal(*heads, 6),
        "z": normal(3, *heads, 6, seed=4),
        "dt_bias": normal(*heads, 6, seed=5),
    }


@pytest.mark.parametrize(
    ("heads", "groups"),
    [((), ()), ((), (1,)), ((4,), ()), ((4,), (2,)), ((4,), (4,))],
    ids=["plain", "one-group", "heads", "groups", "group-a-head"],
)
def test_selective_state_update(heads: tuple[int, ...], groups: tuple[int, ...]) -> None:
    inputs = step_inputs(heads, groups)
    count, share = (heads or (1,))[0], (heads or (1,))[0] // (groups or (1,))[0]
    old = inputs["state"].view(3, count, 6, 4)
    x, dt, z = (inputs[name].view(3, count, 6) for name in ("x", "dt", "z"))
    A, D, bias = (
        inputs[n].view(count, 6, *inputs[n].shape[1 + len(heads) :]) for n in ("A", "D", "dt_bias")
    )
    B, C = (inputs[name].view(3, -1, 4) for name in "BC")
    new, ys = torch.empty_like(old), torch.empty_like(x)
    for h in range(count):
        step = F.softplus(dt[:, h] + bias[h])[..., None]
        b, c = B[:, None, h // share], C[:, None, h // share]
        new[:, h] = torch.exp(step * A[h]) * old[:, h] + step * b * x[:, h, :, None]
        ys[:, h] = ((new[:, h] * c).sum(-1) + D[h] * x[:, h]) * F.silu(z[:, h])
    y = compat.selective_state_update(**inputs, dt_softplus=True)
    torch.testing.assert_close(y, ys.view_as(inputs["x"]))
    torch.testing.assert_close(inputs["state"], new.view_as(inputs["state"]))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_selective_state_update_on_a_gpu(cuda: torch.device, dtype: torch.dtype) -> None:
    """Where the step is one fused kernel, on states in the type that they are kept in."""
    inputs = {name: t.to(cuda, dtype) for name, t in step_inputs((4,), (2,)).items()}
    exact = {name: tensor.cpu().double() for name, tensor in inputs.items()}
    y = compat.selective_state_update(**inputs, dt_softplus=True)
    wanted = compat.selective_state_update(**exact, dt_softplus=True)
    bounds = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(y.cpu(), wanted.to(dtype), **bounds)
    torch.testing.assert_close(inputs["state"].cpu(), exact["state"].to(dtype), **bounds)


@pytest.mark.parametrize("indices", [[0, -1, 4], [-1, -1, -1], [2, 1, 0]], ids=str)
def test_selective_state_update_of_chosen_rows(indices: list[int]) -> None:
    inputs = step_inputs((4,), (2,))
    pool = normal(6, 4, 6, 4)
    live = [row for row, index in enumerate(indices) if index >= 0]
    rows = [indices[row] for row in live]
    batched = ("x", "dt", "B", "C", "z")
    wanted_pool, alone = pool.clone(), pool[rows].clone()
    chosen = {n: t[live] if n in batched else t for n, t in inputs.items()} | {"state": alone}
    y = compat.selective_state_update(
        **{**inputs, "state": pool}, state_batch_indices=torch.tensor(indices, dtype=torch.int32)
    )
    if live:
        torch.testing.assert_close(y[live], compat.selective_state_update(**chosen))
        wanted_pool[rows] = alone
    torch.testing.assert_close(pool, wanted_pool)
    assert not y[[row for row in range(3) if row not in live]].any()


def test_updates_keep_the_type_of_a_state_and_no_graph() -> None:
    inputs = {name: tensor.float() for name, tensor in step_inputs((), ()).items()}
    inputs["state"] = inputs["state"].bfloat16()
    inputs["x"].requires_grad_()
    y = compat.selective_state_update(**inputs)
    conv_state = torch.zeros(3, 6, 4, dtype=torch.bfloat16)
    out = compat.causal_conv1d_update(inputs["x"], conv_state, torch.ones(6, 4))
    assert y.requires_grad
    assert out.requires_grad
    for state in (inputs["state"], conv_state):
        assert state.dtype == torch.bfloat16
        assert not state.requires_grad


def inner_inputs(rank: int = 3, state: int = 4, channels: int = 6) -> dict[str, Tensor]:
    return {
        "xz": normal(2, 2 * channels, 30),
        "conv1d_weight": normal(channels, 1, 4),
        "conv1d_bias": normal(channels),
        "x_proj_weight": normal(rank + 2 * state, channels) / 3,
        "delta_proj_weight": normal(channels, rank),
        "out_proj_weight": normal(5, channels),
        "out_proj_bias": normal(5),
        "A": -normal(channels, state).exp(),
        "D": normal(channels),
        "delta_bias": normal(channels),
    }


@pytest.mark.parametrize("norms", [False, True], ids=["plain", "norms"])
@pytest.mark.parametrize("biases", [False, True], ids=["", "biases"])
def test_mamba_inner(biases: bool, norms: bool) -> None:
    inputs = inner_inputs()
    if biases:
        inputs |= {"B_proj_bias": normal(4, seed=1), "C_proj_bias": normal(4, seed=2)}
    if norms:
        inputs |= {"b_rms_weight": normal(4), "c_rms_weight": normal(4, seed=1)}
        inputs |= {"dt_rms_weight": normal(3)}
    x, z = inputs["xz"].chunk(2, dim=1)
    zeros = x.new_zeros(2, 6, 3)
    u = F.silu(conv_by_formula(x, inputs["conv1d_weight"][:, 0], inputs["conv1d_bias"], zeros))
    dt, B, C = torch.einsum("pc,bcl->bpl", inputs["x_proj_weight"], u).split([3, 4, 4], dim=1)
    if biases:
        B, C = B + inputs["B_proj_bias"][:, None], C + inputs["C_proj_bias"][:, None]
    if norms:
        dt, B, C = (
            F.rms_norm(part.mT, part.shape[1:2], inputs[f"{name}_rms_weight"], 1e-6).mT
            for part, name in ((dt, "dt"), (B, "b"), (C, "c"))
        )
    delta = torch.einsum("cr,brl->bcl", inputs["delta_proj_weight"], dt)
    y, _ = scan_by_formula(u, delta, inputs["A"], B, C, inputs["D"], z, inputs["delta_bias"])
    wanted = torch.einsum("oc,bcl->blo", inputs["out_proj_weight"], y) + inputs["out_proj_bias"]
    torch.testing.assert_close(compat.mamba_inner_fn(**inputs), wanted)


@pytest.mark.parametrize("name", ["scan", "inner"])
def test_compiles_and_differentiates(name: str) -> None:
    torch.compiler.reset()
    function: Any
    if name == "scan":
        function = functools.partial(compat.selective_scan_fn, delta_softplus=True)
        inputs = scan_inputs((2, 4, 30), (2, 4, 30))
    else:
        function, inputs = compat.mamba_inner_fn, inner_inputs()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    grads = []
    for run in (function, compiled):
        leaves = {n: t.float().clone().requires_grad_() for n, t in inputs.items()}
        run(**leaves).square().sum().backward()
        grads.append({n: t.grad for n, t in leaves.items()})
    for argument in inputs:
        torch.testing.assert_close(grads[0][argument], grads[1][argument], msg=argument)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: compat.selective_scan_fn(*[torch.ones(2, 3)] * 5), "u has shape (2, 3)"),
        (
            lambda: compat.causal_conv1d_fn(
                torch.ones(1, 2, 3), torch.ones(2, 4), activation="relu"
            ),
            "activation 'relu'",
        ),
        (
            lambda: compat.causal_conv1d_update(
                torch.ones(1, 2), torch.ones(1, 2, 2), torch.ones(2, 4)
            ),
            "conv_state keeps 2 steps",
        ),
        (
            lambda: compat.causal_conv1d_update(
                torch.ones(1, 2), torch.ones(3, 2, 3), torch.ones(2, 4)
            ),
            "conv_state has shape (3, 2, 3)",
        ),
        (
            lambda: compat.selective_state_update(torch.ones(1, 2), *[torch.ones(1)] * 5),
            "state has shape (1, 2)",
        ),
        (
            lambda: compat.selective_state_update(**step_inputs((4,), (3,))),
            "B has 3 groups, which do not divide 4 heads",
        ),
    ],
)
def test_wrong_arguments_are_named(call: Any, words: str) -> None:
    with pytest.raises(UsageError) as error:
        call()
    assert words in str(error.value)


def modeling(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    """Import transformers' code of a model as it is, and where its packages are these functions."""
    path = f"transformers.models.{name}.modeling_{name}"
    plain = importlib.import_module(path)
    for package in ("mamba_ssm", "causal_conv1d"):
        monkeypatch.setitem(sys.modules, package, compat)
    spec = importlib.util.find_spec(path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return plain, module


@pytest.mark.parametrize("name", ["mamba", "falcon_mamba"])
def test_published_model_code_runs_unchanged(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits and gradients in training, and the logits of steps from a cache, as without us."""
    import transformers

    calls = []
    for function in (
        "selective_scan_fn",
        "mamba_inner_fn",
        "selective_state_update",
        "causal_conv1d_update",
        "causal_conv1d_fn",
    ):
        monkeypatch.setattr(compat, function, counted(getattr(compat, function), calls))
    title = "".join(part.title() for part in name.split("_"))
    config = getattr(transformers, f"{title}Config")(
        vocab_size=16, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0
    )
    plain, ours = (
        getattr(module, f"{title}ForCausalLM")(config) for module in modeling(name, monkeypatch)
    )
    ours.load_state_dict(plain.state_dict())
    ids = torch.randint(1, 16, (2, 33), generator=torch.Generator().manual_seed(0))
    logits, wanted = (model.train()(ids, use_cache=False).logits for model in (ours, plain))
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
    for out in (logits, wanted):
        F.cross_entropy(out[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    for (parameter, got), (_, expected) in zip(
        ours.named_parameters(), plain.named_parameters(), strict=True
    ):
        torch.testing.assert_close(got.grad, expected.grad, rtol=1e-3, atol=1e-6, msg=parameter)
    assert set(calls) == {"mamba_inner_fn"}

    logits, wanted = (steps(model.eval(), ids) for model in (ours, plain))
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
    assert len(set(calls)) == 5


def counted(function: Any, calls: list[str]) -> Any:
    """Note each call, under the function's own signature."""

    @functools.wraps(function)
    def noted(*args: Any, **kwargs: Any) -> Any:
        calls.append(function.__name__)
        return function(*args, **kwargs)

    return noted


@torch.no_grad()
def steps(model: nn.Module, ids: Tensor) -> Tensor:
    """Feed 20 positions at once, then one at a time."""
    out = model(ids[:, :20], use_cache=True)
    logits = [out.logits]
    for t in range(20, ids.shape[1]):
        out = model(ids[:, t : t + 1], use_cache=True, cache_params=out.cache_params)
        logits.append(out.logits)
    return torch.cat(logits, dim=1)
