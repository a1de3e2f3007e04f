import io
import logging
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from dnamamba.errors import CheckpointError, UsageError
from dnamamba.training.checkpoint import (
    FOLDER,
    list_states,
    remove_leftovers,
    restore_state,
    write_state,
)

SETTINGS = {"preset": "250k", "length": 64}


def build(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2, bias=False))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        inputs = torch.arange(3.0)[None] + step
        model(inputs).square().sum().backward()
        optimizer.step()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with states after 3 and 6 steps."""
    model, optimizer = build()
    for step in (3, 6):
        train(model, optimizer, 3)
        write_state(tmp_path, step, model, optimizer, SETTINGS)
    return tmp_path


def test_training_goes_on_bit_for_bit(run: Path) -> None:
    straight, optimizer = build()
    train(straight, optimizer, 3)
    train(straight, optimizer, 3)
    resumed, restored = build(seed=1)
    assert restore_state(run, resumed, restored, SETTINGS)[0] == 6
    train(straight, optimizer, 4)
    train(resumed, restored, 4)
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_without_states_starts_at_zero(tmp_path: Path) -> None:
    model, optimizer = build()
    before = [parameter.clone() for parameter in model.parameters()]
    assert restore_state(tmp_path, model, optimizer, SETTINGS) == (0, {})
    assert all(map(torch.equal, before, model.parameters()))


def test_the_last_two_states_are_kept(run: Path) -> None:
    model, optimizer = build()
    write_state(run, 9, model, optimizer, SETTINGS)
    assert [path.stem for path in list_states(run)] == ["step-000000009", "step-000000006"]


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def damage_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5])


def damage_byte(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def damage_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = [damage_cut, damage_header, damage_byte, damage_zeros]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_gives_way_to_the_one_before(
    run: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    newest = list_states(run)[0]
    assert callable(damage)
    damage(newest)
    model, optimizer = build()
    with caplog.at_level(logging.WARNING, "dnamamba"):
        assert restore_state(run, model, optimizer, SETTINGS)[0] == 3
    assert newest.name in caplog.text


def test_with_no_whole_state_left_the_error_names_file_and_cure(run: Path) -> None:
    for path in list_states(run):
        damage_cut(path)
    model, optimizer = build()
    with pytest.raises(CheckpointError, match=r"step-000000006\.safetensors: damaged.*--resume"):
        restore_state(run, model, optimizer, SETTINGS)


def zipped() -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    return raw.getvalue()


@pytest.mark.parametrize("name", ["step-000000009.safetensors", "step-000000009.pt"])
@pytest.mark.parametrize("content", [zipped(), b"\x80\x04\x95."], ids=["zip", "pickle"])
def test_a_pickle_is_refused(run: Path, name: str, content: bytes) -> None:
    (run / FOLDER / name).write_bytes(content)
    model, optimizer = build()
    with pytest.raises(CheckpointError, match="pickle"):
        restore_state(run, model, optimizer, SETTINGS)


def test_other_settings_are_refused_by_name(run: Path) -> None:
    model, optimizer = build()
    with pytest.raises(UsageError, match=r"preset 250k.* 1\.4m"):
        restore_state(run, model, optimizer, {**SETTINGS, "preset": "1.4m"})


def test_another_model_is_refused_and_left_alone(run: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(CheckpointError, match=r"0\.weight is of shape \[5, 3\]"):
        restore_state(run, model, torch.optim.AdamW(model.parameters()), SETTINGS)
    assert all(map(torch.equal, before, model.parameters()))


def test_leftovers_of_a_killed_writer_are_ignored_and_removed(run: Path) -> None:
    leftover = run / FOLDER / ".step-000000009.safetensors.123.tmp"
    leftover.write_bytes(b"half")
    model, optimizer = build()
    assert restore_state(run, model, optimizer, SETTINGS)[0] == 6
    remove_leftovers(run)
    assert not leftover.exists()
    assert len(list_states(run)) == 2
