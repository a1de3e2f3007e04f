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


def test_block_adds_the_mixer_of_the_norm() -> None:
    block = build()
    x = torch.randn(2, 9, 8)
    normed = x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5) * block.norm.weight
    torch.testing.assert_close(block(x)[0], x + block.mixer(normed)[0])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_norm_has_unit_mean_square(scale: float) -> None:
    y = RMSNorm(64, eps=1e-12)(scale * torch.randn(5, 64))
    torch.testing.assert_close(y.square().mean(-1), torch.ones(5))


def test_residual_stays_fp32_under_autocast() -> None:
    block = build()
    seen = []
    block.mixer.out_proj.register_forward_hook(lambda _, __, y: seen.append(y.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = block(torch.randn(1, 6, 8), return_state=True)
        stepped, after = block.step(torch.randn(1, 8), state)
    assert seen == [torch.bfloat16] * 2
    assert y.dtype == stepped.dtype == torch.float32
    assert state.scan.dtype == after.scan.dtype == torch.float32


def test_residual_stays_fp32_where_weights_are_bf16() -> None:
    block = build().bfloat16()
    assert block(torch.randn(1, 6, 8))[0].dtype == torch.float32


def test_step_equals_forward() -> None:
    block = build()
    x = torch.randn(2, 7, 8)
    y, last = block(x, return_state=True)
    state = block.mixer.initial_state(2)
    for t in range(7):
        step, state = block.step(x[:, t], state)
        torch.testing.assert_close(step, y[:, t])
    torch.testing.assert_close(tuple(state), tuple(last))
