from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pynvml
import pytest

from attestation.errors import FetchError
from attestation.guest.nvml import ConfidentialState, Environment, MultiGpuMode, Nvml, open_nvml, state_checks
from attestation.types import Nonce
from tests.attestation.guest.fake_nvml import IN_ORDER, FakeLibrary, FakeNvml
from tests.places import ROOT

NONCE = Nonce(bytes(range(32)))

# --- the state that no device signs


@pytest.mark.parametrize(
    "state",
    [
        IN_ORDER,
        replace(IN_ORDER, multi_gpu_mode=MultiGpuMode.NVLE),
        replace(IN_ORDER, multi_gpu_mode=MultiGpuMode.PPCIE),
        replace(IN_ORDER, multi_gpu_mode=MultiGpuMode.PPCIE, cc_feature=0),
    ],
)
def test_a_state_in_order_passes_every_check(state: ConfidentialState) -> None:
    checks = tuple(state_checks(state))
    assert len(checks) == 4
    assert not any(check.failed for check in checks)


FAULTS = {
    "gpu environment": [{"environment": value} for value in (Environment.UNAVAILABLE, Environment.SIM, 3)],
    "gpu confidential computing": [
        {"cc_feature": 0},
        {"cc_feature": 2},
        {"cc_feature": 0, "multi_gpu_mode": MultiGpuMode.NVLE},
    ],
    "gpu developer tools": [{"dev_tools_mode": 1}, {"dev_tools_mode": 2}],
    "gpu links": [{"multi_gpu_mode": 3}],
}


@pytest.mark.parametrize(("name", "changes"), [(name, changes) for name in FAULTS for changes in FAULTS[name]])
def test_each_fault_fails_exactly_its_check(name: str, changes: dict[str, int]) -> None:
    checks = state_checks(replace(IN_ORDER, **changes))
    assert [check.name for check in checks if check.failed] == [name]


# --- NVIDIA's library


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    library = FakeLibrary(pynvml)
    monkeypatch.setattr(pynvml, "nvmlLib", library)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return library


def opened() -> Nvml:
    nvml = open_nvml()
    assert nvml is not None
    return nvml


def test_every_gpu_is_asked_over_the_nonce(library: FakeLibrary) -> None:
    nvml = opened()
    assert nvml.count() == 2
    assert [nvml.architecture(gpu) for gpu in range(2)] == [9, 10]
    assert [nvml.report(gpu, NONCE) for gpu in range(2)] == [b"0report", b"1report"]
    assert nvml.certificates(1) == library.chain
    assert library.nonces == [NONCE, NONCE]


def test_the_state_is_read_as_the_driver_gives_it(library: FakeLibrary) -> None:
    library.state = ConfidentialState(1, 2, 3, 4)
    assert opened().state() == library.state


@pytest.mark.parametrize("accepting", [0, 1])
def test_gpus_are_let_to_work_unless_they_are_already(library: FakeLibrary, accepting: int) -> None:
    library.accepting = accepting
    opened().accept_work()
    assert library.accepting == 1
    # Only root may set it, so it is not set where that is not needed.
    assert library.called.count("nvmlSystemSetConfComputeGpusReadyState") == 1 - accepting


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_a_machine_without_a_driver_has_no_gpus(library: FakeLibrary, code: int) -> None:
    library.codes["nvmlInitWithFlags"] = code
    assert open_nvml() is None


def test_a_driver_without_gpus_is_the_same(library: FakeLibrary) -> None:
    library.gpus = 0
    assert open_nvml() is None


CALLS: dict[str, Callable[[], object]] = {
    "nvmlInitWithFlags": open_nvml,
    "nvmlDeviceGetCount_v2": open_nvml,
    "nvmlDeviceGetHandleByIndex_v2": lambda: opened().report(0, NONCE),
    "nvmlDeviceGetArchitecture": lambda: opened().architecture(0),
    "nvmlDeviceGetConfComputeGpuAttestationReport": lambda: opened().report(0, NONCE),
    "nvmlDeviceGetConfComputeGpuCertificate": lambda: opened().certificates(0),
    "nvmlSystemGetConfComputeSettings": lambda: opened().state(),
    "nvmlSystemGetConfComputeGpusReadyState": lambda: opened().accept_work(),
    "nvmlSystemSetConfComputeGpusReadyState": lambda: opened().accept_work(),
}


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND]
)
@pytest.mark.parametrize("function", CALLS)
def test_whatever_the_driver_refuses_is_told_and_not_taken_for_an_answer(
    library: FakeLibrary, function: str, code: int
) -> None:
    library.codes[function] = code
    with pytest.raises(FetchError, match="NVML: "):
        CALLS[function]()


@pytest.mark.parametrize("size", [0, 0x2001, 2**32 - 1])
def test_a_length_beyond_its_buffer_is_refused(library: FakeLibrary, size: int) -> None:
    library.sizes = {"report": size, "chain": size}
    with pytest.raises(FetchError, match="empty, or longer"):
        opened().report(0, NONCE)
    with pytest.raises(FetchError, match="empty, or longer"):
        opened().certificates(0)


def test_the_fake_is_an_nvml() -> None:
    nvml: Nvml = FakeNvml()
    assert nvml.state() == IN_ORDER


def test_nobody_loads_the_library_before_it_is_needed() -> None:
    program = "import attestation.guest.machine, engine.app, sys; print('pynvml' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=ROOT).stdout
    assert output == b"False\n"


def test_a_machine_that_lacks_our_door_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(FetchError, match="nvidia-ml-py is not installed"):
        open_nvml()
