"""Which backend runs, and why."""

import pytest
import torch

from dnamamba.errors import UsageError
from dnamamba.kernels import dispatch
from dnamamba.kernels.dispatch import choose_scan_backend

CPU = torch.device("cpu")


def test_auto_prefers_the_compiled_path_on_a_cpu() -> None:
    choice = choose_scan_backend("auto", CPU)
    assert choice.backend == "numba"
    assert "Numba" in choice.reason


def test_auto_without_numba_says_once_what_would_be_faster(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispatch, "has_numba", lambda: False)
    monkeypatch.setattr(dispatch.logger, "propagate", True)
    dispatch.say_once.cache_clear()
    with caplog.at_level("INFO", logger="dnamamba"):
        choice = choose_scan_backend("auto", CPU)
        choose_scan_backend("auto", CPU)
    assert len(caplog.messages) == 1
    assert choice.backend == "chunked"
    assert "dnamamba[cpu]" in choice.reason
    with pytest.raises(UsageError, match="pip install"):
        choose_scan_backend("numba", CPU)


def test_fp64_and_other_devices_run_in_pytorch() -> None:
    assert choose_scan_backend("auto", CPU, torch.float64).backend == "chunked"
    assert choose_scan_backend("auto", torch.device("cuda")).backend == "chunked"


@pytest.mark.parametrize("name", ["reference", "chunked", "numba"])
def test_a_name_is_obeyed(name: str) -> None:
    assert choose_scan_backend(name, CPU).backend == name


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match="reference, chunked, numba"):
        choose_scan_backend("triton2", CPU)


def test_numba_is_refused_on_a_gpu() -> None:
    with pytest.raises(UsageError, match="cpu"):
        choose_scan_backend("numba", torch.device("cuda"))
