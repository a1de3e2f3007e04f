"""The fused block against the same block by its modules, in Triton's interpreter or on a GPU."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from dnamamba.errors import UsageError
from dnamamba.models.block import Block, Recompute, RMSNorm
from dnamamba.models.mixers.fused import FusedBlock
from dnamamba.models.mixers.mamba import BiMamba, Mamba, MambaState, directions
from dnamamba.models.projection import matrix_of

HERE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Without a GPU, Triton's interpreter runs the kernels."""
SMALL = (9, 8, 4)
"""Length, d_model and states that the interpreter walks in a second."""
LARGE = (1000, 128, 16)


def build(
    device: torch.device, sizes: tuple[int, int, int] = SMALL, kind: type[nn.Module] = Mamba
) -> Block:
    torch.manual_seed(0)
    _, width, state = sizes
    mixer = kind(d_model=width, d_state=state, d_conv=4, expand=2, dt_rank=width // 8)
    block = Block(mixer, RMSNorm(width, 1e-5))
    nn.init.normal_(block.norm.weight)
    return block.to(device)


def adapt(block: Block, method: str) -> None:
    """Give the projections adapters that change them, and are alone to be trained."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=2,
        lora_alpha=4,
        use_dora=method == "dora",
        target_modules=["in_proj", "x_proj", "out_proj"],
    )
    peft.inject_adapter_in_model(config, block)
    for name, parameter in block.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, mean=float("magnitude" in name), std=0.2)


def run(
    block: Block,
    device: torch.device,
    sizes: tuple[int, int, int],
    *,
    stateful: bool,
    added: bool,
    autocast: bool,
) -> dict[str, Tensor]:
    """Return everything that comes out, and the gradient of everything that goes in, by name."""
    draw = torch.Generator().manual_seed(1)
    length, width, state_size = sizes
    inputs = {
        "x": torch.randn(2, length, width, generator=draw),
        "residual": torch.randn(2, length, width, generator=draw),
        "conv": torch.randn(2, 3, 2 * width, generator=draw),
        "scan": torch.randn(2, 2 * width, state_size, generator=draw),
    }
    leaves = {name: tensor.to(device).requires_grad_() for name, tensor in inputs.items()}
    state = MambaState(leaves["conv"], leaves["scan"]) if stateful else None
    x = leaves["x"].bfloat16() if autocast and added else leaves["x"]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
        y, total, after = block(
            x, leaves["residual"] if added else None, state, return_state=stateful
        )
    results = {"y": y, "total": total}
    if stateful:
        results |= {"conv_after": after.conv, "scan_after": after.scan}
    loss = sum((result.float().sin()).sum() for result in results.values())
    trained = {name: each for name, each in block.named_parameters() if each.requires_grad}
    asked = {"x": leaves["x"], **trained}
    if added:
        asked["residual"] = leaves["residual"]
    if stateful:
        asked |= {"conv": leaves["conv"], "scan": leaves["scan"]}
    gradients = torch.autograd.grad(loss, list(asked.values()))
    named = {f"d {name}": g for name, g in zip(asked, gradients, strict=True)}
    return {**{name: result.detach() for name, result in results.items()}, **named}


def count_fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the calls of the fused block from now on."""
    calls = [0]
    apply = FusedBlock.apply

    def counted(*arguments: Any) -> Any:
        calls[0] += 1
        return apply(*arguments)

    monkeypatch.setattr(FusedBlock, "apply", counted)
    return calls


def check(
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    sizes: tuple[int, int, int] = SMALL,
    kind: type[nn.Module] = Mamba,
    method: str = "",
    **options: bool,
) -> None:
    calls = count_fused(monkeypatch)
    block = build(device, sizes, kind)
    if method:
        adapt(block, method)
    for way in directions(block.mixer):
        way.backend = "chunked"
    wanted = run(block, device, sizes, **options)
    assert calls == [0]
    for way in directions(block.mixer):
        way.backend = "triton"
    by_mode = []
    for mode in get_args(Recompute):
        block.recompute = mode
        by_mode.append(run(block, device, sizes, **options))
    assert calls == [len(by_mode)]
    assert by_mode[0].keys() == wanted.keys()
    bound = 2e-2 if options["autocast"] else 2e-6 if sizes is SMALL else 5e-6
    for name, value in wanted.items():
        found = by_mode[0][name]
        assert found.dtype == value.dtype, name
        error = (found - value).float().norm() / value.float().norm()
        assert error < bound, (name, float(error))
        for other in by_mode[1:]:
            torch.testing.assert_close(other[name], found, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("stateful", [False, True], ids=["start", "carried"])
@pytest.mark.parametrize("added", [False, True], ids=["first", "later"])
def test_equals_the_modules(stateful: bool, added: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    check(HERE, monkeypatch, stateful=stateful, added=added, autocast=False)


def test_equals_the_modules_in_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    check(HERE, monkeypatch, kind=BiMamba, stateful=False, added=True, autocast=False)


@pytest.mark.parametrize("added", [False, True], ids=["first", "later"])
def test_equals_the_modules_under_autocast(added: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    check(HERE, monkeypatch, stateful=True, added=added, autocast=True)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_equals_the_modules_with_adapters(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(HERE, monkeypatch, method=method, stateful=False, added=True, autocast=False)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_an_adapted_block_equals_the_merged_one(method: str) -> None:
    """Bit for bit under autocast; the adapter's gradients are what the matrices' lead to."""
    adapted, merged = build(HERE), build(HERE)
    adapt(adapted, method)
    names = ("in_proj", "x_proj", "out_proj")
    matrices = {name: matrix_of(adapted.mixer.get_submodule(name)) for name in names}
    for name, matrix in matrices.items():
        merged.mixer.get_submodule(name).weight.data = matrix.detach()
    for block in (adapted, merged):
        block.mixer.backend = "triton"
    found, wanted = (
        run(block, HERE, SMALL, stateful=False, added=True, autocast=True)
        for block in (adapted, merged)
    )
    for name in ("y", "total", "d x", "d residual"):
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=0, msg=name)
    trained = {name: each for name, each in adapted.named_parameters() if each.requires_grad}
    gradients = torch.autograd.grad(
        list(matrices.values()),
        list(trained.values()),
        [wanted[f"d mixer.{name}.weight"] for name in matrices],
    )
    for name, gradient in zip(trained, gradients, strict=True):
        torch.testing.assert_close(found[f"d {name}"], gradient, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("added", [False, True], ids=["first", "later"])
def test_equals_the_modules_on_a_gpu(
    cuda: torch.device, added: bool, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(cuda, monkeypatch, LARGE, stateful=True, added=added, autocast=autocast)
    check(cuda, monkeypatch, LARGE, BiMamba, stateful=False, added=added, autocast=autocast)


@pytest.mark.parametrize("spoil", ["hook", "adapter", "dropout", "subclass"])
def test_only_matrices_are_read(spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_fused(monkeypatch)
    block = build(HERE)
    block.mixer.backend = "triton"
    mixer = block.mixer
    if spoil == "hook":
        mixer.in_proj.register_forward_hook(lambda *_: None)
    elif spoil == "adapter":
        mixer.out_proj = nn.Sequential(mixer.out_proj)
    elif spoil == "dropout":
        adapt(block, "lora")
        mixer.in_proj.lora_dropout["default"] = nn.Dropout(0.1)
    else:
        mixer.x_proj.weight = type("Quantised", (nn.Parameter,), {})(mixer.x_proj.weight)
    block(torch.randn(1, 5, 8, device=HERE))
    assert calls == [0]


def test_two_directions_have_no_state() -> None:
    block = build(HERE, kind=BiMamba)
    for way in directions(block.mixer):
        way.backend = "triton"
    with pytest.raises(UsageError, match="there is no state"):
        block(torch.randn(1, 5, 8, device=HERE), return_state=True)


def test_without_gradients_it_stands_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_fused(monkeypatch)
    block = build(HERE)
    block.mixer.backend = "triton"
    with torch.no_grad():
        block(torch.randn(1, 5, 8, device=HERE))
    assert calls == [0]
