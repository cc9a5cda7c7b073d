"""A kind of evidence that proves nothing, as the file that a further kind would add: its table, its rules, its source.

report = "toy " || colour || 00 || report_data (64)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from attestation.collateral.roots import Roots
from attestation.collateral.source import Lookup, Source
from attestation.errors import EvidenceError
from attestation.types import (
    REPORT_DATA_BYTES,
    Appraisal,
    Collateral,
    CollateralKey,
    CollateralKind,
    EvidenceKind,
    ReportData,
    TsmProvider,
    judged,
)
from core.program.validation import STRICT, Label


@dataclass(frozen=True, slots=True)
class ToyPolicy:
    """The table `[toy]`."""

    __pydantic_config__ = STRICT

    colours: tuple[Label, ...]


PAINT = CollateralKey(CollateralKind.GPU_RIM, "paint")


async def _paint(lookup: Lookup) -> bytes:
    return lookup.name.encode()


SOURCES = {PAINT.kind: Source(_paint)}


class ToyRules:
    """Implements `attestation.evidence.EvidenceRules`."""

    kind = EvidenceKind("toy")
    policy = ToyPolicy
    roots: frozenset[str] = frozenset()
    tsm = TsmProvider("toy_guest")
    collateral = SOURCES

    def recognises(self, data: bytes) -> bool:
        return data.startswith(b"toy ")

    def appraise(
        self, report: bytes, policy: ToyPolicy, collateral: Collateral, *, roots: Roots, now: datetime
    ) -> Appraisal:
        colour = _colour(report)
        checks = (
            judged("toy colour", colour in policy.colours, colour, f"{colour}, which the policy does not name"),
            judged("toy paint", collateral.get(PAINT) == b"fresh", "fresh", "there is none, or it is dry"),
        )
        return Appraisal(checks, self.reported(report), {"colour": colour})

    def needs(self, report: bytes, policy: ToyPolicy, collateral: Collateral) -> tuple[CollateralKey, ...]:
        return (PAINT,)

    def reported(self, report: bytes) -> ReportData:
        _colour(report)
        return ReportData(report[-REPORT_DATA_BYTES:])

    def describe(self, report: bytes, collateral: Collateral) -> Mapping[str, str]:
        return {"colour": _colour(report)}

    def delivered(self, report: bytes, certificates: bytes) -> Collateral:
        return {PAINT: certificates}


def _colour(report: bytes) -> str:
    if not report.startswith(b"toy "):
        raise EvidenceError("not a toy")
    return report[4 : -REPORT_DATA_BYTES - 1].decode()
