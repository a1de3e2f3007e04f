"""What is asked of the hub, which is not there: its functions are replaced."""

from pathlib import Path
from typing import Any

import pytest

from dnamamba.errors import CheckpointError
from dnamamba.models.hub import model_folder, push

hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Record what is asked; a repository's folder is tmp_path."""
    made: list[dict[str, Any]] = []

    def fetch(name: str, **options: Any) -> str:
        made.append({"fetch": name, **options})
        return str(tmp_path)

    def create(name: str, **options: Any) -> str:
        made.append({"create": name, **options})
        return f"https://hub/{name}"

    def upload(**options: Any) -> None:
        made.append({"upload": options.pop("repo_id"), **options})

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    monkeypatch.setattr(hub, "create_repo", create)
    monkeypatch.setattr(hub, "upload_folder", upload)
    return made


def test_pickles_are_fetched_only_where_nothing_else_is(
    calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").touch()
    assert model_folder("owner/name") == tmp_path
    assert [call["allow_patterns"] for call in calls] == [["*.json", "*.safetensors", "README.md"]]
    (tmp_path / "model.safetensors").unlink()
    model_folder("owner/name")
    assert calls[-1]["allow_patterns"][-2:] == ["*.bin", "*.ckpt"]


def test_a_folder_is_not_asked_for(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    assert model_folder(tmp_path) == tmp_path
    assert model_folder(str(tmp_path)) == tmp_path
    assert model_folder(Path("owner/name")) == Path("owner/name")
    assert not calls


def test_push_sends_the_model_and_nothing_else(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    assert push(tmp_path, "owner/name", private=True) == "https://hub/owner/name"
    create, upload = calls
    assert create == {"create": "owner/name", "private": True, "exist_ok": True}
    assert (upload["upload"], upload["folder_path"]) == ("owner/name", tmp_path)
    wanted = ["config.json", "model.safetensors", "README.md", "tokenizer*.json"]
    assert upload["allow_patterns"] == wanted


def test_what_the_hub_refuses_is_said(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(name: str, **_: Any) -> str:
        raise OSError("401 Unauthorized\nmore")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(CheckpointError, match=r"refused \(401 Unauthorized\); hf auth login"):
        push(tmp_path, "owner/name")
    with pytest.raises(CheckpointError, match=r"name: owner/name is wanted"):
        push(tmp_path, "name")
    assert not calls
