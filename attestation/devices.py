"""What do the attached devices prove? All GPUs, and the switches between them where those are trusted, over one nonce.

The state of confidential computing, which no device signs, is looked at before every collection, and what is not in
order is not collected: `attestation.nvml` says why.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from attestation.driver import DriverThread
from attestation.errors import FetchError, RefusedError
from attestation.gpu.evidence import Architecture, DeviceAnswer, encode_devices
from attestation.nvml import MultiGpuMode, Nvml, open_nvml, state_checks
from attestation.nvswitch import collect_switches
from attestation.types import DeviceEvidence, Nonce

DEADLINE_S = 25.0
"""For all GPUs. They sign one after the other, each for a second or so."""

ARCHITECTURES = {9: Architecture.HOPPER, 10: Architecture.BLACKWELL}
"""`NVML_DEVICE_ARCH_*`, of those that can attest themselves and that we have rules for."""

AskSwitches = Callable[[Nonce], Awaitable[Sequence[DeviceAnswer]]]
"""Evidence of every switch over a nonce; raises FetchError."""


class AttachedDevices:
    """The GPUs of this machine, at least one. switches: called only in the mode of the GPUs that relies on switches."""

    def __init__(self, nvml: Nvml, *, switches: AskSwitches = collect_switches, deadline_s: float = DEADLINE_S) -> None:
        self._nvml = nvml
        self._switches = switches
        self._gpus = DriverThread("NVML", deadline_s=deadline_s)

    @classmethod
    async def find(cls) -> AttachedDevices | None:
        """Those of this machine, None without any. Raises FetchError when a driver is there and does not answer."""
        nvml = await DriverThread("NVML", deadline_s=DEADLINE_S).call(open_nvml)
        return None if nvml is None else cls(nvml)

    async def collect(self, nonce: Nonce) -> DeviceEvidence:
        """Evidence of all devices. Raises RefusedError when their state is not in order, FetchError, EvidenceError."""
        state = await self._gpus.call(self._nvml.state)
        checks = tuple(state_checks(state))
        if any(check.failed for check in checks):
            raise RefusedError(checks)
        gpus = await self._gpus.call(partial(_ask_gpus, self._nvml, nonce))
        switches = await self._switches(nonce) if state.multi_gpu_mode == MultiGpuMode.PPCIE else ()
        return encode_devices(gpus, switches)

    async def admit(self) -> None:
        """Let programs use the GPUs. Raises FetchError."""
        await self._gpus.call(self._nvml.accept_work)


def _ask_gpus(nvml: Nvml, nonce: Nonce) -> list[DeviceAnswer]:
    return [_ask_gpu(nvml, gpu, nonce) for gpu in range(nvml.count())]


def _ask_gpu(nvml: Nvml, gpu: int, nonce: Nonce) -> DeviceAnswer:
    number = nvml.architecture(gpu)
    if number not in ARCHITECTURES:
        raise FetchError(f"NVML: GPU {gpu} is of architecture {number}, for which there are no rules")
    return DeviceAnswer(ARCHITECTURES[number], nonce, nvml.report(gpu, nonce), nvml.certificates(gpu))
