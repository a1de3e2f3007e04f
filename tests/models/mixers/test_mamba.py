import math

import pytest
import torch
import torch.nn.functional as F

from dnamamba.errors import UsageError
from dnamamba.models.mixers.mamba import BiMamba, CausalConv1d, Mamba, MambaState, SelectiveSSM

WIDTHS = {"d_model": 12, "d_state": 4, "d_conv": 4, "expand": 2, "dt_rank": 3}


def double(kind: type, seed: int = 0, **options: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    mixer = kind(**{**WIDTHS, **options}).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return mixer


def by_hand(mixer: Mamba, x: torch.Tensor) -> torch.Tensor:
    """Algorithm 2 and the block of the paper, position by position and straight from its text."""
    rank, states = mixer.dt_proj.in_features, mixer.A_log.shape[1]
    u, z = F.linear(x, mixer.in_proj.weight).chunk(2, dim=-1)
    width = mixer.conv1d.weight.shape[-1]
    padded = F.pad(u.transpose(1, 2), (width - 1, 0))
    u = F.conv1d(padded, mixer.conv1d.weight, mixer.conv1d.bias, groups=u.shape[-1])
    u = F.silu(u).transpose(1, 2)
    dt, B, C = F.linear(u, mixer.x_proj.weight).split([rank, states, states], dim=-1)
    delta = F.softplus(F.linear(dt, mixer.dt_proj.weight, mixer.dt_proj.bias))
    A = -torch.exp(mixer.A_log)
    h = torch.zeros(x.shape[0], *A.shape, dtype=x.dtype)
    ys = []
    for t in range(x.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * A)
        h = decay * h + delta[:, t, :, None] * B[:, t, None, :] * u[:, t, :, None]
        ys.append((h * C[:, t, None, :]).sum(-1) + mixer.D * u[:, t])
    return F.linear(torch.stack(ys, dim=1) * F.silu(z), mixer.out_proj.weight)


@pytest.mark.parametrize("length", [1, 3, 4, 40])
@pytest.mark.parametrize("options", [{}, {"d_conv": 1}, {"d_conv": 2, "expand": 3}, {"d_state": 1}])
def test_mamba_is_the_papers_block(length: int, options: dict[str, int]) -> None:
    mixer = double(Mamba, **options)
    x = torch.randn(2, length, 12, dtype=torch.float64)
    y, state = mixer(x)
    torch.testing.assert_close(y, by_hand(mixer, x))
    assert state is None


def test_parameters_are_named_and_shaped_as_published() -> None:
    shapes = {name: tuple(p.shape) for name, p in Mamba(**WIDTHS).named_parameters()}
    assert shapes == {
        "in_proj.weight": (48, 12),
        "conv1d.weight": (24, 1, 4),
        "conv1d.bias": (24,),
        "x_proj.weight": (11, 24),
        "dt_proj.weight": (24, 3),
        "dt_proj.bias": (24,),
        "A_log": (24, 4),
        "D": (24,),
        "out_proj.weight": (12, 24),
    }


def test_initialisation_follows_the_paper() -> None:
    torch.manual_seed(0)
    ssm = SelectiveSSM(d_inner=4096, d_state=16, d_conv=4, dt_rank=9)
    expected = torch.log(torch.arange(1.0, 17)).expand(4096, 16)
    torch.testing.assert_close(ssm.A_log.detach(), expected)
    assert (ssm.D == 1).all()
    delta = F.softplus(ssm.dt_proj.bias.detach())
    assert 0.999e-3 < delta.min() < 1.01e-3
    assert 0.099 < delta.max() < 0.1001
    log = (delta.log() - math.log(1e-3)) / math.log(100)
    assert log.mean().item() == pytest.approx(0.5, abs=0.02)
    assert log.std().item() == pytest.approx(12**-0.5, abs=0.02)
    bound = 9**-0.5
    assert ssm.dt_proj.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert ssm.dt_proj.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    for taps in (ssm.conv1d.weight, ssm.conv1d.bias):
        assert taps.abs().max().item() == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("cut", [1, 2, 3, 10, 29])
@pytest.mark.parametrize("reverse", [False, True])
def test_state_handed_over_equals_the_whole(cut: int, reverse: bool) -> None:
    mixer = double(Mamba)
    x = torch.randn(2, 30, 12, dtype=torch.float64)
    whole, last = mixer(x, return_state=True, reverse=reverse)
    parts = [x[:, :cut], x[:, cut:]]
    first, second = reversed(parts) if reverse else parts
    y1, state = mixer(first, return_state=True, reverse=reverse)
    y2, state = mixer(second, state, return_state=True, reverse=reverse)
    torch.testing.assert_close(torch.cat([y2, y1] if reverse else [y1, y2], dim=1), whole)
    torch.testing.assert_close(tuple(state), tuple(last))


@pytest.mark.parametrize("d_conv", [1, 2, 4])
def test_step_equals_forward(d_conv: int) -> None:
    mixer = double(Mamba, d_conv=d_conv)
    x = torch.randn(3, 20, 12, dtype=torch.float64)
    y, last = mixer(x, return_state=True)
    state = mixer.initial_state(3, dtype=torch.float64)
    for t in range(20):
        step, state = mixer.step(x[:, t], state)
        torch.testing.assert_close(step, y[:, t])
    torch.testing.assert_close(tuple(state), tuple(last))


def test_the_convolution_makes_a_state_only_if_asked() -> None:
    conv, x = CausalConv1d(6, 4), torch.randn(2, 9, 6)
    assert conv(x)[1] is None
    assert torch.equal(conv(x, return_state=True)[1], x[:, -3:])


def test_gradients_reach_the_state() -> None:
    mixer = double(Mamba)
    x = torch.randn(1, 9, 12, dtype=torch.float64, requires_grad=True)
    mixer(x)[0].sum().backward()
    whole, x.grad = x.grad.clone(), None
    y1, state = mixer(x[:, :5], return_state=True)
    y2, _ = mixer(x[:, 5:], state)
    (y1.sum() + y2.sum()).backward()
    torch.testing.assert_close(x.grad, whole)


def test_reverse_is_flip_forward_flip() -> None:
    mixer = double(Mamba)
    x = torch.randn(2, 13, 12, dtype=torch.float64)
    torch.testing.assert_close(mixer(x, reverse=True)[0], mixer(x.flip(1))[0].flip(1))


def test_state_is_fp32_and_small() -> None:
    state = Mamba(**WIDTHS).initial_state(5, dtype=torch.bfloat16)
    assert isinstance(state, MambaState)
    assert state.conv.shape == (5, 3, 24)
    assert state.conv.dtype == torch.bfloat16
    assert state.scan.shape == (5, 24, 4)
    assert state.scan.dtype == torch.float32


def test_projections_are_called_as_modules() -> None:
    """So that an adapter or a quantised layer put in their place is obeyed."""
    mixer = double(Mamba)
    called = []
    for name in ("in_proj", "x_proj", "dt_proj", "out_proj"):
        getattr(mixer, name).register_forward_hook(lambda *_, name=name: called.append(name))
    x = torch.randn(1, 4, 12, dtype=torch.float64)
    mixer(x)
    mixer.step(x[:, 0], mixer.initial_state(1, dtype=torch.float64))
    assert called == ["in_proj", "x_proj", "dt_proj", "out_proj"] * 2


def one_way(mixer: BiMamba, direction: SelectiveSSM) -> Mamba:
    alone = Mamba(**WIDTHS).double()
    shared = {f"{k}.weight": getattr(mixer, k).weight for k in ("in_proj", "out_proj")}
    alone.load_state_dict({**direction.state_dict(), **shared})
    return alone


def test_bimamba_is_the_sum_of_two_mixers_that_share_projections() -> None:
    mixer = double(BiMamba)
    x = torch.randn(2, 17, 12, dtype=torch.float64)
    ahead = one_way(mixer, mixer.ahead)(x)[0]
    back = one_way(mixer, mixer.back)(x.flip(1))[0].flip(1)
    torch.testing.assert_close(mixer(x)[0], ahead + back)
    swapped = one_way(mixer, mixer.ahead)(x.flip(1))[0].flip(1) + one_way(mixer, mixer.back)(x)[0]
    torch.testing.assert_close(mixer(x, reverse=True)[0], swapped)


def test_bimamba_has_no_state() -> None:
    mixer = BiMamba(**WIDTHS)
    x = torch.randn(1, 4, 12)
    with pytest.raises(UsageError, match="bidirectional"):
        mixer(x, return_state=True)
    with pytest.raises(UsageError, match="bidirectional"):
        mixer.step(x[:, 0], None)
    with pytest.raises(UsageError, match="bidirectional"):
        mixer.initial_state(1)
