"""RMSNorm against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from dnamamba.errors import UsageError
from dnamamba.kernels import rms_norm


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_equals_pytorch_in_full_precision(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (10 * torch.randn(2, 7, 12, generator=generator)).to(dtype)
    weight = torch.randn(12, generator=generator)
    wanted = F.rms_norm(x.double(), (12,), weight.double(), 1e-5).to(dtype)
    got = rms_norm(x, weight)
    assert got.dtype == dtype
    torch.testing.assert_close(got, wanted)


def test_a_zero_row_stays_finite() -> None:
    x = torch.zeros(1, 3, requires_grad=True)
    y = rms_norm(x, torch.ones(3))
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(y, torch.zeros(1, 3))
    assert x.grad.isfinite().all()


def test_a_wrong_weight_is_named() -> None:
    with pytest.raises(UsageError, match=r"weight has shape \(4,\)"):
        rms_norm(torch.ones(2, 3), torch.ones(4))
