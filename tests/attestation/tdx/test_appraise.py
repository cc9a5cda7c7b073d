"""Each check fails by itself, none is left out, and what cannot be judged is never passed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.collateral.roots import VENDOR_ROOTS, Roots
from attestation.tdx.appraise import appraise, needs
from attestation.tdx.policy import CodeRelease, HardwareProfile, TcbStatus, TdxPolicy
from attestation.types import Appraisal, CheckStatus, CollateralKey, ReportData
from tests.attestation.tdx.forge import BODY, NOW, PLATFORM, TCB_DATE, ForgedIntel, tcb_level

INTEL = ForgedIntel()
POLICY = INTEL.policy()
QUOTE = INTEL.quote(version=5)
COLLATERAL = INTEL.collateral()
ROOTS = INTEL.roots

STEPS = [
    "tdx quote",
    "tdx pck chain",
    "tdx root",
    "tdx collateral",
    "tdx collateral validity",
    "tdx collateral age",
    "tdx certificates",
    "tdx authenticity",
    "tdx tcb status",
    "tdx tcb advisories",
    "tdx tcb date",
    "tdx tcb evaluation",
    "tdx static platform",
    "tdx uncached keys",
    "tdx smt off",
    "tdx memory integrity",
    "tdx platform instance id",
    "tdx ppid",
    "tdx module",
    "tdx mr_seam",
    "tdx td_attributes",
    "tdx xfam",
    "tdx mr_service_td",
    "tdx mr_config_id",
    "tdx mr_owner",
    "tdx mr_owner_config",
    "tdx hardware",
    "tdx code",
]
OF_PLATFORM = STEPS[8:18]
UNASKED = [
    "tdx tcb advisories",
    "tdx tcb date",
    "tdx static platform",
    "tdx uncached keys",
    "tdx smt off",
    "tdx memory integrity",
]


def _names(appraisal: Appraisal, status: CheckStatus) -> list[str]:
    return [check.name for check in appraisal.checks if check.status is status]


def _failed(appraisal: Appraisal) -> list[str]:
    assert all(check.detail.isprintable() and len(check.detail) < 1000 for check in appraisal.checks)
    return _names(appraisal, CheckStatus.FAIL)


@dataclass(frozen=True)
class _Case:
    quote: bytes = QUOTE
    policy: TdxPolicy = POLICY
    collateral: Mapping[CollateralKey, bytes] = field(default_factory=lambda: COLLATERAL)
    roots: Roots = ROOTS
    now: datetime = NOW

    def appraise(self) -> Appraisal:
        return appraise(self.quote, self.policy, self.collateral, roots=self.roots, now=self.now)


def _of(intel: ForgedIntel, **changes: Any) -> _Case:
    """A case of another platform, whose collateral and roots are its own."""
    return replace(_Case(intel.quote(version=5), collateral=intel.collateral(), roots=intel.roots), **changes)


def test_a_machine_within_the_policy_is_accepted() -> None:
    appraisal = _Case().appraise()
    assert [check.name for check in appraisal.checks] == STEPS
    assert _failed(appraisal) == []
    assert _names(appraisal, CheckStatus.SKIP) == UNASKED
    assert appraisal.reported == bytes(64)
    assert appraisal.claims == {
        **{name: BODY[name].hex() for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_seam", "tee_tcb_svn")},
        **{name: BODY[name].hex() for name in ("td_attributes", "xfam")},
        "fmspc": "b0c06f000000",
        "ppid": PLATFORM["ppid"].hex(),
        "platform_instance_id": PLATFORM["platform_instance_id"].hex(),
        "tcb_status": "UpToDate",
        "tcb_date": f"{TCB_DATE:%Y-%m-%d}",
        "tcb_advisories": "none",
    }


@pytest.mark.parametrize("name", ["mr_config_id", "mr_owner", "mr_owner_config"])
def test_an_old_and_a_new_configuration_are_accepted_beside_each_other(name: str) -> None:
    both = INTEL.policy(**{name: ("00" * 48, "01" * 48)})
    for value in (bytes(48), b"\x01" * 48):
        assert _failed(_Case(_quote(**{name: value}), both).appraise()) == []
    assert _failed(_Case(_quote(**{name: b"\x02" * 48}), both).appraise()) == [f"tdx {name}"]


def test_what_the_quote_reports_is_handed_on() -> None:
    data = bytes(range(64))
    assert _Case(INTEL.quote(data)).appraise().reported == data


def test_a_policy_that_asks_for_little_passes_little() -> None:
    little = TdxPolicy(
        (HardwareProfile(BODY["mr_td"].hex()),),
        (CodeRelease(BODY["rtmr1"].hex(), BODY["rtmr2"].hex()),),
        allow_any_rtmr0=True,
        allow_any_rtmr3=True,
    )
    appraisal = _Case(policy=little).appraise()
    assert _failed(appraisal) == []
    assert set(_names(appraisal, CheckStatus.SKIP)) - set(UNASKED) == {
        "tdx collateral age",
        "tdx tcb evaluation",
        "tdx platform instance id",
        "tdx ppid",
        "tdx mr_seam",
        "tdx rtmr0",
        "tdx rtmr3",
    }


OTHER = "5a" * 48


def _strict(**changes: Any) -> TdxPolicy:
    return INTEL.policy(**changes)


def _quote(**body: Any) -> bytes:
    return INTEL.quote(version=5, **body)


def _tcb(*levels: dict[str, Any]) -> dict[CollateralKey, bytes]:
    return INTEL.collateral(INTEL.members(tcb_info={"tcbLevels": levels}))


SOON_REPLACED = ForgedIntel(now=NOW - timedelta(days=35))
"""Its collateral was due to be replaced a week ago."""
LAX_AGE = SOON_REPLACED.policy(max_collateral_age_s=40 * 86_400)

CASES = {
    "another root": ("tdx root", _Case(roots=VENDOR_ROOTS)),
    "no collateral": ("tdx collateral", _Case(collateral={})),
    "collateral that cannot be read": ("tdx collateral", _Case(collateral=dict.fromkeys(COLLATERAL, b"{}"))),
    "collateral that was due to be replaced": ("tdx collateral validity", _of(SOON_REPLACED, policy=LAX_AGE)),
    "collateral at the end of its time": (
        "tdx collateral validity",
        _Case(now=INTEL.next_update, policy=_strict(max_collateral_age_s=40 * 86_400)),
    ),
    "collateral that is too old": ("tdx collateral age", _Case(policy=_strict(max_collateral_age_s=86_400))),
    "altered collateral": (
        "tdx authenticity",
        _Case(collateral=INTEL.collateral(INTEL.members() | {"tcb_info": INTEL.tcb_info(tcbType=1)})),
    ),
    "a quote signed by another": ("tdx authenticity", _Case(INTEL.quote(version=5, signer="somebody"))),
    "a platform that is out of date": ("tdx tcb status", _Case(collateral=_tcb(tcb_level("OutOfDate")))),
    "a platform that needs configuration": (
        "tdx tcb status",
        _Case(collateral=_tcb(tcb_level("ConfigurationNeeded", "INTEL-SA-00615"))),
    ),
    "a platform from before a recovery": (
        "tdx tcb evaluation",
        _Case(policy=_strict(min_tcb_evaluation_data_number=19)),
    ),
    "a platform that can grow": ("tdx static platform", _Case(policy=_strict(require_static_platform=True))),
    "a platform whose keys are cached": ("tdx uncached keys", _Case(policy=_strict(require_uncached_keys=True))),
    "a platform with SMT": ("tdx smt off", _Case(policy=_strict(require_smt_off=True))),
    "a platform without integrity": ("tdx memory integrity", _Case(policy=_strict(require_memory_integrity=True))),
    "another platform": ("tdx platform instance id", _Case(policy=_strict(platform_instance_ids=("01" * 16,)))),
    "another processor": ("tdx ppid", _Case(policy=_strict(ppids=("01" * 16,)))),
    "another module": ("tdx mr_seam", _Case(_quote(mr_seam=b"\x01" * 48))),
    "performance monitoring": ("tdx td_attributes", _Case(_quote(td_attributes=bytes.fromhex("0000001000000080")))),
    "protection keys": ("tdx td_attributes", _Case(_quote(td_attributes=bytes.fromhex("0000005000000000")))),
    "another extended state": ("tdx xfam", _Case(_quote(xfam=bytes.fromhex("e700060000000000")))),
    "a configuration": ("tdx mr_config_id", _Case(_quote(mr_config_id=b"\x01" * 48))),
    "an owner": ("tdx mr_owner", _Case(_quote(mr_owner=b"\x01" * 48))),
    "an owner's configuration": ("tdx mr_owner_config", _Case(_quote(mr_owner_config=b"\x01" * 48))),
    "other firmware": ("tdx hardware", _Case(_quote(mr_td=b"\x01" * 48))),
    "another configuration of the firmware": ("tdx hardware", _Case(_quote(rtmr0=b"\x01" * 48))),
    "another kernel": ("tdx code", _Case(_quote(rtmr1=b"\x01" * 48))),
    "another command line": ("tdx code", _Case(_quote(rtmr2=b"\x01" * 48))),
    "something measured at run time": ("tdx code", _Case(_quote(rtmr3=b"\x01" * 48))),
}


@pytest.mark.parametrize(("check", "case"), CASES.values(), ids=CASES)
def test_each_check_fails_by_itself(check: str, case: _Case) -> None:
    appraisal = case.appraise()
    assert [found.name for found in appraisal.checks] == STEPS
    assert _failed(appraisal) == [check]


# The library refuses these too, so that two lines tell of them.
TWICE = {
    "a module by another": ("tdx module", _Case(_quote(mr_signer_seam=b"\x01" * 48))),
    "a module not in production": ("tdx module", _Case(_quote(seam_attributes=b"\x01" + bytes(7)))),
    "a debug domain": ("tdx td_attributes", _Case(_quote(td_attributes=bytes.fromhex("0100001000000000")))),
    "a migratable domain": ("tdx td_attributes", _Case(_quote(td_attributes=bytes.fromhex("0000003000000000")))),
    "a service domain": ("tdx mr_service_td", _Case(_quote(mr_service_td=b"\x01" * 48))),
}


@pytest.mark.parametrize(("check", "case"), TWICE.values(), ids=TWICE)
def test_what_the_library_refuses_too_is_told_twice(check: str, case: _Case) -> None:
    appraisal = case.appraise()
    assert _failed(appraisal) == ["tdx authenticity", check]
    assert appraisal.claims == {}


def test_every_step_but_the_first_two_and_those_above_has_a_case() -> None:
    told = {check for check, _ in (*CASES.values(), *TWICE.values())}
    elsewhere = {"tdx quote", "tdx pck chain", "tdx certificates", "tdx tcb advisories", "tdx tcb date"}
    assert told == set(STEPS) - elsewhere


def test_a_debug_domain_is_named_as_such() -> None:
    appraisal = TWICE["a debug domain"][1].appraise()
    assert any("a debug domain" in check.detail for check in appraisal.checks if check.failed)


def test_a_quote_that_cannot_be_read_fails_and_everything_else_is_skipped() -> None:
    appraisal = _Case(b"no quote").appraise()
    assert [check.name for check in appraisal.checks] == STEPS
    assert _failed(appraisal) == ["tdx quote"]
    assert _names(appraisal, CheckStatus.SKIP) == STEPS[1:]
    assert (appraisal.reported, dict(appraisal.claims), appraisal.valid_until) == (None, {}, None)


def test_a_chain_that_cannot_be_read_leaves_the_domain_to_be_judged() -> None:
    appraisal = _Case(INTEL.quote(version=5, pck_chain=INTEL.pem("pck", "platform"))).appraise()
    assert [check.name for check in appraisal.checks] == STEPS
    assert _failed(appraisal) == ["tdx pck chain"]
    assert _names(appraisal, CheckStatus.SKIP) == STEPS[2:18]
    assert appraisal.reported == bytes(64)


@pytest.mark.parametrize("name", ["another root", "no collateral", "altered collateral", "a quote signed by another"])
def test_nothing_is_claimed_of_a_platform_that_is_not_authentic(name: str) -> None:
    appraisal = CASES[name][1].appraise()
    assert set(OF_PLATFORM) <= set(_names(appraisal, CheckStatus.SKIP))
    assert dict(appraisal.claims) == {}
    assert appraisal.valid_until is None


@pytest.mark.parametrize("role", ["root", "platform", "pck", "tcb signing"])
def test_a_certificate_past_its_end_is_refused_even_within_the_grace_of_collateral(role: str) -> None:
    # As of the last moment of its collateral every certificate was valid, and the library is content.
    late = NOW + timedelta(days=30)
    ending = ForgedIntel(ends={role: NOW + timedelta(days=29)})
    policy = ending.policy(collateral_grace_s=10 * 86_400, max_collateral_age_s=60 * 86_400)
    assert _failed(_of(ending, policy=policy, now=late).appraise()) == ["tdx certificates"]


def test_collateral_within_the_grace_is_accepted_until_it_ends() -> None:
    policy = _strict(collateral_grace_s=86_400, max_collateral_age_s=60 * 86_400)
    end = INTEL.next_update + timedelta(days=1)
    for now in (INTEL.next_update - timedelta(seconds=1), INTEL.next_update, end - timedelta(seconds=1)):
        appraisal = _Case(policy=policy, now=now).appraise()
        assert _failed(appraisal) == []
        assert appraisal.valid_until == end
    assert _failed(_Case(policy=policy, now=end).appraise()) == ["tdx collateral validity"]


def test_collateral_from_the_future_is_refused() -> None:
    case = _Case(now=INTEL.issued - timedelta(seconds=1))
    assert _failed(case.appraise()) == ["tdx collateral validity", "tdx authenticity"]


def test_an_appraisal_holds_until_the_first_thing_it_rests_on_ends() -> None:
    plain = _strict(max_collateral_age_s=None)
    assert _Case(policy=plain).appraise().valid_until == INTEL.next_update
    aged = _strict(max_collateral_age_s=3 * 86_400)
    assert _Case(policy=aged).appraise().valid_until == INTEL.issued + timedelta(days=3)
    end = NOW + timedelta(days=1)
    assert _of(ForgedIntel(ends={"pck": end}), policy=plain).appraise().valid_until == end
    ageing = _strict(tcb_statuses=(TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE), out_of_date_grace_s=201 * 86_400)
    late = _Case(policy=ageing, collateral=_tcb(tcb_level("OutOfDate"))).appraise()
    assert _failed(late) == []
    assert late.valid_until == TCB_DATE + timedelta(days=201)


def test_evidence_may_bring_its_collateral() -> None:
    evidence = INTEL.evidence(ReportData(bytes(range(64))))
    appraisal = _Case(evidence.report, collateral=evidence.collateral).appraise()
    assert (_failed(appraisal), appraisal.reported) == ([], bytes(range(64)))


def test_one_piece_of_collateral_is_needed() -> None:
    assert needs(QUOTE, POLICY, {}) == needs(QUOTE, POLICY, COLLATERAL) == (INTEL.key,)
    processor = ForgedIntel(ca="processor")
    assert needs(processor.quote(), POLICY, {}) == (processor.key,)


@pytest.mark.parametrize(
    "quote", [b"", b"no quote", INTEL.quote(pck_chain="no chain")], ids=["none", "bad", "no chain"]
)
def test_nothing_is_needed_for_what_cannot_be_read(quote: bytes) -> None:
    assert needs(quote, POLICY, {}) == ()


def test_collateral_of_another_platform_is_not_looked_at() -> None:
    other = ForgedIntel(platform={"fmspc": bytes(6)})
    assert _failed(_Case(collateral=other.collateral()).appraise()) == ["tdx collateral"]
    swapped = {INTEL.key: other.collateral()[other.key]}
    assert _failed(_Case(collateral=swapped).appraise()) == ["tdx authenticity"]


def test_the_same_machine_with_the_same_software_gives_the_same_claims() -> None:
    again = _Case(INTEL.quote(b"\x01" * 64, version=5), collateral=INTEL.collateral()).appraise()
    assert dict(again.claims) == dict(_Case().appraise().claims)


@settings(max_examples=50)
@given(st.integers(0, len(QUOTE) - 1), st.binary(min_size=1, max_size=60))
def test_no_report_makes_it_raise_and_none_but_the_right_one_passes(at: int, spoilt: bytes) -> None:
    report = QUOTE[:at] + spoilt + QUOTE[at + len(spoilt) :]
    assert _failed(_Case(report).appraise()) or _said(report[: len(QUOTE)]) == _said(QUOTE)


def _said(quote: bytes) -> tuple[bytes, list[bytes]]:
    """What is signed, and the certificates; not how the lines of these end, in which nothing is said."""
    start = QUOTE.index(b"-----BEGIN")
    chain = x509.load_pem_x509_certificates(quote[start:].rstrip(b"\0"))
    return quote[:start], [certificate.public_bytes(Encoding.DER) for certificate in chain]


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(report: bytes) -> None:
    assert _failed(_Case(report).appraise()) == ["tdx quote"]


@given(st.binary(max_size=300))
def test_no_collateral_makes_it_raise(data: bytes) -> None:
    assert _failed(_Case(collateral={INTEL.key: data}).appraise()) == ["tdx collateral"]
