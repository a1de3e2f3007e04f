import pytest
import torch
from torch import nn

from dnamamba.errors import UsageError
from dnamamba.models.precision import UNSCALED, autocast_to, require_precision, scaler_for

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_each_is_a_context_of_its_own(precision: str, dtype: torch.dtype) -> None:
    linear = nn.Linear(2, 2)
    with autocast_to(precision, CPU)():
        assert linear(torch.ones(1, 2)).dtype == dtype
    with autocast_to("fp32", CPU)():
        assert linear(torch.ones(1, 2)).dtype == torch.float32


def test_fp16_alone_is_scaled() -> None:
    assert scaler_for("bf16", CPU) is scaler_for("fp32", CPU) is UNSCALED
    loss = torch.ones(())
    assert UNSCALED.scale(loss) is loss
    assert scaler_for("fp16", CPU).scale(loss) == 2**16


def test_fp16_is_refused_where_gradients_cannot_be_scaled() -> None:
    with pytest.raises(UsageError, match="precision fp16: trains on cuda and cpu; on mps take"):
        require_precision("fp16", torch.device("mps"))
    require_precision("fp32", torch.device("mps"))
    require_precision("fp16", CPU)
