"""Development evidence: the shape of an attestation without any proof.

It exists so that the whole path runs on a machine without a TEE. Anyone can make it, so a policy that names it
names nothing else, and everything that accepts it says so in red.

    report = "sottovoce insecure evidence v1" || 00 || report_data (64)
"""

from __future__ import annotations

import structlog

from attestation.errors import EvidenceError
from attestation.types import (
    REPORT_DATA_BYTES,
    Appraisal,
    DeviceEvidence,
    Evidence,
    EvidenceKind,
    Nonce,
    ReportData,
    skipped,
)

_log = structlog.get_logger(__name__)

_PREFIX = b"sottovoce insecure evidence v1\x00"

WARNING = "INSECURE development evidence: it proves nothing about the machine or its software."


class InsecureAttester:
    """An Attester for development machines; warns at every use."""

    kind = EvidenceKind.INSECURE

    async def collect(self, report_data: ReportData) -> Evidence:
        _log.warning("insecure_evidence", detail=WARNING)
        return Evidence(EvidenceKind.INSECURE, _PREFIX + report_data)

    async def collect_devices(self, nonce: Nonce) -> DeviceEvidence:  # noqa: ARG002 - part of the Protocol
        return DeviceEvidence(b"")

    async def admit_devices(self) -> None:
        """Nothing: where no device is attested, none waits to be."""


def parse_report(report: bytes) -> ReportData:
    """The report_data that development evidence carries. Raises EvidenceError."""
    if len(report) != len(_PREFIX) + REPORT_DATA_BYTES or not report.startswith(_PREFIX):
        raise EvidenceError("not development evidence")
    return ReportData(report[len(_PREFIX) :])


def appraise(report: bytes) -> Appraisal:
    """Read the report_data. The machine is not checked, for there is nothing to check it by."""
    checks = (skipped("machine", WARNING),)
    try:
        return Appraisal(checks, parse_report(report))
    except EvidenceError:
        return Appraisal(checks, None)
