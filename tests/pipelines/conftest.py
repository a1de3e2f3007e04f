"""Small genomes, models and runs that several files of tests share."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dnamamba import cli
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.models.pretrained import model_card, save
from dnamamba.pipelines import pretrain_run
from tests.pipelines.runs import arguments


@pytest.fixture(scope="session")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three contigs of random bases, some soft-masked, some N."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("genome") / "small.fa"
    with path.open("w") as handle:
        for name, length in (("chr1", 6000), ("chr2", 3000), ("chr3", 3000)):
            bases = "".join(rng.choices("ACGTacgtN", weights=[9, 6, 6, 9, 3, 2, 2, 3, 1], k=length))
            handle.write(f">{name}\n{bases}\n")
    return path


@pytest.fixture(scope="session")
def straight(genome: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has disturbed."""
    output = tmp_path_factory.mktemp("runs") / "straight"
    assert cli.run(arguments(genome, output)) == 0
    return output


@pytest.fixture(scope="session")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three species of different composition, in twelve homologous records each."""
    folder = tmp_path_factory.mktemp("species")
    lines = ["species,fasta"]
    for number, (name, weights) in enumerate(
        {"ape": [3, 1, 1, 3], "bear": [1, 3, 3, 1], "cow": [1, 1, 1, 1]}.items()
    ):
        rng = random.Random(number)
        with (folder / f"{name}.fa").open("w") as handle:
            for i in range(12):
                bases = "".join(rng.choices("ACGT", weights, k=1000))
                handle.write(
                    f">{name}{i} own:1-1000 ref:{1000 * i + 1}-{1000 * i + 1000}\n{bases}\n"
                )
        lines.append(f"{name},{name}.fa")
    path = folder / "three.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small language model that nothing has trained."""
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(d_model=16, n_layer=2))
    folder = tmp_path_factory.mktemp("models") / "small"
    save(model, folder, model_card(model, name="small", data=[], metrics={}))
    return folder


@pytest.fixture(autouse=True)
def _threads_restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a signal arrive while a step is taken, in the run of a verb."""

    def stop(step: int, number: int, verb: ModuleType = pretrain_run) -> None:
        feed = verb.feed

        def stopping(windows: object, steps: range, *rest: object, **more: object) -> object:
            for at, codes in zip(steps, feed(windows, steps, *rest, **more), strict=True):
                yield codes
                if at == step:
                    os.kill(os.getpid(), number)

        monkeypatch.setattr(verb, "feed", stopping)

    return stop


@pytest.fixture
def halted(
    genome: Path,
    tmp_path: Path,
    stop_at: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A run that was stopped after five steps."""
    output = tmp_path / "halted"
    stop_at(4, signal.SIGTERM)
    assert cli.run(arguments(genome, output)) == 0
    monkeypatch.undo()
    return output


@pytest.fixture
def embed(genome: Path, backbone: Path, tmp_path: Path) -> Callable[..., Path]:
    """Embed the genome into a file; `-o` and `-m` may be given again."""

    def run(*arguments: str | Path, name: str = "out.h5ad", code: int = 0) -> Path:
        output = tmp_path / name
        call = ["embed", genome, "-m", backbone, "-o", output, "--device", "cpu", *arguments]
        assert cli.run(list(map(str, call))) == code
        return output

    return run
