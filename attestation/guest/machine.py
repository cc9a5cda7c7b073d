"""How does a confidential VM prove itself? By its processor's report, over the evidence of its GPUs.

What was answered is read here once, only far enough to know that it answers what was asked: whoever mixes requests up
is found out by us, and not by every client. Whether it is authentic is for a verifier to say.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence

import structlog

from attestation.errors import EvidenceError, FetchError
from attestation.evidence import KINDS
from attestation.guest.coco import CocoReports
from attestation.guest.dstack import DstackReports
from attestation.guest.options import GuestOptions
from attestation.guest.reports import Devices, MachineReport, Reports
from attestation.guest.tsm import ConfigfsTree, TsmReports
from attestation.types import Collateral, DeviceEvidence, Evidence, EvidenceKind, EvidenceSource, Nonce, ReportData

_log = structlog.get_logger(__name__)

SOURCES: Mapping[EvidenceSource, Callable[[GuestOptions], Reports]] = {
    EvidenceSource.CONFIGFS: lambda options: TsmReports(ConfigfsTree(options.tsm_path)),
    EvidenceSource.COCO: lambda options: CocoReports(options.coco_url),
    EvidenceSource.DSTACK: lambda options: DstackReports(options.dstack_socket),
}
"""In the order in which they are tried."""


class MachineAttester:
    """Implements `attestation.guest.attester.Attester`. kind: as `reports.find_kind` says."""

    def __init__(self, kind: EvidenceKind, reports: Reports, devices: Devices | None) -> None:
        self.kind = kind
        self._reports = reports
        self._devices = devices

    @property
    def source(self) -> EvidenceSource:
        return self._reports.source

    async def collect(self, report_data: ReportData) -> Evidence:
        answer = await self._reports.collect(report_data)
        if answer.kind is not self.kind:
            raise EvidenceError(f"the machine gave {self.kind} evidence before, and {answer.kind} now")
        if not hmac.compare_digest(KINDS[self.kind].reported(answer.report), report_data):
            raise EvidenceError("the report carries other report_data than was asked for")
        return Evidence(self.kind, answer.report, _delivered(answer))

    async def collect_devices(self, nonce: Nonce) -> DeviceEvidence:
        return await self._devices.collect(nonce) if self._devices is not None else DeviceEvidence(b"")

    async def admit_devices(self) -> None:
        if self._devices is not None:
            await self._devices.admit()


async def open_machine(options: GuestOptions) -> MachineAttester:
    """The attester of this machine. Raises FetchError when nobody hands out evidence that we know."""
    wanted = SOURCES if options.evidence_from is None else (options.evidence_from,)
    return await first_of([SOURCES[source](options) for source in wanted])


async def first_of(candidates: Sequence[Reports]) -> MachineAttester:
    """The machine by the first who hands out its evidence. Raises FetchError, which says of each why he does not."""
    missing = []
    for reports in candidates:
        try:
            kind = await reports.find_kind()
        except FetchError as exc:
            missing.append(str(exc))
            continue
        _log.info("evidence_found", source=reports.source.value, kind=kind.value)
        return MachineAttester(kind, reports, await reports.find_devices())
    raise FetchError(f"nobody hands out evidence of this machine: {'; or '.join(missing)}")


def _delivered(answer: MachineReport) -> Collateral:
    """The host's certificates for this report. Without them a verifier asks AMD, so an unreadable table costs that."""
    try:
        return KINDS[answer.kind].delivered(answer.report, answer.certificates)
    except EvidenceError as exc:
        _log.warning("certificate_table_not_used", detail=str(exc))
        return {}
