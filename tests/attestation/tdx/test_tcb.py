"""Intel's verdicts are accepted as the policy names them, each level by itself, with its advisories and its date."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from attestation.tdx.abi import parse_quote
from attestation.tdx.chain import TcbClaims, read_pck_chain, trusted_root, verify
from attestation.tdx.collateral import parse_collateral
from attestation.tdx.policy import NEEDS_ADVISORIES, NEEDS_GRACE, TcbStatus
from attestation.tdx.tcb import out_of_date_since, tcb_checks
from attestation.types import CheckStatus
from tests.attestation.tdx.forge import NOW, TCB_DATE, ForgedIntel, level, tcb_level

INTEL = ForgedIntel()
ADVISORY, OTHER_ADVISORY = "INTEL-SA-00615", "INTEL-SA-00837"
YEAR_S = 365 * 86_400
OLDER = TCB_DATE - timedelta(days=100)
PRESENT_BEHIND = bytes((6, 1, 2)) + bytes(13)
"""TEE_TCB_SVN2 of a domain whose module was replaced by one of an older TCB."""


def _claims(
    *levels: dict[str, Any],
    qe: dict[str, Any] | None = None,
    module: Mapping[str, Any] | None = None,
    intel: ForgedIntel = INTEL,
    **body: Any,
) -> TcbClaims:
    identities = {"tdxModuleIdentities": [module]} if module else {}
    members = intel.members(
        tcb_info={"tcbLevels": levels or [tcb_level()], **identities},
        qe_identity={"tcbLevels": [qe or level({"isvsvn": 4})]},
    )
    quote = parse_quote(intel.quote(version=5, **body))
    chain = read_pck_chain(quote)
    root = trusted_root(chain, intel.roots.tdx)
    return verify(quote, chain, parse_collateral(json.dumps(members).encode()), root=root, at_s=int(NOW.timestamp()))


def _checks(claims: TcbClaims, **changes: Any) -> dict[str, CheckStatus]:
    checks = tcb_checks(claims, INTEL.policy(**changes), NOW)
    return {check.name.removeprefix("tdx "): check.status for check in checks}


def _accepting(*statuses: TcbStatus) -> dict[str, Any]:
    named = set(statuses)
    return {
        "tcb_statuses": (TcbStatus.UP_TO_DATE, *statuses),
        "advisories": (ADVISORY,) if named & NEEDS_ADVISORIES else (),
        "out_of_date_grace_s": YEAR_S if named & NEEDS_GRACE else 0,
    }


PASS, FAIL, SKIP = CheckStatus.PASS, CheckStatus.FAIL, CheckStatus.SKIP

PLATFORM_STATUSES = [status for status in TcbStatus if not status.startswith(("UpToDate", "TDRelaunch"))]


@pytest.mark.parametrize("status", PLATFORM_STATUSES)
def test_a_status_is_accepted_where_it_is_named_and_only_there(status: TcbStatus) -> None:
    claims = _claims(tcb_level(status, ADVISORY))
    assert claims.tcb.status is status
    assert _checks(claims)["tcb status"] is FAIL
    named = _checks(claims, **_accepting(status))
    assert named["tcb status"] is PASS
    assert named["tcb advisories"] is (PASS if status in NEEDS_ADVISORIES else SKIP)
    assert named["tcb date"] is (PASS if status in NEEDS_GRACE else SKIP)


@pytest.mark.parametrize("status", sorted(NEEDS_ADVISORIES & set(PLATFORM_STATUSES)))
def test_an_advisory_that_is_not_named_is_refused(status: TcbStatus) -> None:
    checks = _checks(_claims(tcb_level(status, ADVISORY, OTHER_ADVISORY)), **_accepting(status))
    assert [name for name, found in checks.items() if found is FAIL] == ["tcb advisories"]


def test_an_advisory_hidden_behind_a_level_out_of_date_is_refused() -> None:
    accepting = _accepting(TcbStatus.OUT_OF_DATE, TcbStatus.SW_HARDENING_NEEDED)
    assert _checks(_claims(tcb_level("OutOfDate", ADVISORY)), **accepting)["tcb advisories"] is PASS
    hidden = _checks(_claims(tcb_level("OutOfDate", OTHER_ADVISORY)), **accepting)
    assert [name for name, found in hidden.items() if found is FAIL] == ["tcb advisories"]


@pytest.mark.parametrize("status", sorted(NEEDS_GRACE & set(PLATFORM_STATUSES)))
def test_a_tcb_past_its_grace_is_refused(status: TcbStatus) -> None:
    claims = _claims(tcb_level(status, ADVISORY))
    age_s = int((NOW - TCB_DATE).total_seconds())
    accepting = _accepting(status)
    assert _checks(claims, **accepting | {"out_of_date_grace_s": age_s})["tcb date"] is PASS
    late = _checks(claims, **accepting | {"out_of_date_grace_s": age_s - 1})
    assert [name for name, found in late.items() if found is FAIL] == ["tcb date"]


def test_advisories_and_age_of_what_is_up_to_date_do_not_matter() -> None:
    checks = _checks(_claims(tcb_level("UpToDate", OTHER_ADVISORY, date=OLDER)), **_accepting(*PLATFORM_STATUSES))
    assert (checks["tcb status"], checks["tcb advisories"], checks["tcb date"]) == (PASS, SKIP, SKIP)


def test_a_quoting_enclave_that_is_out_of_date_brings_the_verdict_down() -> None:
    claims = _claims(qe=level({"isvsvn": 4}, "OutOfDate", OTHER_ADVISORY, date=OLDER))
    assert claims.tcb.status is TcbStatus.OUT_OF_DATE
    assert _checks(claims)["tcb status"] is FAIL
    assert _checks(claims, **_accepting(TcbStatus.OUT_OF_DATE))["tcb date"] is PASS
    short = _accepting(TcbStatus.OUT_OF_DATE) | {"out_of_date_grace_s": 250 * 86_400}
    assert _checks(claims, **short)["tcb date"] is FAIL
    assert out_of_date_since(claims) == OLDER


def test_of_several_levels_out_of_date_the_oldest_counts() -> None:
    claims = _claims(tcb_level("OutOfDate"), qe=level({"isvsvn": 4}, "OutOfDate", date=OLDER))
    assert out_of_date_since(claims) == OLDER
    claims = _claims(tcb_level("OutOfDate", date=OLDER), qe=level({"isvsvn": 4}, "OutOfDate"))
    assert out_of_date_since(claims) == OLDER
    assert out_of_date_since(_claims()) is None


def test_hardening_that_a_quoting_enclave_out_of_date_would_hide_is_refused() -> None:
    claims = _claims(tcb_level("SWHardeningNeeded", OTHER_ADVISORY), qe=level({"isvsvn": 4}, "OutOfDate"))
    assert claims.tcb.status is TcbStatus.OUT_OF_DATE
    assert _checks(claims, **_accepting(TcbStatus.OUT_OF_DATE))["tcb status"] is FAIL


def test_a_quoting_enclave_that_needs_configuration_is_refused_though_intel_lets_it_pass() -> None:
    claims = _claims(qe=level({"isvsvn": 4}, "ConfigurationNeeded", OTHER_ADVISORY))
    assert claims.tcb.status is TcbStatus.UP_TO_DATE
    assert _checks(claims)["tcb status"] is FAIL
    named = _checks(claims, **_accepting(TcbStatus.CONFIGURATION_NEEDED))
    assert (named["tcb status"], named["tcb advisories"]) == (PASS, FAIL)


def test_a_present_tcb_that_is_out_of_date_is_refused_though_intel_lets_it_pass() -> None:
    levels = (tcb_level(tdx=(5, 0, 3)), tcb_level("OutOfDate", tdx=(5, 0, 2), date=OLDER))
    claims = _claims(*levels, tee_tcb_svn2=PRESENT_BEHIND)
    assert claims.tcb.status is TcbStatus.UP_TO_DATE
    assert _checks(claims)["tcb status"] is FAIL
    assert _checks(claims, **_accepting(TcbStatus.OUT_OF_DATE))["tcb status"] is PASS


@pytest.mark.parametrize(
    ("launched", "advised"),
    [
        ("OutOfDate", TcbStatus.TD_RELAUNCH_ADVISED),
        ("OutOfDateConfigurationNeeded", TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED),
    ],
)
def test_a_domain_from_before_an_update_is_accepted_where_that_is_named(launched: str, advised: TcbStatus) -> None:
    levels = (tcb_level(tdx=(5, 0, 3)), tcb_level(launched, ADVISORY, tdx=(5, 0, 2)))
    claims = _claims(*levels, tee_tcb_svn=PRESENT_BEHIND)
    assert claims.tcb.status is advised
    assert _checks(claims)["tcb status"] is FAIL
    named = _checks(claims, **_accepting(advised))
    assert (named["tcb status"], named["tcb date"]) == (PASS, PASS)


def test_a_module_that_is_out_of_date_brings_the_verdict_down() -> None:
    module = {
        "id": "TDX_01",
        "mrsigner": "00" * 48,
        "attributes": "00" * 8,
        "attributesMask": "FF" * 8,
        "tcbLevels": [level({"isvsvn": 7}), level({"isvsvn": 2}, "OutOfDate", date=OLDER)],
    }
    claims = _claims(module=module)
    assert claims.tcb.status is TcbStatus.OUT_OF_DATE
    assert claims.platform.tcb_level.date == OLDER


def test_the_lower_evaluation_number_counts() -> None:
    members = INTEL.members(qe_identity={"tcbEvaluationDataNumber": 17})
    quote = parse_quote(INTEL.quote())
    chain = read_pck_chain(quote)
    collateral = parse_collateral(json.dumps(members).encode())
    claims = verify(quote, chain, collateral, root=trusted_root(chain, INTEL.roots.tdx), at_s=int(NOW.timestamp()))
    assert _checks(claims, min_tcb_evaluation_data_number=18)["tcb evaluation"] is FAIL
    assert _checks(claims, min_tcb_evaluation_data_number=17)["tcb evaluation"] is PASS


FLAGS = {
    "dynamic_platform": ("require_static_platform", "static platform"),
    "cached_keys": ("require_uncached_keys", "uncached keys"),
    "smt_enabled": ("require_smt_off", "smt off"),
}


@pytest.mark.parametrize(("flag", "rule"), FLAGS.items(), ids=FLAGS)
@pytest.mark.parametrize("value", [True, False, None])
def test_a_flag_that_is_required_must_be_there_and_say_no(flag: str, rule: tuple[str, str], value: bool | None) -> None:
    option, name = rule
    claims = _claims(intel=ForgedIntel(platform={flag: value}))
    assert _checks(claims)[name] is SKIP
    assert _checks(claims, **{option: True})[name] is (PASS if value is False else FAIL)


@pytest.mark.parametrize("sgx_type", [0, 1, 2])
def test_only_type_2_has_integrity_of_memory(sgx_type: int) -> None:
    claims = _claims(intel=ForgedIntel(platform={"sgx_type": sgx_type}))
    assert _checks(claims, require_memory_integrity=True)["memory integrity"] is (PASS if sgx_type == 2 else FAIL)


def test_a_platform_without_an_id_is_none_of_those_named() -> None:
    claims = _claims(intel=ForgedIntel(platform={"platform_instance_id": None}))
    assert _checks(claims, platform_instance_ids=("01" * 16,))["platform instance id"] is FAIL
    assert _checks(claims, platform_instance_ids=None)["platform instance id"] is SKIP
