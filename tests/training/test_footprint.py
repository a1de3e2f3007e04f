import dataclasses

import pytest

from dnamamba.models.heads import LanguageModel
from dnamamba.models.presets import preset
from dnamamba.training import footprint
from dnamamba.training.footprint import (
    Pass,
    alternatives,
    fits,
    flags,
    parameters_of,
    peak_bytes,
    seconds,
)

GIB = 2**30
MEASURED = [
    ("1.4m", Pass(1, 2**20, "none"), 40.57),
    ("1.4m", Pass(1, 2**20, "scan"), 18.57),
    ("1.4m", Pass(1, 2**20, "block"), 8.54),
    ("1.4m", Pass(8, 2**17, "scan"), 18.57),
    ("1.4m", Pass(1, 2**14, "scan"), 0.39),
    ("1.4m", Pass(1, 2**22, "scan"), 74.05),
    ("7m", Pass(1, 2**20, "scan"), 44.29),
    ("7m", Pass(1, 2**20, "block"), 18.88),
]
"""GiB that `dnamamba benchmark step` printed on an H200."""


@pytest.mark.parametrize(("name", "asked", "gib"), MEASURED)
def test_memory_is_what_was_measured(name: str, asked: Pass, gib: float) -> None:
    assert peak_bytes(preset(name), asked) / GIB == pytest.approx(gib, rel=0.03)


def test_the_states_that_are_counted_are_those_that_are_kept() -> None:
    triton_scan = pytest.importorskip("dnamamba.kernels.scan.triton_scan")
    assert footprint.CHUNK == triton_scan.CHUNK


def test_parameters_are_counted_without_being_made() -> None:
    config = preset("250k", bidirectional=True, objective="masked")
    assert parameters_of(config) == LanguageModel(config).parameters_count


def test_positions_that_a_gpu_holds() -> None:
    assert Pass(2, 1000).positions == 2000
    assert Pass(2, 1000, tbptt=300).positions == 600
    assert Pass(2, 1000, tbptt=3000).positions == 2000
    assert Pass(1, 1001, parts=4).positions == 251


def test_what_reads_twice_takes_more() -> None:
    """Both directions have scans of their own; both strands are windows of their own."""
    asked = Pass(1, 2**17)
    one = peak_bytes(preset("1.4m"), asked)
    both = peak_bytes(preset("1.4m", bidirectional=True, objective="masked"), asked)
    strands = peak_bytes(preset("1.4m", symmetry="shared", objective="masked"), asked)
    assert one < both < strands < 2.2 * one


def test_alternatives_fit_and_say_how() -> None:
    asked = Pass(1, 2**20)
    assert [flags(asked, way) for way in alternatives(preset("7m"), asked, 24 * GIB)] == [
        "--recompute block"
    ]
    assert [flags(asked, way) for way in alternatives(preset("7m"), asked, 8 * GIB)] == [
        "--recompute block --tbptt 262144",
        "--recompute block --sequence-parallel 4",
    ]
    several = Pass(8, 2**17)
    assert (
        flags(several, next(alternatives(preset("1.4m"), several, 12 * GIB))) == "--micro-batch 4"
    )
    for memory in (2 * GIB, 6 * GIB, 12 * GIB):
        for name in ("250k", "7m", "40.7m"):
            for chosen in alternatives(preset(name), several, memory):
                assert fits(preset(name), chosen, memory)


def test_what_reads_both_ways_is_not_cut_into_segments() -> None:
    config = preset("7m", bidirectional=True, objective="masked")
    found = [flags(Pass(1, 2**20), way) for way in alternatives(config, Pass(1, 2**20), 8 * GIB)]
    assert found == ["--recompute block --sequence-parallel 4"]
    equivariant = dataclasses.replace(config, bidirectional=False, symmetry="shared")
    assert not list(alternatives(equivariant, Pass(1, 2**20), 8 * GIB))


def test_time_grows_with_length_but_never_below_the_launches() -> None:
    config = preset("1.4m")
    assert seconds(config, Pass(1, 2**20)) == pytest.approx(0.2254, rel=0.01)
    assert seconds(config, Pass(1, 64)) == seconds(config, Pass(1, 1024)) > 0.01
    assert seconds(config, Pass(1, 2**21, tbptt=2**20)) == pytest.approx(0.4509, rel=0.01)
