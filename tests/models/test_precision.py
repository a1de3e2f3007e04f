import torch
from torch import nn

from dnamamba.models.precision import autocast_to

CPU = torch.device("cpu")


def test_bf16_is_a_context_of_its_own() -> None:
    linear = nn.Linear(2, 2)
    with autocast_to("bf16", CPU)():
        assert linear(torch.ones(1, 2)).dtype == torch.bfloat16
    with autocast_to("fp32", CPU)():
        assert linear(torch.ones(1, 2)).dtype == torch.float32
