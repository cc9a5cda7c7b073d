"""Who, inside the guest, hands out reports of its processor? What all of them have in common.

What they answer is not believed: a report is judged by its signature, whoever handed it on. Whether it is the answer to
our question at all is looked at in `attestation.guest.machine`, for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from attestation.types import DeviceEvidence, EvidenceKind, EvidenceSource, Nonce, ReportData


@dataclass(frozen=True, slots=True)
class MachineReport:
    """What the processor answered.

    report: an SNP report or a TDX quote. certificates: the host's table, as `attestation.snp.abi` reads it, empty when
    there is none; signed by others.
    """

    kind: EvidenceKind
    report: bytes
    certificates: bytes = b""


class Devices(Protocol):
    """The GPUs of this machine, and the switches between them."""

    async def collect(self, nonce: Nonce) -> DeviceEvidence:
        """Evidence of all of them over `nonce`. Raises AttestationError."""

    async def admit(self) -> None:
        """Let programs use them. Raises FetchError."""


class Reports(Protocol):
    """Whoever hands them out. Every method raises FetchError when he is not there, or does not answer as agreed."""

    @property
    def source(self) -> EvidenceSource: ...

    async def find_kind(self) -> EvidenceKind:
        """What kind of evidence this machine can give."""

    async def collect(self, report_data: ReportData) -> MachineReport:
        """A report that carries `report_data`. Raises EvidenceError too, when it may answer another question."""

    async def find_devices(self) -> Devices | None:
        """The devices of this machine; None without any."""
