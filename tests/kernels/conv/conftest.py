"""Tiles small enough that a short sequence takes several programs."""

import pytest


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from dnamamba.kernels.conv import gpu

    for table in (gpu.FORWARD, gpu.BACKWARD):
        for size in table:
            monkeypatch.setitem(table, size, gpu.Tiles(16, 8, 4, 2, 1))
    monkeypatch.setattr(gpu, "PROGRAMS", 1)
