"""How does a confidential VM prove itself? By its processor's report, over the evidence of its GPUs.

What the driver answered is read here once, only far enough to know that it answers what was asked: a driver that mixes
requests up is found out by us, and not by every client. Whether it is authentic is for a verifier to say.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from attestation.devices import AttachedDevices
from attestation.driver import DriverThread
from attestation.errors import EvidenceError
from attestation.snp.abi import parse_certificate_table, parse_report
from attestation.snp.collateral import collateral_of
from attestation.tdx.abi import parse_quote
from attestation.tsm import Tree, TsmReport, collect_report, find_kind
from attestation.types import Collateral, DeviceEvidence, Evidence, EvidenceKind, Nonce, ReportData

_log = structlog.get_logger(__name__)

DEADLINE_S = 25.0
"""For one report, so that it ends before a collection does. AMD's firmware may have its guests wait."""

_REPORTED: Mapping[EvidenceKind, Callable[[bytes], bytes]] = {
    EvidenceKind.SNP: lambda report: parse_report(report).report_data,
    EvidenceKind.TDX: lambda quote: parse_quote(quote).report.report_data,
}


class MachineAttester:
    """Implements `attestation.attester.Attester`. kind: as `find_kind` says."""

    def __init__(
        self, kind: EvidenceKind, tree: Tree, devices: AttachedDevices | None, *, deadline_s: float = DEADLINE_S
    ) -> None:
        self.kind = kind
        self._tree = tree
        self._devices = devices
        self._processor = DriverThread("configfs-tsm", deadline_s=deadline_s)

    @classmethod
    async def open(cls, tree: Tree) -> MachineAttester:
        """The attester of this machine. Raises FetchError when it has no evidence that we know."""
        kind = await DriverThread("configfs-tsm", deadline_s=DEADLINE_S).call(partial(find_kind, tree))
        return cls(kind, tree, await AttachedDevices.find())

    async def collect(self, report_data: ReportData) -> Evidence:
        answer = await self._processor.call(partial(collect_report, self._tree, report_data))
        if answer.kind is not self.kind:
            raise EvidenceError(f"the machine gave {self.kind} evidence before, and {answer.kind} now")
        if not hmac.compare_digest(_REPORTED[self.kind](answer.report), report_data):
            raise EvidenceError("the report carries other report_data than was asked for")
        return Evidence(self.kind, answer.report, _delivered(answer))

    async def collect_devices(self, nonce: Nonce) -> DeviceEvidence:
        return await self._devices.collect(nonce) if self._devices is not None else DeviceEvidence(b"")

    async def admit_devices(self) -> None:
        if self._devices is not None:
            await self._devices.admit()


def _delivered(answer: TsmReport) -> Collateral:
    """The host's certificates for this report. Without them a verifier asks AMD, so an unreadable table costs that."""
    try:
        return collateral_of(parse_report(answer.report), parse_certificate_table(answer.certificates))
    except EvidenceError as exc:
        _log.warning("certificate_table_not_used", detail=str(exc))
        return {}
