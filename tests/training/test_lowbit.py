"""Moments in 8 bits: beside those in fp32, and through a checkpoint."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from dnamamba.training.checkpoint import restore_state, write_state
from dnamamba.training.optimizer import OptimizerConfig, build_optimizer

pytest.importorskip("torchao")

CONFIG = OptimizerConfig(lr=1e-2)


def build(device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    # One tensor of 4,096 numbers, one of as many that blocks of 256 do not fit, and small ones.
    return nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 65), nn.Linear(65, 3)).to(device)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> float:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(8, 64, generator=generator).to(next(model.parameters()).device)
    loss = (model(x) - x[:, :3]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = 1e-2 / (1 + number)
    optimizer.step()
    return loss.item()


def check(device: torch.device, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No compiler is asked for.
    monkeypatch.setenv("CC", "/nowhere")
    monkeypatch.setenv("CXX", "/nowhere")
    model = build(device)
    other = copy.deepcopy(model)
    low, exact = build_optimizer(model, CONFIG, 8), build_optimizer(other, CONFIG)
    for number in range(6):
        assert step(model, low, number) == pytest.approx(step(other, exact, number), rel=0.02)
    large, uneven = model[0].weight, model[1].weight
    kept = low.state_dict()["state"]
    assert all(type(value) is torch.Tensor for each in kept.values() for value in each.values())
    dtypes = {name: value.dtype for name, value in kept[0].items()}
    assert dtypes["exp_avg_codes"] == dtypes["exp_avg_sq_codes"] == torch.uint8
    assert low.state[large]["exp_avg"].codes.device.type == device.type
    assert type(low.state[uneven]["exp_avg"]) is torch.Tensor

    write_state(folder, 6, model, low, {})
    again = build(device)
    resumed = build_optimizer(again, CONFIG, 8)
    assert restore_state(folder, again, resumed, {})[0] == 6
    for number in range(6, 9):
        assert step(again, resumed, number) == step(model, low, number)
    for here, there in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(here, there)


def test_it_learns_as_in_fp32_and_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(torch.device("cpu"), tmp_path, monkeypatch)


@pytest.mark.gpu
def test_it_resumes_exactly_on_a_gpu(
    cuda: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(cuda, tmp_path, monkeypatch)
