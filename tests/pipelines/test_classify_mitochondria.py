"""A smoke test on real sequence: five mitochondria are told apart when all was learnt by heart.

Each mitochondrion is on all sides, so this says that the parts fit together on real genomes, at
several lengths and on both strands, and nothing of what a classifier is worth.
"""

from pathlib import Path

import pytest
import torch

from dnamamba import cli
from dnamamba.alphabet import decode, reverse_complement
from dnamamba.data.records import read_records
from dnamamba.pipelines.classify_predict import predict

SPECIES = ("human", "chimpanzee", "bonobo", "gorilla", "orangutan")
SIDES = ("train", "valid", "test")
LONGEST = 16384


@pytest.fixture(scope="module")
def run(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe on the hidden states of a model that nothing has trained."""
    folder = tmp_path_factory.mktemp("mitochondria")
    genomes = samples / "great_apes_mt.fa.gz"
    lines = [f"{name},{genomes},{name}_mt,{side}" for name in SPECIES for side in SIDES]
    sheet = folder / "learnt_by_heart.csv"
    sheet.write_text("\n".join(["species,fasta,region,split", *lines]) + "\n")
    command = [
        *("classify", "--species", str(sheet), "--allow-overlap", "-o", str(folder / "run")),
        *("--freeze", "--preset", "250k", "--length", str(LONGEST), "--head", "mean"),
        *("--device", "cpu", "-t", "1"),
    ]
    assert cli.run(command) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def both_strands(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mitochondria, and after each its reverse complement."""
    path = tmp_path_factory.mktemp("strands") / "both.fa"
    with path.open("w") as handle:
        for record in read_records(samples / "great_apes_mt.fa.gz"):
            handle.write(f">{record.name}\n{decode(record.codes)}\n")
            handle.write(f">{record.name}_reversed\n")
            handle.write(f"{decode(reverse_complement(record.codes))}\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("length", [LONGEST, 4096, 1024])
def test_each_is_likeliest_itself_on_both_strands(
    run: Path, both_strands: Path, length: int
) -> None:
    columns, rows = predict(run, both_strands, length=length, device=torch.device("cpu"))
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    forward, backward = table[::2], table[1::2]
    assert [{**row, "record": f"{row['record']}_reversed"} for row in forward] == backward
    assert len(forward) == len(SPECIES)
    for row in forward:
        likeliest = max(SPECIES, key=lambda name: float(row[f"p_{name}"]))
        assert row["record"] == f"{likeliest}_mt"
