"""Appraise what was forged, with one thing changed at a time."""

from __future__ import annotations

from datetime import datetime

from attestation.collateral.roots import Roots
from attestation.snp.abi import Product
from attestation.snp.appraise import CHECKS, appraise
from attestation.snp.policy import SnpPolicy
from attestation.types import Appraisal, CheckStatus, Collateral, CollateralKind
from tests.attestation.snp.forge import ForgedAmd

AMD = ForgedAmd(Product.MILAN)


def judge(
    amd: ForgedAmd = AMD,
    report: bytes | None = None,
    policy: SnpPolicy | None = None,
    collateral: Collateral | None = None,
    *,
    roots: Roots | None = None,
    now: datetime | None = None,
) -> Appraisal:
    """The appraisal of a good machine, but for what is given."""
    report = amd.report() if report is None else report
    appraisal = appraise(
        report,
        policy or amd.policy(),
        amd.collateral(report) if collateral is None else collateral,
        roots=roots or amd.roots,
        now=now or amd.now,
    )
    assert tuple(check.name for check in appraisal.checks) == CHECKS
    return appraisal


def replaced(collateral: Collateral, kind: CollateralKind, data: bytes | None) -> Collateral:
    """The same pieces, with other bytes for one of them, or without it."""
    others = {key: piece for key, piece in collateral.items() if key.kind is not kind}
    changed = {key: data for key in collateral if key.kind is kind and data is not None}
    return {**others, **changed}


def failed(appraisal: Appraisal) -> list[str]:
    return [check.name for check in appraisal.checks if check.failed]


def skipped(appraisal: Appraisal) -> list[str]:
    return [check.name for check in appraisal.checks if check.status is CheckStatus.SKIP]


def detail(appraisal: Appraisal, name: str) -> str:
    (found,) = [check.detail for check in appraisal.checks if check.name == name]
    return found
