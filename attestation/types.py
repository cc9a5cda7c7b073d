"""The package's vocabulary, after RFC 9334 (RATS)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

Nonce = NewType("Nonce", bytes)
"""32 random bytes that make an answer fresh."""

StatementBytes = NewType("StatementBytes", bytes)
"""A statement exactly as it was carried and hashed; never re-serialised."""

DeviceEvidence = NewType("DeviceEvidence", bytes)
"""GPU and switch evidence exactly as collected; empty when the machine has no such devices."""

ReportData = NewType("ReportData", bytes)
"""The 64 bytes that a TEE report lets its guest choose."""

NONCE_BYTES = 32
REPORT_DATA_BYTES = 64


class EvidenceKind(StrEnum):
    """What vouches for the machine."""

    INSECURE = "insecure"
    """Development only: proves nothing."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an attester produced; `report` is in the form its kind defines."""

    kind: EvidenceKind
    report: bytes


class CheckStatus(StrEnum):
    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a verification. A skipped check was not made, and is never shown as if it had passed."""

    name: str
    status: CheckStatus
    detail: str

    @property
    def failed(self) -> bool:
        return self.status is CheckStatus.FAIL


def passed(name: str, detail: str) -> Check:
    return Check(name, CheckStatus.PASS, detail)


def failed(name: str, detail: str) -> Check:
    return Check(name, CheckStatus.FAIL, detail)


def skipped(name: str, detail: str) -> Check:
    return Check(name, CheckStatus.SKIP, detail)


def judged(name: str, ok: bool, if_ok: str, if_not: str) -> Check:
    """A check that passes exactly when `ok`."""
    return passed(name, if_ok) if ok else failed(name, if_not)


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What the rules of one kind of evidence say of a report.

    checks: whether the report is authentic, and whether the machine it speaks of is acceptable.
    reported: the report_data it carries; None when the report cannot be read.
    """

    checks: tuple[Check, ...]
    reported: ReportData | None
