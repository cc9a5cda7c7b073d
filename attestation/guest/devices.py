"""What do the attached devices prove? All GPUs, and the switches between them where those are trusted, over one nonce.

The state of confidential computing, which no device signs, is looked at before every collection, and what is not in
order is not collected: `attestation.guest.nvml` says why.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from attestation.errors import FetchError, RefusedError
from attestation.gpu.evidence import Architecture, DeviceAnswer, encode_devices
from attestation.guest.driver import DriverThread
from attestation.guest.nvml import ConfidentialState, MultiGpuMode, Nvml, open_nvml, state_checks
from attestation.guest.nvswitch import collect_switches
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
        nvml = await find_nvml(DriverThread("NVML", deadline_s=DEADLINE_S))
        return None if nvml is None else cls(nvml)

    async def collect(self, nonce: Nonce) -> DeviceEvidence:
        """Evidence of all devices. Raises RefusedError when their state is not in order, FetchError, EvidenceError."""
        state = await sound_state(self._gpus, self._nvml)
        gpus = await self._gpus.call(lambda: [_ask_gpu(self._nvml, gpu, nonce) for gpu in range(self._nvml.count())])
        switches = await self._switches(nonce) if state.multi_gpu_mode == MultiGpuMode.PPCIE else ()
        return encode_devices(gpus, switches)

    async def admit(self) -> None:
        """Let programs use the GPUs. Raises FetchError."""
        await self._gpus.call(self._nvml.accept_work)


async def find_nvml(driver: DriverThread) -> Nvml | None:
    """NVML where there are GPUs. Raises FetchError when its driver is there and does not answer."""
    return await driver.call(open_nvml)


async def sound_state(driver: DriverThread, nvml: Nvml) -> ConfidentialState:
    """How confidential computing is set up. Raises RefusedError when it is not in order, FetchError."""
    state = await driver.call(nvml.state)
    checks = tuple(state_checks(state))
    if any(check.failed for check in checks):
        raise RefusedError(checks)
    return state


def _ask_gpu(nvml: Nvml, gpu: int, nonce: Nonce) -> DeviceAnswer:
    number = nvml.architecture(gpu)
    if number not in ARCHITECTURES:
        raise FetchError(f"NVML: GPU {gpu} is of architecture {number}, for which there are no rules")
    return DeviceAnswer(ARCHITECTURES[number], nonce, nvml.report(gpu, nonce), nvml.certificates(gpu))
