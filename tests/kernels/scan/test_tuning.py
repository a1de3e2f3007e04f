"""Tuning finds the fastest cut, keeps it, and changes no result beyond rounding."""

from collections.abc import Iterator

import pytest
import torch

from dnamamba.errors import UsageError
from dnamamba.kernels.scan import triton_scan, tuning
from tests.kernels.scan.cases import assert_close, draw, results


@pytest.fixture
def tiles() -> Iterator[dict[str, triton_scan.Tiles]]:
    before = dict(triton_scan.TILES)
    yield triton_scan.TILES
    triton_scan.TILES.update(before)


def test_only_a_gpu_is_tuned() -> None:
    with pytest.raises(UsageError, match="device cpu: only on a GPU"):
        tuning.tune_selective_scan(1, 64, 16, device=torch.device("cpu"))


def test_many_states_have_one_cut() -> None:
    with pytest.raises(UsageError, match="17 states: tiles are tuned for up to 16"):
        tuning.tune_selective_scan(1, 64, 16, 17, device=torch.device("cuda"))


@pytest.mark.parametrize("phase", tuning.CANDIDATES)
def test_the_fastest_is_kept(
    phase: str, tiles: dict[str, triton_scan.Tiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_, last = tuning.CANDIDATES[phase]

    def bench(run: object, return_mode: str) -> float:
        if tiles[phase] == first:
            raise tuning.OutOfResources(2, 1, "shared memory")
        return 1.0 if tiles[phase] == last else 2.0

    monkeypatch.setattr(tuning, "do_bench", bench)
    times = tuning._fastest(phase, lambda: None)
    assert tiles[phase] == last
    assert first not in times
    assert times[last] == 1.0


@pytest.mark.gpu
def test_every_candidate_is_right(cuda: torch.device, tiles: dict[str, triton_scan.Tiles]) -> None:
    inputs = {name: t.to(cuda, torch.float32) for name, t in draw(300, channels=256).items()}
    wanted = results(inputs, backend="chunked")
    for phase, candidates in tuning.CANDIDATES.items():
        for candidate in candidates:
            tiles[phase] = candidate
            assert_close(results(inputs, backend="triton"), wanted, 1e-5)


@pytest.mark.gpu
@pytest.mark.slow
def test_tuned_on_a_gpu(cuda: torch.device, tiles: dict[str, triton_scan.Tiles]) -> None:
    found = tuning.tune_selective_scan(1, 65536, 256, device=cuda)
    assert set(found) == set(tuning.CANDIDATES)
    for phase, times in found.items():
        assert len(times) > 1
        assert times[tiles[phase]] == min(times.values())
