"""`dnamamba generate`."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dnamamba import cli
from dnamamba.alphabet import decode
from dnamamba.data.records import Record, read_records
from dnamamba.models import pretrained
from dnamamba.models.backbone import ModelConfig
from dnamamba.models.heads import LanguageModel
from dnamamba.pipelines import generate_job
from tests.pipelines.runs import one_line

Generate = Callable[..., list[Record]]


@pytest.fixture
def generate(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[Record]]:
    """Make sequences; what our own reader finds in the FASTA."""

    def run(*arguments: object, code: int = 0) -> list[Record]:
        call = ["generate", "-m", backbone, "--device", "cpu", "-t", "1", *arguments]
        assert cli.run(list(map(str, call))) == code
        captured = capsys.readouterr()
        fasta = tmp_path / "made.fa"
        fasta.write_text(captured.out)
        (tmp_path / "stderr").write_text(captured.err)
        return list(read_records(fasta)) if fasta.stat().st_size else []

    return run


@pytest.fixture
def prompts(tmp_path: Path, write_fasta: Callable[..., Path]) -> Path:
    return write_fasta(tmp_path / "p.fa", {"one": "NNACGTTgcaNNACGT" * 5, "two": "GATTACA"})


def letters(records: list[Record]) -> list[str]:
    return [decode(record.codes) for record in records]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 2) -> str:
    assert cli.run(["generate", "--device", "cpu", *map(str, arguments)]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1]


def test_sequences_are_fasta(generate: Generate, backbone: Path) -> None:
    made = generate("-n", "3", "--length", "150", "--seed", "5", "--temperature", "0.5")
    assert [record.name for record in made] == ["generated_1", "generated_2", "generated_3"]
    assert {len(record.codes) for record in made} == {150}
    assert len(set(letters(made))) == 3
    assert set("".join(letters(made))) == set("ACGT")
    about = "prompt=none length=150 seed=5 temperature=0.5 top_k=4 top_p=1 model="
    assert {record.description for record in made} == {about + backbone.name}


def test_lines_have_sixty_letters(backbone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["generate", "-m", str(backbone), "-n", "2", "--length", "130", "-t", "1"]
    assert cli.run([*call, "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert [len(line) for line in lines if not line.startswith(">")] == [60, 60, 10] * 2 + [0]


def test_a_model_alone_is_enough(generate: Generate) -> None:
    (record,) = generate()
    assert len(record.codes) == 1000


def test_the_same_seed_gives_the_same_sequences(generate: Generate) -> None:
    wanted = letters(generate("-n", "7", "--length", "70"))
    assert letters(generate("-n", "7", "--length", "70")) == wanted
    assert letters(generate("-n", "7", "--length", "70", "--batch", "3")) == wanted
    assert letters(generate("-n", "4", "--length", "70")) == wanted[:4]
    assert letters(generate("-n", "7", "--length", "70", "--seed", "1"))[0] != wanted[0]


def test_each_prompt_is_continued(generate: Generate, prompts: Path) -> None:
    arguments = ("--prompt", prompts, "-n", "3", "--length", "65")
    made = generate(*arguments)
    assert [record.name for record in made] == [f"generated_{i}" for i in range(1, 7)]
    names = [
        dict(field.split("=") for field in record.description.split())["prompt"] for record in made
    ]
    assert names == ["one"] * 3 + ["two"] * 3
    assert letters(generate(*arguments, "--batch", "2")) == letters(made)
    assert len(set(letters(made))) == 6


def test_a_prompt_is_read_without_n_and_case(
    generate: Generate, tmp_path: Path, write_fasta: Callable[..., Path]
) -> None:
    plain = write_fasta(tmp_path / "plain.fa", {"a": "ACGTTGCAACGT"})
    gapped = write_fasta(tmp_path / "gapped.fa", {"a": "NNACGTNtgcaACnGTN"})
    one, other = (
        letters(generate("--prompt", path, "--length", "50", "--temperature", "0"))
        for path in (plain, gapped)
    )
    assert one == other


def test_a_prompt_is_written_where_it_is_asked_for(generate: Generate, prompts: Path) -> None:
    arguments = ("--prompt", prompts, "--length", "65")
    alone = letters(generate(*arguments))
    whole = generate(*arguments, "--with-prompt")
    given = letters(list(read_records(prompts)))
    assert letters(whole) == [before + after for before, after in zip(given, alone, strict=True)]
    assert [record.description.split()[-1] for record in whole] == [
        "prompt_length=80",
        "prompt_length=7",
    ]


def test_a_prompt_may_come_from_stdin(
    generate: Generate, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = letters(generate("--prompt", prompts, "--length", "20"))
    stdin = SimpleNamespace(buffer=io.BytesIO(prompts.read_bytes()))
    monkeypatch.setattr("dnamamba.data.records.sys.stdin", stdin)
    assert letters(generate("--prompt", "-", "--length", "20")) == wanted


def test_a_prompt_is_read_once(
    generate: Generate, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    known = generate_job.read_prompt
    monkeypatch.setattr(
        generate_job, "read_prompt", lambda *given: (read.append(given), known(*given))[1]
    )
    generate("--prompt", prompts, "-n", "5", "--length", "5", "--batch", "2")
    assert len(read) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
def test_what_was_written_before_a_signal_is_whole(
    generate: Generate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
) -> None:
    wanted = letters(generate("-n", "6", "--length", "70", "--batch", "2"))
    grown = generate_job.generate
    calls = []

    def interrupted(*given: object, **more: object) -> object:
        calls.append(given)
        for part in grown(*given, **more):  # type: ignore[arg-type]
            yield part
            if len(calls) == 3:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(generate_job, "generate", interrupted)
    made = generate("-n", "6", "--length", "70", "--batch", "2", code=code)
    assert letters(made) == wanted[:4]
    said = (tmp_path / "stderr").read_text().splitlines()
    assert said[-1] == "stopped: 4 whole sequences were written"


def test_a_signal_while_writing_lets_the_batch_be_written(
    generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = generate_job.write_record

    def interrupted(header: str, pieces: object) -> None:
        os.kill(os.getpid(), signal.SIGINT) if header.startswith("generated_1 ") else None
        write(header, pieces)  # type: ignore[arg-type]

    monkeypatch.setattr(generate_job, "write_record", interrupted)
    assert len(generate("-n", "6", "--length", "70", "--batch", "2", code=130)) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--length", "0"], "not a whole number of 1 or more"),
        (["-n", "0"], "not a whole number of 1 or more"),
        (["--top-p", "0"], "top-p 0: give a share above 0 and up to 1"),
        (["--top-p", "1.5"], "top-p 1.5"),
        (["--top-k", "5"], "top-k 5: there are four bases; give 1 to 4"),
        (["--temperature", "-1"], "temperature -1: give 0 (the likeliest) or more"),
        (["--with-prompt"], "--with-prompt: there is no prompt"),
        (["--report", "x"], "--report: compares with real DNA; give --against GENOME"),
        (["--against", "x"], "--against: is for a report; give --report FOLDER"),
    ],
)
def test_values_that_do_not_fit_are_refused(
    backbone: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert said in refused(capsys, "-m", backbone, *arguments)


def test_no_model_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "-m MODEL: a model folder is wanted" in refused(capsys)
    assert "no such folder" in refused(capsys, "-m", tmp_path / "nowhere", code=1)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"symmetry": "shared"}])
def test_a_masked_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, object]
) -> None:
    settings = {"d_model": 16, "n_layer": 3, "objective": "masked", **options}
    pretrained.save(LanguageModel(ModelConfig(**settings)), tmp_path / "masked", "")  # type: ignore[arg-type]
    said = refused(capsys, "-m", tmp_path / "masked")
    assert "predicts masked bases" in said
    assert "dnamamba pretrain GENOME --objective next" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (">a\nMKVLE\n", "is this a protein?"),
        (">a\nACGT\n>b\nNNNN\n", "b has no base other than N to continue"),
        (">a\n>b\nACGT\n", "a has no base other than N"),
        ("", "is empty"),
        ("ACGT\n", "not FASTA"),
    ],
)
def test_prompts_that_cannot_be_continued_are_refused(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path = tmp_path / "prompt.fa"
    path.write_text(text)
    assert said in refused(capsys, "-m", backbone, "--prompt", path, code=1)


def test_a_full_disk_is_said(
    backbone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dnamamba.pipelines.generate_output.take_space", full)
    assert cli.run(["generate", "-m", str(backbone), "--device", "cpu"]) == 1
    assert "disk full while writing" in one_line(capsys)


PEAK = """
import sys
from dnamamba.cli import run
from dnamamba.log import peak_resident
run(sys.argv[1:])
print(peak_resident(), file=sys.stderr)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pretrained.save(LanguageModel(ModelConfig(d_model=16, n_layer=2)), tmp_path / "tiny", "")

    def peak(length: int) -> int:
        call = ["generate", "-q", "-m", tmp_path / "tiny", "--length", length, "-n", 4, "-t", 1]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *map(str, call), "--device", "cpu"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(done.stdout) > 4 * length
        return int(done.stderr.splitlines()[-1])

    # The states of all bases, 4 x 10,000 of 4 KiB, would take 160 MB.
    short, long = peak(1000), peak(10_000)
    assert long - short < 12e6
