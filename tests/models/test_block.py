import pytest
import torch

from dnamamba.models.block import Block, RMSNorm
from dnamamba.models.mixers.mamba import Mamba


def build() -> Block:
    torch.manual_seed(0)
    block = Block(Mamba(d_model=8, d_state=4, d_conv=4, expand=2, dt_rank=1), 8, 1e-5)
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
