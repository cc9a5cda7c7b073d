"""Are these the devices of one machine, all of them, and linked as they should be?

1. They are distinct: neither the chip's key nor the firmware's stands twice. So one GPU cannot answer for eight, not
   even by answering again after its firmware was changed.
2. Every GPU shares its secrets in the mode that the policy names. Drivers say it in a flag; older ones only whether
   the mode is protected PCIe, and those of Hopper knew no third.
3. In protected PCIe, where links are in the clear: every GPU's links lead to these switches and to no other, and every
   switch's links to these GPUs and to no other. The numbers in the reports are compared with those that NVIDIA
   certified for the chips, which NVIDIA's own verifier does not do: it compares the reports with each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attestation.errors import EvidenceError
from attestation.gpu.abi import FeatureFlag, GpuReport, Pdi, SwitchReport
from attestation.gpu.device import AnyDevice, Device, each
from attestation.gpu.evidence import Architecture
from attestation.gpu.policy import Mode
from attestation.types import Check, failed

_MODES = {FeatureFlag.SPT: Mode.SPT, FeatureFlag.MPT: Mode.MPT, FeatureFlag.PPCIE: Mode.PPCIE}


def distinct(devices: Sequence[AnyDevice]) -> Check:
    """Whether no device stands there twice."""
    seen: dict[str, str] = {}

    def check(device: AnyDevice) -> None:
        for key in (device.chain.chip_key, device.chain.leaf_key):
            if (other := seen.setdefault(key, device.name)) != device.name:
                raise EvidenceError(f"the same device as {other}")

    return each("devices distinct", devices, check, "no device stands there twice")


def mode_of(device: Device[GpuReport]) -> Mode:
    """How a GPU shares its secrets. Raises EvidenceError when it does not say."""
    flag, protected = device.report.feature_flag, device.report.protected_pcie
    if flag is not None:
        if protected is not None and protected != (flag is FeatureFlag.PPCIE):
            raise EvidenceError(f"reports mode {flag.name}, and at the same time the contrary about protected PCIe")
        return _MODES[flag]
    if protected:
        return Mode.PPCIE
    if device.chain.architecture is Architecture.HOPPER:
        return Mode.SPT
    raise EvidenceError("does not report its mode; a later driver does")


def mode(gpus: Sequence[Device[GpuReport]], expected: Mode) -> Check:
    """Whether every GPU is in the mode that the policy names."""

    def check(device: Device[GpuReport]) -> None:
        if (found := mode_of(device)) is not expected:
            raise EvidenceError(f"in mode {found}; the policy asks for {expected}")

    return each("gpu mode", gpus, check, f"mode {expected}")


def topology(gpus: Sequence[Device[GpuReport]], switches: Sequence[Device[SwitchReport]]) -> Check:
    """Whether every GPU is linked to every switch, and none to anything else."""
    name = "gpu topology"
    try:
        gpu_pdis, switch_pdis = _certified(gpus), _certified(switches)
    except EvidenceError as exc:
        return failed(name, str(exc))

    def check(device: AnyDevice) -> None:
        report = device.report
        if isinstance(report, GpuReport):
            if report.switch_pdis != switch_pdis:
                raise EvidenceError("its links lead elsewhere than to exactly these switches")
        elif report.pdi != device.chain.pdi:
            raise EvidenceError("names itself otherwise than its certificate does")
        elif report.gpu_pdis != gpu_pdis:
            raise EvidenceError("its links lead elsewhere than to exactly these GPUs")

    devices: tuple[AnyDevice, ...] = (*gpus, *switches)
    if_ok = f"{len(gpus)} GPUs and {len(switches)} switches, each linked to all of the others and to nothing else"
    return each(name, devices, check, if_ok)


def _certified(devices: Iterable[AnyDevice]) -> frozenset[Pdi]:
    """The numbers of the devices, from their certificates."""
    pdis = set()
    for device in devices:
        try:
            pdi = device.chain.pdi
        except EvidenceError as exc:
            raise EvidenceError(f"{device.name}: {exc}") from None
        if pdi is None:
            raise EvidenceError(f"{device.name}: its certificate does not say its number for the fabric")
        pdis.add(pdi)
    return frozenset(pdis)
