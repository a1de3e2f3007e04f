"""Which backend runs, and why."""

from typing import Any

import pytest
import torch

from dnamamba.errors import UsageError
from dnamamba.kernels import dispatch
from dnamamba.kernels.dispatch import (
    ALL_FUSED,
    choose_fused_backend,
    choose_scan_backend,
    fused_backend_for,
    interprets_triton,
    on_device_of,
    scan_backend_for,
)

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Have Triton with its interpreter on or off, whatever this machine has."""
    monkeypatch.setattr(dispatch, "has_triton", lambda: True)
    monkeypatch.setattr(dispatch, "interprets_triton", lambda: request.param)


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Have Triton, a C compiler and a GPU of this compute capability."""
    monkeypatch.setattr(dispatch, "has_triton", lambda: True)
    monkeypatch.setattr(dispatch, "has_compiler", lambda: True)
    monkeypatch.setattr(dispatch, "_capability", lambda device: request.param)


def scan_choice(requested: str, device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    return choose_scan_backend(requested, device, dtype).backend


either = pytest.mark.parametrize(
    "choose", [scan_choice, choose_fused_backend, scan_backend_for], ids=["scan", "fused", "traced"]
)


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


@pytest.mark.parametrize("capability", [(7, 5)], indirect=True)
def test_fp64_and_other_devices_run_in_pytorch(capability: None) -> None:
    assert scan_choice("auto", CPU, torch.float64) == "chunked"
    for device in (CUDA, torch.device("mps")):
        assert scan_choice("auto", device) == "chunked"
        assert choose_fused_backend("auto", device) == "reference"


@pytest.mark.parametrize("name", ["reference", "chunked", "numba"])
def test_a_name_is_obeyed(name: str) -> None:
    assert choose_scan_backend(name, CPU).backend == name


def test_an_op_has_the_backends_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    half = torch.bfloat16
    for requested in ("auto", "numba"):
        assert choose_fused_backend(requested, CPU, half, ALL_FUSED) == "numba"
    assert choose_fused_backend("auto", CPU, half) == "reference"
    assert choose_fused_backend("auto", CPU, torch.float64, ALL_FUSED) == "reference"
    assert choose_fused_backend("auto", torch.device("mps"), half, ALL_FUSED) == "reference"
    with pytest.raises(UsageError, match="'numba' is not one of auto, reference, triton"):
        choose_fused_backend("numba", CPU, half)
    with pytest.raises(UsageError, match=r"torch\.float64 on cpu"):
        choose_fused_backend("numba", CPU, torch.float64, ALL_FUSED)
    monkeypatch.setattr(dispatch, "has_numba", lambda: False)
    assert choose_fused_backend("auto", CPU, half, ALL_FUSED) == "reference"
    with pytest.raises(UsageError, match="pip install"):
        choose_fused_backend("numba", CPU, half, ALL_FUSED)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match="reference, chunked, numba"):
        choose_scan_backend("triton2", CPU)


def test_numba_is_refused_on_a_gpu() -> None:
    with pytest.raises(UsageError, match="cpu"):
        choose_scan_backend("numba", CUDA)


@either
@pytest.mark.parametrize("interpreter", [False], indirect=True)
def test_triton_is_refused_on_a_cpu(interpreter: None, choose: Any) -> None:
    with pytest.raises(UsageError, match=r"8\.0 or later, not torch\.bfloat16 on cpu"):
        choose("triton", CPU, torch.bfloat16)


@either
@pytest.mark.parametrize("interpreter", [True], indirect=True)
def test_triton_is_obeyed_on_a_cpu_with_its_interpreter(interpreter: None, choose: Any) -> None:
    assert choose("triton", CPU, torch.bfloat16) == "triton"
    assert choose("auto", CPU, torch.bfloat16) != "triton"


@either
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], indirect=True)
def test_triton_is_the_choice_on_a_gpu(capability: None, choose: Any) -> None:
    for requested in ("auto", "triton"):
        assert choose(requested, CUDA, torch.float16) == "triton"
    assert choose("auto", CUDA, torch.float64) != "triton"
    with pytest.raises(UsageError, match=r"torch\.float64 on cuda"):
        choose("triton", CUDA, torch.float64)


@either
@pytest.mark.parametrize("capability", [(7, 5)], indirect=True)
def test_triton_is_refused_on_an_old_gpu(capability: None, choose: Any) -> None:
    assert choose("auto", CUDA, torch.float32) != "triton"
    with pytest.raises(UsageError, match=r"compute capability 8\.0 or later"):
        choose("triton", CUDA, torch.float32)


@either
@pytest.mark.parametrize("capability", [(9, 0)], indirect=True)
def test_without_a_compiler_auto_falls_back_and_a_name_is_refused(
    capability: None, choose: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "has_compiler", lambda: False)
    assert choose("auto", CUDA, torch.float32) != "triton"
    with pytest.raises(UsageError, match="install gcc or clang"):
        choose("triton", CUDA, torch.float32)


@either
def test_without_triton_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, choose: Any
) -> None:
    monkeypatch.setattr(dispatch, "has_triton", lambda: False)
    assert not interprets_triton()
    assert choose("auto", CUDA, torch.float32) != "triton"
    with pytest.raises(UsageError, match="pip install triton"):
        choose("triton", CUDA, torch.float32)


@pytest.mark.parametrize("interpreter", [True], indirect=True)
def test_one_fp64_tensor_makes_an_op_fp64(interpreter: None) -> None:
    single, double = torch.ones(1), torch.ones(1).double()
    assert fused_backend_for("triton", single, None, single) == "triton"
    assert fused_backend_for("auto", single, None, double) == "reference"
    with pytest.raises(UsageError, match="float64"):
        fused_backend_for("triton", single, None, double)


def test_nothing_is_made_current_for_a_cpu() -> None:
    with on_device_of(torch.ones(1)) as entered:
        assert entered is None


@pytest.mark.gpu
def test_the_gpu_of_a_tensor_is_made_current(cuda: torch.device) -> None:
    last = torch.cuda.device_count() - 1
    with on_device_of(torch.ones(1, device=f"cuda:{last}")):
        assert torch.cuda.current_device() == last
    assert torch.cuda.current_device() == 0
