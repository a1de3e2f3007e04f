import importlib.util
import math
from pathlib import Path

import pytest

from dnamamba.errors import DnamambaError, UsageError
from dnamamba.training.events import EventFile, require_tensorboard
from tests.training.event_files import shown

pytest.importorskip("tensorboardX", reason="needs tensorboardX")


def test_scalars_are_on_disk_at_once(tmp_path: Path) -> None:
    events = EventFile(tmp_path / "tensorboard", 0)
    events.add(1, {"train_bits": 2.0, "lr": 0.5})
    events.add(2, {"train_bits": math.nan, "lr": 0.25})
    assert shown(tmp_path / "tensorboard") == {"train_bits": {1: 2.0}, "lr": {1: 0.5, 2: 0.25}}


def test_a_later_file_takes_back_the_steps_after_its_own(tmp_path: Path) -> None:
    for start, value in ((0, 1.0), (2, 2.0), (0, 3.0), (3, 4.0)):
        events = EventFile(tmp_path, start)
        for step in range(start + 1, start + 5):
            events.add(step, {"bits": value})
    assert len(list(tmp_path.iterdir())) == 4
    assert shown(tmp_path) == {"bits": {1: 3, 2: 3, 3: 3, 4: 4, 5: 4, 6: 4, 7: 4}}


def test_what_is_missing_is_told_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    require_tensorboard()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'dnamamba\[tensorboard\]'"):
        require_tensorboard()


def test_a_full_disk_is_told_in_a_line(tmp_path: Path) -> None:
    events = EventFile(tmp_path, 0)
    (path,) = tmp_path.iterdir()
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(DnamambaError, match=rf"^disk full while writing {path}"):
        events.add(1, {"bits": 1.0})
    (tmp_path / "file").touch()
    with pytest.raises(DnamambaError, match="file"):
        EventFile(tmp_path / "file", 0)
