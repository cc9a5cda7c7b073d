"""GPUs without hardware, at two depths: behind our own Protocol, and behind the C functions of NVIDIA's library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from attestation.errors import FetchError
from attestation.guest.nvml import ConfidentialState, Environment, MultiGpuMode
from attestation.types import Nonce

IN_ORDER = ConfidentialState(Environment.PROD, cc_feature=1, dev_tools_mode=0, multi_gpu_mode=MultiGpuMode.NONE)
HOPPER = 9

_FIRST_HANDLE = 0x1000


@dataclass
class FakeNvml:
    """Implements `attestation.guest.nvml.Nvml`.

    sign: makes the report of a GPU over a nonce. chain: makes its certificates. failing: names of calls that fail.
    """

    sign: Callable[[int, Nonce], bytes] = lambda gpu, nonce: b"report %d over " % gpu + nonce
    chain: Callable[[int], bytes] = lambda gpu: b"chain %d" % gpu
    gpus: int = 2
    generation: int = HOPPER
    settings: ConfidentialState = IN_ORDER
    accepting: bool = False
    failing: set[str] = field(default_factory=set)

    def state(self) -> ConfidentialState:
        self._may("state")
        return self.settings

    def count(self) -> int:
        self._may("count")
        return self.gpus

    def architecture(self, gpu: int) -> int:
        self._may("architecture")
        return self.generation

    def report(self, gpu: int, nonce: Nonce) -> bytes:
        self._may("report")
        return self.sign(gpu, nonce)

    def certificates(self, gpu: int) -> bytes:
        self._may("certificates")
        return self.chain(gpu)

    def accept_work(self) -> None:
        self._may("accept_work")
        self.accepting = True

    def _may(self, call: str) -> None:
        if call in self.failing:
            raise FetchError(f"NVML: {call} failed")


class FakeLibrary:
    """What `pynvml` finds behind `libnvidia-ml.so.1`: each function fills what it is given by address.

    codes: what functions return, by name, 0 if nothing else is said. called: those that were called, in order.
    """

    def __init__(self, pynvml: Any) -> None:
        self._pynvml = pynvml
        self.codes: dict[str, int] = {}
        self.called: list[str] = []
        self.gpus = 2
        self.state = IN_ORDER
        self.accepting = 0
        self.report = b"report"
        self.chain = b"-----BEGIN CERTIFICATE-----"
        self.sizes: dict[str, int] = {}
        self.nonces: list[bytes] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        fill = getattr(type(self), "_" + name, None)

        def function(*arguments: Any) -> int:
            self.called.append(name)
            if fill is not None and not self.codes.get(name):
                fill(self, *arguments)
            return self.codes.get(name, 0)

        if not name.startswith("nvml") or self.codes.get(name) == self._pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
            raise AttributeError(name)
        return function

    def _nvmlDeviceGetCount_v2(self, count: Any) -> None:  # noqa: N802 - NVML's name
        count._obj.value = self.gpus

    def _nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> None:  # noqa: N802
        ctypes.memmove(handle, ctypes.byref(ctypes.c_void_p(_FIRST_HANDLE + index.value)), 8)

    def _nvmlDeviceGetArchitecture(self, handle: Any, architecture: Any) -> None:  # noqa: N802
        architecture._obj.value = {0: 9, 1: 10}[_index(handle)]

    def _nvmlSystemGetConfComputeSettings(self, settings: Any) -> None:  # noqa: N802
        assert settings._obj.version == self._pynvml.nvmlSystemConfComputeSettings_v1
        settings._obj.environment = self.state.environment
        settings._obj.ccFeature = self.state.cc_feature
        settings._obj.devToolsMode = self.state.dev_tools_mode
        settings._obj.multiGpuMode = self.state.multi_gpu_mode

    def _nvmlDeviceGetConfComputeGpuAttestationReport(self, handle: Any, answer: Any) -> None:  # noqa: N802
        self.nonces.append(bytes(answer._obj.nonce))
        report = b"%d" % _index(handle) + self.report
        ctypes.memmove(answer._obj.attestationReport, report, len(report))
        answer._obj.attestationReportSize = self.sizes.get("report", len(report))

    def _nvmlDeviceGetConfComputeGpuCertificate(self, handle: Any, answer: Any) -> None:  # noqa: N802
        ctypes.memmove(answer._obj.attestationCertChain, self.chain, len(self.chain))
        answer._obj.attestationCertChainSize = self.sizes.get("chain", len(self.chain))

    def _nvmlSystemGetConfComputeGpusReadyState(self, state: Any) -> None:  # noqa: N802
        state._obj.value = self.accepting

    def _nvmlSystemSetConfComputeGpusReadyState(self, state: Any) -> None:  # noqa: N802
        self.accepting = state.value


def _index(handle: Any) -> int:
    address = ctypes.cast(handle, ctypes.c_void_p).value
    assert address is not None
    return address - _FIRST_HANDLE
