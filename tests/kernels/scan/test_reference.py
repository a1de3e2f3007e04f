"""The reference against closed forms."""

import torch

from dnamamba.kernels import selective_scan


def test_constant_inputs_follow_a_geometric_series() -> None:
    length, delta, a = 12, 0.3, -0.7
    ones = torch.ones(1, length, 1, dtype=torch.float64)
    y = selective_scan(
        ones, delta * ones, torch.tensor([[a]]).double(), ones, ones, backend="reference"
    )
    q = torch.exp(torch.tensor(delta * a, dtype=torch.float64))
    expected = delta * (1 - q ** torch.arange(1, length + 1)) / (1 - q)
    torch.testing.assert_close(y[0, :, 0], expected)


def test_delta_of_zero_keeps_the_state() -> None:
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(2, 3, 4, generator=generator)
    u, B, C = (torch.randn(2, 6, n, generator=generator) for n in (3, 4, 4))
    _, last = selective_scan(
        u,
        torch.zeros(2, 6, 3),
        -torch.ones(3, 4),
        B,
        C,
        initial_state=state,
        return_last_state=True,
        backend="reference",
    )
    assert torch.equal(last, state)


def test_skip_and_gate() -> None:
    u = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(1, 5, 3)
    D, z = torch.tensor([2.0, -1.0]), torch.full((1, 5, 2), 0.5)
    y = selective_scan(u, u * 0, -torch.ones(2, 3), zero, zero, D=D, z=z, backend="reference")
    torch.testing.assert_close(y, D * u * 0.5 * torch.sigmoid(torch.tensor(0.5)))
