"""Registers are compared as whole entries, so that no two releases can be mixed."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from attestation.tdx.abi import TdReport, parse_quote
from attestation.tdx.domain import domain_checks
from attestation.tdx.policy import CodeRelease, HardwareProfile, TdxPolicy
from attestation.types import Check, CheckStatus
from tests.attestation.tdx.forge import ForgedIntel

A, B, C, D, E, F = (bytes([number]) * 48 for number in range(1, 7))
REPORT = parse_quote(ForgedIntel().quote()).report
TWO_OF_EACH = TdxPolicy(
    (HardwareProfile(A.hex(), B.hex()), HardwareProfile(C.hex(), D.hex())),
    (CodeRelease(A.hex(), B.hex(), C.hex()), CodeRelease(D.hex(), E.hex(), F.hex())),
)


def _check(name: str, report: TdReport, policy: TdxPolicy = TWO_OF_EACH) -> Check:
    return next(check for check in domain_checks(report, policy) if check.name == name)


@pytest.mark.parametrize(("mr_td", "rtmr0"), list(product((A, C), (B, D))))
def test_only_a_whole_hardware_entry_is_accepted(mr_td: bytes, rtmr0: bytes) -> None:
    check = _check("tdx hardware", replace(REPORT, mr_td=mr_td, rtmr0=rtmr0))
    whole = (mr_td, rtmr0) in {(A, B), (C, D)}
    assert check.failed is not whole
    assert ("different entries" in check.detail) is not whole


@pytest.mark.parametrize(("rtmr1", "rtmr2", "rtmr3"), list(product((A, D), (B, E), (C, F))))
def test_only_a_whole_code_entry_is_accepted(rtmr1: bytes, rtmr2: bytes, rtmr3: bytes) -> None:
    check = _check("tdx code", replace(REPORT, rtmr1=rtmr1, rtmr2=rtmr2, rtmr3=rtmr3))
    whole = (rtmr1, rtmr2, rtmr3) in {(A, B, C), (D, E, F)}
    assert check.failed is not whole
    assert ("different entries" in check.detail) is not whole


def test_a_foreign_register_is_told_and_a_known_one_is_not() -> None:
    check = _check("tdx code", replace(REPORT, rtmr1=A, rtmr2=F, rtmr3=C))
    assert check.failed
    assert check.detail.endswith(f"has: rtmr2 {F.hex()}")


def test_the_entry_that_matched_is_told() -> None:
    assert _check("tdx hardware", replace(REPORT, mr_td=C, rtmr0=D)).detail.startswith("entry 1 of the policy")


def test_any_rtmr0_is_allowed_only_beside_its_firmware() -> None:
    policy = replace(TWO_OF_EACH, hardware=(HardwareProfile(A.hex()),), allow_any_rtmr0=True)
    for rtmr0 in (B, F):
        assert not _check("tdx hardware", replace(REPORT, mr_td=A, rtmr0=rtmr0), policy).failed
        assert _check("tdx rtmr0", replace(REPORT, rtmr0=rtmr0), policy).status is CheckStatus.SKIP
    assert _check("tdx hardware", replace(REPORT, mr_td=B), policy).failed


def test_any_rtmr3_is_allowed_only_beside_its_code() -> None:
    policy = replace(TWO_OF_EACH, code=(CodeRelease(A.hex(), B.hex()),), allow_any_rtmr3=True)
    for rtmr3 in (C, bytes(48)):
        assert not _check("tdx code", replace(REPORT, rtmr1=A, rtmr2=B, rtmr3=rtmr3), policy).failed
        assert _check("tdx rtmr3", replace(REPORT, rtmr3=rtmr3), policy).status is CheckStatus.SKIP
    assert _check("tdx code", replace(REPORT, rtmr1=A, rtmr2=C), policy).failed


def test_a_td_1_0_report_has_no_service_td_to_judge() -> None:
    assert _check("tdx mr_service_td", REPORT).status is CheckStatus.SKIP
    assert not _check("tdx mr_service_td", replace(REPORT, mr_service_td=bytes(48))).failed
    assert _check("tdx mr_service_td", replace(REPORT, mr_service_td=A)).failed


def test_debug_is_refused_whatever_the_policy_names() -> None:
    policy = replace(TWO_OF_EACH)
    object.__setattr__(policy, "td_attributes", ("0100001000000000",))  # no such policy can be built
    assert _check("tdx td_attributes", replace(REPORT, td_attributes=bytes.fromhex("0100001000000000")), policy).failed
