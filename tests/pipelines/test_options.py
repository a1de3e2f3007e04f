import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from dnamamba.errors import UsageError
from dnamamba.log import logger, write_run_record
from dnamamba.pipelines import options

HAS_MPS = torch.backends.mps.is_available()


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@click.command()
@options.output
@options.force
@options.resume
@options.seed
@options.device
@options.threads
@options.verbosity
def verb(**given: object) -> None:
    click.echo(json.dumps(given, default=str, sort_keys=True))


def call(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(verb, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    given: dict[str, object] = json.loads(result.output)
    return given


def test_defaults() -> None:
    assert call() == {
        "device": "auto",
        "force": False,
        "output": None,
        "resume": False,
        "seed": 0,
        "threads": options.available_threads(),
    }


def test_what_is_given() -> None:
    given = call("-o", "runs/x", "--force", "--seed", "7", "--device", "cpu", "-t", "3")
    assert given["output"] == "runs/x"
    assert (given["force"], given["seed"], given["device"], given["threads"]) == (True, 7, "cpu", 3)


@pytest.mark.parametrize("arguments", [["-t", "0"], ["--seed", "-1"], ["-q", "-v"], ["-v", "-q"]])
def test_wrong_usage(arguments: list[str]) -> None:
    assert CliRunner().invoke(verb, arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "level"),
    [([], logging.INFO), (["-q"], logging.WARNING), (["-v"], logging.DEBUG)],
)
def test_verbosity_is_set_by_the_call(arguments: list[str], level: int) -> None:
    logger.setLevel(logging.NOTSET)
    call(*arguments)
    assert logger.level == level


def test_devices() -> None:
    assert options.resolve_device("cpu") == torch.device("cpu")
    best = (
        "cuda"
        if torch.cuda.is_available()
        else "mps"
        if torch.backends.mps.is_available()
        else "cpu"
    )
    assert options.resolve_device("auto").type == best


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:x", "cpu:0", "", "CUDA"])
def test_no_such_device(text: str) -> None:
    with pytest.raises(UsageError, match="choose auto, cpu, mps, cuda or cuda:N"):
        options.resolve_device(text)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none() -> None:
    with pytest.raises(UsageError, match=r"--device cuda:1: no CUDA device .*take --device cpu"):
        options.resolve_device("cuda:1")


@pytest.mark.skipif(
    torch.backends.mps.is_available(), reason="needs a machine without an Apple GPU"
)
def test_mps_where_there_is_none() -> None:
    with pytest.raises(UsageError, match="--device mps: no Apple GPU; take --device cpu"):
        options.resolve_device("mps")


@pytest.mark.gpu
def test_cuda_devices_are_counted(cuda: torch.device) -> None:
    last = torch.cuda.device_count() - 1
    assert cuda.type == "cuda"
    assert options.resolve_device(f"cuda:{last}") == torch.device("cuda", last)
    with pytest.raises(UsageError, match=f"the last CUDA device is cuda:{last}"):
        options.resolve_device(f"cuda:{last + 1}")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    write_run_record(folder, "pretrain", {})
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "1").write_text("x")
    return folder


@pytest.mark.parametrize("flags", [{}, {"force": True}, {"resume": True}])
def test_a_new_or_empty_folder_will_do(tmp_path: Path, flags: dict[str, bool]) -> None:
    options.prepare_output(tmp_path / "new", **flags)
    assert not (tmp_path / "new").exists()
    options.prepare_output(tmp_path, **flags)
    (tmp_path / ".run.json.123.tmp").touch()  # what a killed write leaves
    options.prepare_output(tmp_path, **flags)


def test_an_existing_run_is_kept_unless_a_flag_says_otherwise(run: Path, tmp_path: Path) -> None:
    before = sorted(run.rglob("*"))
    with pytest.raises(UsageError, match=r"run: exists; --resume goes on .*--force replaces it"):
        options.prepare_output(run)
    options.prepare_output(run, resume=True)
    assert sorted(run.rglob("*")) == before
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    (run / "link").symlink_to(tmp_path / "elsewhere")
    options.prepare_output(run, force=True)
    assert list(run.iterdir()) == []
    assert (tmp_path / "elsewhere" / "kept").exists()


def make_home(folder: Path) -> None:
    (folder / "thesis.tex").write_text("years of work")


def make_other_program(folder: Path) -> None:
    (folder / "run.json").write_text('{"version": 1}')


def make_damaged(folder: Path) -> None:
    (folder / "run.json").write_text("{")


@pytest.mark.parametrize("make", [make_home, make_other_program, make_damaged])
@pytest.mark.parametrize("flags", [{"force": True}, {"resume": True}])
def test_what_is_no_run_is_never_touched(
    tmp_path: Path, make: Callable[[Path], None], flags: dict[str, bool]
) -> None:
    make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"holds files but no run \(no run\.json\)"):
        options.prepare_output(tmp_path, **flags)
    assert sorted(tmp_path.rglob("*")) == before


def test_flags_and_files_that_do_not_fit(run: Path) -> None:
    with pytest.raises(UsageError, match="give one of them"):
        options.prepare_output(run, force=True, resume=True)
    with pytest.raises(UsageError, match="is a file; choose a folder with -o"):
        options.prepare_output(run / "run.json", force=True)
