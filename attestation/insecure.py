"""Development evidence: the shape of an attestation without any proof.

It exists so that the whole path runs on a machine without a TEE. Anyone can make it, so a policy that names it
names nothing else, and everything that accepts it says so in red.

    report = "sottovoce insecure evidence v1" || 00 || report_data (64)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from attestation.collateral.source import Source
from attestation.errors import EvidenceError
from attestation.types import (
    REPORT_DATA_BYTES,
    Appraisal,
    Collateral,
    CollateralKey,
    CollateralKind,
    DeviceEvidence,
    Evidence,
    EvidenceKind,
    Nonce,
    ReportData,
    skipped,
)
from core.program.validation import STRICT, OnlyTrue

_log = structlog.get_logger(__name__)

_PREFIX = b"sottovoce insecure evidence v1\x00"

WARNING = "INSECURE development evidence: it proves nothing about the machine or its software."


@dataclass(frozen=True, slots=True)
class InsecurePolicy:
    """Accept development evidence. `accept` is spelled out so that an empty table does not do it by accident."""

    __pydantic_config__ = STRICT

    accept: OnlyTrue


class InsecureAttester:
    """An Attester for development machines; warns at every use."""

    kind = EvidenceKind.INSECURE
    source = EvidenceKind.INSECURE.value

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


def appraise(report: bytes, *_: object, **__: object) -> Appraisal:
    """Read the report_data. The machine is not checked, for there is nothing to check it by."""
    checks = (skipped("machine", WARNING),)
    try:
        return Appraisal(checks, parse_report(report))
    except EvidenceError:
        return Appraisal(checks, None)


class InsecureRules:
    """Implements `attestation.evidence.EvidenceRules`."""

    kind = EvidenceKind.INSECURE
    policy = InsecurePolicy
    roots: frozenset[str] = frozenset()
    tsm = None
    collateral: Mapping[CollateralKind, Source] = {}
    appraise = staticmethod(appraise)
    reported = staticmethod(parse_report)

    def recognises(self, data: bytes) -> bool:
        return data.startswith(_PREFIX)

    def needs(self, *_: object) -> tuple[CollateralKey, ...]:
        return ()

    def describe(self, *_: object) -> Mapping[str, str]:
        return {}  # it has nothing to tell

    def delivered(self, *_: object) -> Collateral:
        return {}
