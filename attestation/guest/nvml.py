"""What do the GPUs say of themselves, to the guest that drives them? NVIDIA's management library (NVML).

Whether confidential computing is on, and the tools of developers off, the signed reports do not say: only NVML inside
the guest does. So the measured guest asks here, and refuses to go on when the answer is no; that is why a verifier who
knows the guest's measurement may rely on it.

`pynvml` is loaded when it is needed, and nowhere else.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, TypeVar

from attestation.errors import FetchError
from attestation.types import Check, Nonce, judged

T = TypeVar("T")


class Environment(IntEnum):
    """`NVML_CC_SYSTEM_ENVIRONMENT_*`."""

    UNAVAILABLE = 0
    SIM = 1
    PROD = 2


class MultiGpuMode(IntEnum):
    """`NVML_CC_SYSTEM_MULTIGPU_*`: what protects the links between GPUs.

    PPCIE: the switches, which are trusted too and must be attested. NVLE: encryption, past any switch.
    """

    NONE = 0
    PPCIE = 1
    NVLE = 2


@dataclass(frozen=True, slots=True)
class ConfidentialState:
    """`nvmlSystemConfComputeSettings_t`, as the driver gives it: there may be values that we do not know."""

    environment: int
    cc_feature: int
    dev_tools_mode: int
    multi_gpu_mode: int


class Nvml(Protocol):
    """What we need of NVML. Every call blocks, and raises FetchError when the driver refuses it."""

    def state(self) -> ConfidentialState:
        """How confidential computing is set up."""

    def count(self) -> int:
        """How many GPUs there are."""

    def architecture(self, gpu: int) -> int:
        """The generation of a GPU, one of `NVML_DEVICE_ARCH_*`."""

    def report(self, gpu: int, nonce: Nonce) -> bytes:
        """A signed measurement report: the SPDM request with the nonce, and the response to it."""

    def certificates(self, gpu: int) -> bytes:
        """The chain that vouches for the key of a GPU, PEM, its own certificate first."""

    def accept_work(self) -> None:
        """Let programs use the GPUs, which come up in a confidential guest refusing them all."""


def state_checks(state: ConfidentialState) -> Iterator[Check]:
    """Whether the GPUs keep what they are told to themselves."""
    yield judged(
        "gpu environment",
        state.environment == Environment.PROD,
        "production",
        f"environment {state.environment}, which is not production ({Environment.PROD})",
    )
    # Protected PCIe is a mode beside confidential computing: NVIDIA's verifier too is content with either.
    protected = state.cc_feature == 1 or state.multi_gpu_mode == MultiGpuMode.PPCIE
    yield judged("gpu confidential computing", protected, "on", "off")
    yield judged(
        "gpu developer tools", state.dev_tools_mode == 0, "off", "on, so that the GPUs' memory can be looked into"
    )
    yield judged(
        "gpu links",
        state.multi_gpu_mode in tuple(MultiGpuMode),
        "in a mode that we know",
        f"in mode {state.multi_gpu_mode}, which we do not know",
    )


def open_nvml() -> Nvml | None:
    """NVML where there are GPUs that it drives, else None; blocks.

    Raises FetchError when the driver is there and does not answer, or when our own door to it is not installed.
    """
    try:
        import pynvml  # noqa: PLC0415 - only machines with GPUs need it
    except ImportError as exc:
        raise FetchError("NVML: nvidia-ml-py is not installed") from exc
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return None
    except pynvml.NVMLError as exc:
        raise FetchError(f"NVML: {exc}") from exc
    nvml = _PyNvml(pynvml)
    return nvml if nvml.count() else None


class _PyNvml:
    """Implements `Nvml`."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def state(self) -> ConfidentialState:
        settings = self._library.c_nvmlSystemConfComputeSettings_v1_t()
        code = self._call(lambda: self._library.nvmlSystemGetConfComputeSettings(ctypes.byref(settings)))
        if code != self._library.NVML_SUCCESS:  # the one call here whose code is returned and not raised
            raise FetchError(f"NVML: the state of confidential computing cannot be had (code {code})")
        return ConfidentialState(settings.environment, settings.ccFeature, settings.devToolsMode, settings.multiGpuMode)

    def count(self) -> int:
        return int(self._call(self._library.nvmlDeviceGetCount))

    def architecture(self, gpu: int) -> int:
        return int(self._call(lambda: self._library.nvmlDeviceGetArchitecture(self._handle(gpu))))

    def report(self, gpu: int, nonce: Nonce) -> bytes:
        answer = self._call(
            lambda: self._library.nvmlDeviceGetConfComputeGpuAttestationReport(self._handle(gpu), nonce)
        )
        return _filled(answer.attestationReport, answer.attestationReportSize)

    def certificates(self, gpu: int) -> bytes:
        answer = self._call(lambda: self._library.nvmlDeviceGetConfComputeGpuCertificate(self._handle(gpu)))
        return _filled(answer.attestationCertChain, answer.attestationCertChainSize)

    def accept_work(self) -> None:
        accepting = self._library.NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE
        # Only root may set it; it may be set already.
        if self._call(self._library.nvmlSystemGetConfComputeGpusReadyState) != accepting:
            self._call(lambda: self._library.nvmlSystemSetConfComputeGpusReadyState(accepting))

    def _handle(self, gpu: int) -> Any:
        return self._library.nvmlDeviceGetHandleByIndex(gpu)

    def _call(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except self._library.NVMLError as exc:
            raise FetchError(f"NVML: {exc}") from exc


def _filled(buffer: ctypes.Array[ctypes.c_uint8], size: int) -> bytes:
    """The part of a buffer that the driver says it filled."""
    if not 0 < size <= len(buffer):
        raise FetchError("NVML: a driver's answer is empty, or longer than the place for it")
    return bytes(buffer[:size])
