"""Which kinds of evidence are there, and what is particular to each? One row each, which everybody else goes by.

A further kind is a folder with its rules, a member of `EvidenceKind`, a row here, and its table in `docs/policy.md`.
Devices are no kind of evidence: whatever vouches for the machine, `attestation.gpu` speaks of its GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from attestation.collateral.roots import Roots
from attestation.collateral.source import Source
from attestation.insecure import InsecureRules
from attestation.snp.rules import SnpRules
from attestation.tdx.rules import TdxRules
from attestation.types import (
    Appraisal,
    Collateral,
    CollateralKey,
    CollateralKind,
    EvidenceKind,
    ReportData,
    TsmProvider,
)

P = TypeVar("P")


class EvidenceRules(Protocol[P]):
    """What is particular to a kind of evidence. P: its table in a policy, a frozen dataclass."""

    @property
    def kind(self) -> EvidenceKind: ...

    @property
    def policy(self) -> type[P]: ...

    @property
    def roots(self) -> frozenset[str]:
        """The fields of `Roots` that are its own."""

    @property
    def tsm(self) -> TsmProvider | None:
        """How Linux hands it out; None when it does not."""

    @property
    def collateral(self) -> Mapping[CollateralKind, Source]:
        """The kinds of collateral that are its own."""

    def recognises(self, data: bytes) -> bool:
        """Whether bytes that nobody says anything of begin as a report of this kind does."""

    def appraise(self, report: bytes, policy: P, collateral: Collateral, *, roots: Roots, now: datetime) -> Appraisal:
        """Judge a report and the machine that it speaks of. Never raises for what it is given as evidence."""

    def needs(self, report: bytes, policy: P, collateral: Collateral) -> tuple[CollateralKey, ...]:
        """What `appraise` will look up, as far as what is at hand tells."""

    def reported(self, report: bytes) -> ReportData:
        """The 64 bytes in a report that is not believed yet. Raises EvidenceError."""

    def describe(self, report: bytes, collateral: Collateral) -> Mapping[str, str]:
        """What a report that nobody judged says of its machine, by name, for people. Raises EvidenceError."""

    def delivered(self, report: bytes, certificates: bytes) -> Collateral:
        """What the host handed out beside a report, by the names that `appraise` looks up. Raises EvidenceError."""


KINDS: Final[Mapping[EvidenceKind, EvidenceRules[Any]]] = {
    rules.kind: rules for rules in (InsecureRules(), SnpRules(), TdxRules())
}
