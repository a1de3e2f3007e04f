from typing import Any

import pytest
import torch

from dnamamba.kernels.scan.segments import Segmented
from dnamamba.models.block import Block, Recompute, RMSNorm
from dnamamba.models.mixers.mamba import Mamba, MambaState


def build() -> Block:
    torch.manual_seed(0)
    block = Block(Mamba(d_model=8, d_state=4, d_conv=4, expand=2, dt_rank=1), RMSNorm(8, 1e-5))
    torch.nn.init.normal_(block.norm.weight)
    block.mixer.backend = "chunked"
    return block


def test_block_mixes_the_norm_of_the_sum() -> None:
    block = build()
    x, residual = torch.randn(2, 2, 9, 8)
    total = x + residual
    normed = total / torch.sqrt(total.square().mean(-1, keepdim=True) + 1e-5) * block.norm.weight
    wanted = block.mixer(normed)[0], total, None
    torch.testing.assert_close(block(x, residual), wanted)
    torch.testing.assert_close(block(total), wanted)


def test_gradients_pass_a_block_both_ways() -> None:
    """Through the mixer, and past it along the residual stream."""
    block = build().double()
    x, residual = torch.randn(2, 1, 5, 8, dtype=torch.float64)

    def run(x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return block(x, residual)[:2]

    torch.autograd.gradcheck(run, (x.requires_grad_(), residual.requires_grad_()))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_norm_has_unit_mean_square(scale: float) -> None:
    y = RMSNorm(64, eps=1e-12)(scale * torch.randn(5, 64))
    torch.testing.assert_close(y.square().mean(-1), torch.ones(5))


def test_residual_stays_fp32_under_autocast() -> None:
    block = build()
    seen = []
    block.mixer.out_proj.register_forward_hook(lambda _, __, y: seen.append(y.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, total, _ = block(torch.randn(1, 6, 8))
        _, total, state = block(y, total, return_state=True)
        _, stepped, after = block.step(y[:, 0], total[:, 0], state)
    assert seen == [torch.bfloat16] * 3
    assert total.dtype == stepped.dtype == torch.float32
    assert state.scan.dtype == after.scan.dtype == torch.float32


def test_residual_stays_fp32_where_weights_are_bf16() -> None:
    block = build().bfloat16()
    y, total, _ = block(torch.randn(1, 6, 8))
    assert y.dtype == torch.bfloat16
    assert block(y, total)[1].dtype == torch.float32


def test_step_equals_forward() -> None:
    block = build()
    x, residual = torch.randn(2, 2, 7, 8)
    y, total, last = block(x, residual, return_state=True)
    state = block.mixer.initial_state(2)
    for t in range(7):
        step, after, state = block.step(x[:, t], residual[:, t], state)
        torch.testing.assert_close((step, after), (y[:, t], total[:, t]))
    torch.testing.assert_close(tuple(state), tuple(last))


@pytest.mark.parametrize("recompute", ["scan", "block"])
@pytest.mark.parametrize("carried", [False, True], ids=["start", "carried"])
def test_recomputing_changes_no_gradient(recompute: Recompute, carried: bool) -> None:
    """Through the output, the residual, the state carried in and the state handed on."""
    found = []
    choices: tuple[Recompute, ...] = ("none", recompute)
    for chosen in choices:
        block = build().double()
        block.recompute = chosen
        x, residual, conv, scan = (
            torch.randn(
                shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
            ).requires_grad_()
            for shape in ((2, 9, 8), (2, 9, 8), (2, 3, 16), (2, 16, 4))
        )
        state = MambaState(conv, scan) if carried else None
        y, total, after = block(x, residual, state, return_state=True)
        loss = y.sin().sum() + total.cos().sum() + after.conv.sum() + after.scan.sin().sum()
        inputs = [x, residual, *block.parameters(), *((conv, scan) if carried else ())]
        found.append([y, total, *after, *torch.autograd.grad(loss, inputs)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("recompute", "scans", "projections"), [("none", 1, 1), ("scan", 1, 2), ("block", 2, 2)]
)
def test_what_is_made_again(
    recompute: Recompute, scans: int, projections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = {"scans": 0, "projections": 0}
    block = build()
    block.recompute = recompute
    forward = Segmented.forward

    def scan(*arguments: Any) -> Any:
        counted["scans"] += 1
        return forward(*arguments)

    def project(*_: Any) -> None:
        counted["projections"] += 1

    monkeypatch.setattr(Segmented, "forward", scan)
    block.mixer.in_proj.register_forward_hook(project)
    y, _, _ = block(torch.randn(1, 9, 8))
    y.sum().backward()
    assert counted == {"scans": scans, "projections": projections}


def test_what_is_kept_is_no_wider_than_what_is_multiplied() -> None:
    """And the residual stream goes on in fp32."""
    block = build()
    block.recompute = "block"
    seen = []
    block.mixer.in_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    x, residual = torch.randn(2, 1, 6, 8).unbind()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, total, _ = block(x, residual)
    block(x, residual)
    assert seen == [torch.bfloat16, torch.float32]
    assert torch.equal(total, x + residual)


def test_nothing_is_made_again_without_gradients() -> None:
    block = build()
    x = torch.randn(1, 6, 8)
    with torch.no_grad():
        wanted = block(x)
        block.recompute = "block"
        torch.testing.assert_close(block(x), wanted, rtol=0, atol=0)
