"""How close the results of a fused op are to the truth, each by its own type."""

import torch
from torch import Tensor

ERROR = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}
"""Allowed in the norm of a result, by its type. Half types round what fp32 computed, to the nearest
on a GPU and towards zero in Triton's interpreter: one unit in the last place."""


def assert_close(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Hold each result to the precision of its own type."""
    assert got.keys() == wanted.keys()
    errors = {
        name: float((got[name].double() - value.double()).norm() / value.norm().clamp_min(1e-30))
        / ERROR[got[name].dtype]
        for name, value in wanted.items()
    }
    assert max(errors.values()) <= 1, errors
