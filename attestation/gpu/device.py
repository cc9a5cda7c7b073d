"""What did each device answer, as far as it can be read? And how is one thing checked of all of them, in one line.

A report or a chain that cannot be read is a fault of that device: every check that needs it fails for that device,
and says so once; the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from attestation.collateral.roots import Roots
from attestation.errors import EvidenceError
from attestation.gpu.abi import GpuReport, SwitchReport, parse_gpu, parse_switch
from attestation.gpu.chain import DeviceChain, read_chain
from attestation.gpu.evidence import DeviceAnswer, Devices
from attestation.types import Check, Collateral, Nonce, judged, skipped

R = TypeVar("R", GpuReport, SwitchReport)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Basis:
    """What devices are judged by, beside the policy.

    nonce: the one that they must have signed. now: an aware datetime.
    """

    collateral: Collateral
    nonce: Nonce
    roots: Roots
    now: datetime


@dataclass(frozen=True, slots=True)
class Device(Generic[R]):
    """One device. name: such as `GPU 0`, as the driver counts them.

    read_report, read_chain: what was read, or why it could not be.
    """

    name: str
    answer: DeviceAnswer
    read_report: R | EvidenceError
    read_chain: DeviceChain | EvidenceError

    @property
    def report(self) -> R:
        """Raises EvidenceError when it could not be read."""
        if isinstance(self.read_report, EvidenceError):
            raise EvidenceError("its report cannot be read")
        return self.read_report

    @property
    def chain(self) -> DeviceChain:
        """Raises EvidenceError when it could not be read."""
        if isinstance(self.read_chain, EvidenceError):
            raise EvidenceError("its chain cannot be read")
        return self.read_chain


def read_gpus(devices: Devices) -> tuple[Device[GpuReport], ...]:
    return tuple(_read(f"GPU {number}", answer, parse_gpu) for number, answer in enumerate(devices.gpus))


def read_switches(devices: Devices) -> tuple[Device[SwitchReport], ...]:
    return tuple(_read(f"switch {number}", answer, parse_switch) for number, answer in enumerate(devices.switches))


def _read(name: str, answer: DeviceAnswer, parse: Callable[[bytes], R]) -> Device[R]:
    return Device(name, answer, _result(parse, answer.evidence), _result(read_chain, answer.certificate))


def _result(parse: Callable[[bytes], T], data: bytes) -> T | EvidenceError:
    try:
        return parse(data)
    except EvidenceError as exc:
        return exc


AnyDevice = Device[GpuReport] | Device[SwitchReport]
D = TypeVar("D", bound=AnyDevice)


def each(name: str, devices: Sequence[D], check: Callable[[D], None], if_ok: str) -> Check:
    """One line over all devices: passed when `check` raises EvidenceError for none, and skipped without any."""
    if not devices:
        return skipped(name, "there is no such device")
    faults: dict[str, list[str]] = {}
    for device in devices:
        try:
            check(device)
        except EvidenceError as exc:
            faults.setdefault(str(exc), []).append(device.name)
    told = "; ".join(f"{_named(names, len(devices))}: {fault}" for fault, names in faults.items())
    return judged(name, not faults, f"{if_ok}, {len(devices)} of {len(devices)}", told)


def _named(names: Sequence[str], total: int) -> str:
    return f"all {total}" if 1 < len(names) == total else ", ".join(names)
