import errno
import hashlib
import os
from pathlib import Path

import pytest

from dnamamba.errors import DnamambaError, InputError
from dnamamba.files import (
    atomic_folder,
    atomic_path,
    describe_os_error,
    require_file,
    sha256,
    take_space,
    write_text,
)


def test_atomic_path_shows_the_old_file_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.txt"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_atomic_path_leaves_the_old_file_after_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_folder_replaces_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for names in (["a", "b"], ["b", "c"]):
        with atomic_folder(path) as temporary:
            for name in names:
                (temporary / name).write_text(name)
            assert not path.exists() or {file.name for file in path.iterdir()} == {"a", "b"}
        assert {file.name for file in path.iterdir()} == set(names)
    assert list(tmp_path.iterdir()) == [path]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o777 & ~mask


def test_atomic_folder_leaves_nothing_after_a_fault(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "a").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DnamambaError, match=r"disk full while writing .*folder: free some space"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "disk full while writing x: free some space"),
        (errno.EACCES, "no permission for x: choose another place"),
        (errno.EROFS, "no permission for x"),
        (errno.ENOENT, "x: no such file"),
        (errno.EIO, "x: Input/output error"),
    ],
)
def test_system_faults_in_the_users_terms(number: int, message: str) -> None:
    error = describe_os_error(OSError(number, os.strerror(number)), Path("x"))
    assert str(error).startswith(message)
    assert "\n" not in str(error)


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)) * 1000)
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_require_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(InputError, match="x: no such file"):
        require_file(path)
    with pytest.raises(InputError, match="is a folder, and a file is wanted"):
        require_file(tmp_path)
    path.touch()
    assert require_file(path) == path


def test_space_is_taken_or_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_space(tmp_path / "taken", 1000)
    assert (tmp_path / "taken").read_bytes() == bytes(1000)
    take_space(tmp_path / "none", 0)
    assert (tmp_path / "none").stat().st_size == 0

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        take_space(tmp_path / "full", 1000)
    assert not (tmp_path / "full").exists()
