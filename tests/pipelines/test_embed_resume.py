"""Embedding jobs that are broken off, and memory that does not suffice."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dnamamba.inference.embed import Embedder
from tests.pipelines.runs import read_h5ad

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
Embed = Callable[..., Path]


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Let a signal come, or the process die, when so many passes of a model have been made."""

    def stop(passes: int, number: int) -> None:
        forward = Embedder._forward
        made = 0

        def counting(self: Embedder, *arguments: Any, **more: Any) -> Any:
            nonlocal made
            made += 1
            if made == passes and number == signal.SIGKILL:
                raise SystemExit(number)
            if made == passes:
                os.kill(os.getpid(), number)
            return forward(self, *arguments, **more)

        monkeypatch.setattr(Embedder, "_forward", counting)

    return stop


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("out.h5ad", ("--window", "100", "--batch", "1")),
        ("out.h5ad", ("--stream", "--window", "100", "--rc", "average")),
        ("out.h5ad", ("--pool", "max")),
        ("out.h5", ("--pool", "none", "--rc", "concat")),
    ],
    ids=["windows", "stream", "contigs", "bases"],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_job_goes_on_where_it_was(
    embed: Embed,
    name: str,
    more: tuple[str, ...],
    number: int,
    stop_after: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = {"cpu": 64}
    monkeypatch.setattr("dnamamba.inference.embed.BATCH_BASES", small)
    straight = embed(*more, name=name)
    halted = straight.with_name(f"halted{straight.suffix}")
    stop_after(100, number)
    monkeypatch.setattr("dnamamba.pipelines.embed_job.SAVE_SECONDS", 0)
    if number == signal.SIGKILL:
        with pytest.raises(SystemExit):
            embed(*more, name=halted.name)
    else:
        embed(*more, name=halted.name, code=130 if number == signal.SIGINT else 0)
        assert "the same command with --resume goes on" in capsys.readouterr().err
    assert not halted.exists()
    made = 0
    monkeypatch.undo()
    monkeypatch.setattr("dnamamba.inference.embed.BATCH_BASES", small)
    forward = Embedder._forward

    def counting(self: Embedder, *arguments: Any, **rest: Any) -> Any:
        nonlocal made
        made += 1
        return forward(self, *arguments, **rest)

    monkeypatch.setattr(Embedder, "_forward", counting)
    embed(*more, "--resume", name=halted.name)
    assert halted.read_bytes() == straight.read_bytes()
    assert not list(halted.parent.glob("*.part"))
    with h5py.File(halted) as file:
        assert "values" in file or "X" in file
    passes = made
    embed(*more, "--force", name=halted.name)
    assert made - passes > passes + 60  # what had been done was not done again


def test_another_job_is_not_gone_on_with(
    embed: Embed,
    stop_after: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop_after(2, signal.SIGTERM)
    output = embed("--window", "100", "--batch", "2")
    monkeypatch.undo()
    embed("--window", "100", code=2)
    assert "--resume goes on with it, --force starts anew" in capsys.readouterr().err
    embed("--window", "200", "--resume", code=2)
    assert "begun with another window, windows" in capsys.readouterr().err
    embed("--window", "100", "--rc", "concat", "--resume", code=2)
    assert "begun with another rc" in capsys.readouterr().err
    embed("--window", "200", "--force")
    assert read_h5ad(output).obs["end"].iloc[0] == 200


def test_batches_shrink_until_they_fit(
    embed: Embed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = read_h5ad(embed("--window", "1000"))
    forward = Embedder._forward

    def short_of_memory(self: Embedder, codes: NDArray[np.uint8], *rest: Any, **more: Any) -> Any:
        if codes.size > 2000:
            raise torch.OutOfMemoryError
        return forward(self, codes, *rest, **more)

    monkeypatch.setattr(Embedder, "_forward", short_of_memory)
    found = read_h5ad(embed("--window", "1000", name="small.h5ad"))
    np.testing.assert_allclose(found.X, wanted.X, **CLOSE)
    assert "out of memory: on with 4,096 bases at once" in capsys.readouterr().err


def test_memory_that_never_suffices_is_said(
    embed: Embed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def short_of_memory(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Embedder, "_forward", short_of_memory)
    embed("--window", "1000", code=1)
    assert "out of memory: give a smaller --batch" in capsys.readouterr().err
