"""Going back to a checkpoint, and remembering what to leave out."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from dnamamba.training.checkpoint import list_states, state_step
from dnamamba.training.rollback import ROLLBACKS, Checkpoints

SETTINGS = {"preset": "250k"}


def build(run: Path) -> tuple[nn.Module, Checkpoints]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, Checkpoints(run, model, torch.optim.AdamW(model.parameters()), SETTINGS)


def set_to(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with states after 3 and 6 steps, of weights 3 and 6."""
    model, checkpoints = build(tmp_path)
    for step in (3, 6):
        set_to(model, step)
        checkpoints.save(step)
    return tmp_path


def value(model: nn.Module) -> float:
    return float(next(model.parameters()).detach()[0, 0])


def steps(run: Path) -> list[int]:
    return [state_step(path) for path in list_states(run)]


@pytest.mark.parametrize(
    ("bad", "step", "left"),
    [(range(8, 9), 6, [6, 3]), (range(6, 7), 6, [6, 3]), (range(5, 12), 3, [3])],
    ids=["long after", "right after", "before the newest"],
)
def test_it_goes_back_to_before_the_steps(
    run: Path, bad: range, step: int, left: list[int]
) -> None:
    model, checkpoints = build(run)
    checkpoints.restore()
    set_to(model, torch.nan)
    assert checkpoints.roll_back(bad) == step
    assert value(model) == step
    assert steps(run) == left


def test_what_was_left_out_is_in_the_checkpoint_at_once_and_stays(run: Path) -> None:
    _, checkpoints = build(run)
    assert checkpoints.restore() == 6
    assert checkpoints.skipped == []
    checkpoints.roll_back(range(7, 8))
    _, resumed = build(run)
    assert resumed.restore() == 6
    assert resumed.skipped == [range(7, 8)]
    resumed.save(9)
    _, again = build(run)
    assert again.restore() == 9
    assert again.skipped == [range(7, 8)]


def test_without_a_state_before_nothing_changes(run: Path, tmp_path: Path) -> None:
    model, checkpoints = build(run)
    set_to(model, 1.0)
    assert checkpoints.roll_back(range(2, 8)) is None
    assert steps(run) == [6, 3]
    assert checkpoints.skipped == []
    _, nothing = build(tmp_path / "empty")
    assert nothing.restore() == 0
    assert nothing.roll_back(range(0, 1)) is None
    assert value(model) == 1.0


def test_rollbacks_are_counted_over_resumes(run: Path) -> None:
    for count in range(ROLLBACKS):
        _, checkpoints = build(run)
        checkpoints.restore()
        assert checkpoints.roll_back(range(7 + count, 8 + count)) == 6
    _, checkpoints = build(run)
    checkpoints.restore()
    assert checkpoints.roll_back(range(20, 21)) is None
    assert steps(run) == [6, 3]


def test_the_scale_of_the_loss_goes_back_as_well(tmp_path: Path) -> None:
    def of(scaler: GradScaler) -> Checkpoints:
        model = nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        return Checkpoints(tmp_path, model, optimizer, SETTINGS, scaler=scaler)

    before = GradScaler("cpu", init_scale=4.0, growth_interval=7)
    before.scale(torch.ones(()))
    of(before).save(3)
    after = GradScaler("cpu")
    assert of(after).restore() == 3
    assert after.state_dict() == before.state_dict()
    assert after.scale(torch.ones(())) == 4
