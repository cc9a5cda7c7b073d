"""Each check fails by itself, none is left out, and only a whole verdict accepts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from attestation.channel.keyconfig import GatewayKey, KeyConfig
from attestation.document import AttestationDocument
from attestation.errors import EvidenceError, RefusedError
from attestation.policy import InsecureRoots, Policy, Release, StatementPolicy, parse_policy
from attestation.statement import encode_statement
from attestation.types import (
    Check,
    CheckStatus,
    CollateralKey,
    DeviceEvidence,
    Evidence,
    EvidenceKind,
    Nonce,
    StatementBytes,
)
from attestation.verify import _APPRAISERS, AttestationResult, needs, verify
from tests.attestation import machines, policies
from tests.attestation.samples import (
    DEFAULT_POLICY,
    NONCE,
    NOW,
    OTHER_NONCE,
    STATEMENT,
    STRICT_POLICY,
    attested,
    statement_with,
)

STEPS = [
    "nonce",
    "evidence kind",
    "machine",
    "binding",
    "devices",
    "lifetime",
    "keys",
    "log level",
    "request log",
    "backend",
    "backend arguments",
    "plugins",
    "options",
    "api keys",
    "models",
]


def _verify(
    document: AttestationDocument, policy: Policy = STRICT_POLICY, *, expected: Nonce = NONCE, now: datetime = NOW
) -> AttestationResult:
    return verify(document, policy, document.collateral, expected=expected, now=now)


def _status(checks: tuple[Check, ...], status: CheckStatus) -> list[str]:
    return [check.name for check in checks if check.status is status]


def test_an_engine_within_the_policy_is_accepted() -> None:
    result = _verify(attested())
    assert result.statement == STATEMENT
    assert result.kind is EvidenceKind.INSECURE
    assert result.verified_at == NOW
    assert result.expires_at == NOW + timedelta(hours=1)
    assert [check.name for check in result.checks] == STEPS
    assert _status(result.checks, CheckStatus.SKIP) == ["machine", "devices"]


def test_what_the_policy_does_not_ask_is_skipped_and_not_passed() -> None:
    result = _verify(attested(), DEFAULT_POLICY)
    assert _status(result.checks, CheckStatus.SKIP) == ["machine", "devices", "backend arguments", "api keys", "models"]


def test_one_answer_to_many_nonces_satisfies_each_of_them() -> None:
    document = attested(nonces=(OTHER_NONCE, NONCE))
    for nonce in (NONCE, OTHER_NONCE):
        assert _verify(document, expected=nonce).checks


@dataclass(frozen=True)
class _Case:
    check: str
    document: AttestationDocument
    policy: Policy = STRICT_POLICY
    now: datetime = NOW


def _confessing(**changes: Any) -> AttestationDocument:
    return attested(statement_with(**changes))


def _with_policy(**changes: Any) -> Policy:
    return replace(STRICT_POLICY, statement=replace(STRICT_POLICY.statement, **changes))


GOOD = attested()
_FOREIGN_KEY = KeyConfig(1, 0x7777, b"whatever", ())

CASES = {
    "another nonce": _Case("nonce", attested(nonces=(OTHER_NONCE,))),
    "many other nonces": _Case("nonce", attested(nonces=tuple(Nonce(bytes([n]) * 32) for n in range(64)))),
    "our nonce added afterwards": _Case(
        "binding", replace(attested(nonces=(OTHER_NONCE,)), nonces=(OTHER_NONCE, NONCE))
    ),
    "nonces in another order": _Case(
        "binding", replace(attested(nonces=(OTHER_NONCE, NONCE)), nonces=(NONCE, OTHER_NONCE))
    ),
    "another statement": _Case("binding", replace(GOOD, statement=encode_statement(statement_with(instance="other")))),
    "another key": _Case(
        "binding",
        replace(GOOD, statement=encode_statement(statement_with(ohttp_keys=(GatewayKey.generate(()).config,)))),
    ),
    "a statement written anew": _Case("binding", replace(GOOD, statement=StatementBytes(GOOD.statement + b" "))),
    "evidence cut short": _Case(
        "binding", replace(GOOD, evidence=Evidence(EvidenceKind.INSECURE, GOOD.evidence.report[:-1]))
    ),
    "no evidence at all": _Case("binding", replace(GOOD, evidence=Evidence(EvidenceKind.INSECURE, b""))),
    "device evidence without rules": _Case("devices", attested(devices=DeviceEvidence(b"a GPU"))),
    "expired": _Case("lifetime", GOOD, now=NOW + timedelta(hours=1, seconds=1)),
    "expiring now": _Case("lifetime", GOOD, now=NOW + timedelta(hours=1)),
    "a lifetime beyond the policy": _Case("lifetime", _confessing(not_after=int(NOW.timestamp()) + 90_001)),
    "a lifetime beyond a shorter policy": _Case("lifetime", GOOD, _with_policy(max_lifetime_s=3599)),
    "a lifetime until the year 9999": _Case("lifetime", _confessing(not_after=253_402_300_799)),
    "keys of another suite only": _Case("keys", _confessing(ohttp_keys=(_FOREIGN_KEY,))),
    "debug logging": _Case("log level", _confessing(log_level="debug")),
    "an unknown log level": _Case("log level", _confessing(log_level="trace")),
    "a request log": _Case("request log", _confessing(request_log=True)),
    "an attached backend": _Case("backend", _confessing(backend_attached=True)),
    "an argument of the backend": _Case("backend arguments", _confessing(backend_arguments=("device=cpu", "log=all"))),
    "a plugin": _Case("plugins", _confessing(plugins=("spy",))),
    "an allow option": _Case("options", _confessing(insecure_options=("allow_unsandboxed_decoder",))),
    "an insecure option": _Case("options", _confessing(insecure_options=("insecure_roots",))),
    "no API keys": _Case("api keys", _confessing(api_keys_required=False)),
    "other weights": _Case("models", _confessing(models=(replace(STATEMENT.models[0], weights_sha256="00" * 32),))),
    "another model": _Case("models", _confessing(models=(*STATEMENT.models, replace(STATEMENT.models[0], id="b")))),
    "no model at all": _Case("models", _confessing(models=())),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_fault_fails_exactly_its_check(case: _Case) -> None:
    with pytest.raises(RefusedError) as refusal:
        _verify(case.document, case.policy, now=case.now)
    assert _status(refusal.value.checks, CheckStatus.FAIL) == [case.check]
    assert [check.name for check in refusal.value.checks] == STEPS


def test_every_check_that_is_judged_has_a_case() -> None:
    elsewhere = {"machine", "evidence kind"}
    assert {case.check for case in CASES.values()} == set(STEPS) - elsewhere


_CONFESSED = ["log level", "request log", "backend", "plugins", "options"]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.check in _CONFESSED])
def test_the_default_policy_refuses_what_the_statement_confesses(name: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        _verify(CASES[name].document, replace(DEFAULT_POLICY, statement=StatementPolicy()))
    assert _status(refusal.value.checks, CheckStatus.FAIL) == [CASES[name].check]


@pytest.mark.parametrize(
    ("confessed", "allowed"),
    [
        ({"log_level": "debug"}, {"log_levels": ("debug",)}),
        ({"request_log": True}, {"allow_request_log": True}),
        ({"backend_attached": True}, {"allow_attached_backend": True}),
        ({"plugins": ("p",)}, {"allow_plugins": ("p", "q")}),
        ({"insecure_options": ("allow_a",)}, {"allow_options": ("allow_a",)}),
        ({"backend_arguments": ()}, {"backend_arguments": ()}),
    ],
)
def test_what_the_policy_allows_is_accepted(confessed: dict[str, Any], allowed: dict[str, Any]) -> None:
    assert _verify(_confessing(**confessed), _with_policy(**allowed)).checks


def test_every_step_is_taken_and_every_fault_told() -> None:
    worst = statement_with(
        not_after=int(NOW.timestamp()) - 1,
        ohttp_keys=(_FOREIGN_KEY,),
        log_level="debug",
        request_log=True,
        backend_attached=True,
        backend_arguments=("x",),
        plugins=("p",),
        insecure_options=("allow_a",),
        api_keys_required=False,
        models=(),
    )
    document = replace(attested(worst, (OTHER_NONCE,)), device_evidence=DeviceEvidence(b"x"))
    with pytest.raises(RefusedError) as refusal:
        _verify(document)
    failed = _status(refusal.value.checks, CheckStatus.FAIL)
    assert failed == [step for step in STEPS if step not in ("evidence kind", "machine")]
    assert all(f"{name}: " in str(refusal.value) for name in failed)


SNP_POLICY = replace(
    parse_policy(policies.SNP.encode()), statement=STRICT_POLICY.statement, models=STRICT_POLICY.models
)
"""Asks for another kind of evidence than the samples have."""


def test_evidence_of_a_kind_that_the_policy_does_not_name_is_not_appraised() -> None:
    with pytest.raises(RefusedError) as refusal:
        _verify(_confessing(insecure_options=()), SNP_POLICY)
    assert _status(refusal.value.checks, CheckStatus.FAIL) == ["evidence kind"]
    assert _status(refusal.value.checks, CheckStatus.SKIP) == ["machine", "binding", "devices"]


def test_only_an_insecure_policy_implies_the_option_of_development_evidence() -> None:
    with pytest.raises(RefusedError) as refusal:
        _verify(attested(), SNP_POLICY)
    assert "options" in _status(refusal.value.checks, CheckStatus.FAIL)


# Machines and devices


@pytest.mark.parametrize(
    ("document", "policy"),
    [(machines.snp_document(), machines.SNP_POLICY), (machines.tdx_document(), machines.TDX_POLICY)],
    ids=["snp and a GPU", "tdx"],
)
def test_a_machine_that_its_vendors_vouch_for_is_accepted(document: AttestationDocument, policy: Policy) -> None:
    result = _verify(document, policy)
    assert result.kind is document.evidence.kind
    assert result.claims
    assert result.collateral_expires_at is not None
    assert NOW < result.expires_at <= min(result.collateral_expires_at, NOW + timedelta(hours=1))
    assert all(f"{word}" not in " ".join(result.claims.values()) for word in (NONCE.hex(), result.statement.instance))


def test_another_nonce_and_another_key_leave_the_claims_as_they_are() -> None:
    other = replace(machines.SECURE, ohttp_keys=(GatewayKey.generate(()).config,))
    first = _verify(machines.snp_document(), machines.SNP_POLICY)
    second = _verify(machines.snp_document(other, (OTHER_NONCE,)), machines.SNP_POLICY, expected=OTHER_NONCE)
    assert first.claims == second.claims


def test_collateral_that_expires_ends_the_trust() -> None:
    result = _verify(machines.tdx_document(), machines.TDX_POLICY)
    ends = result.collateral_expires_at
    assert ends is not None
    late = machines.tdx_document(replace(machines.SECURE, not_after=int(ends.timestamp()) + 3600))
    short = _verify(late, machines.TDX_POLICY, now=ends - timedelta(minutes=5))
    assert short.expires_at == ends
    assert "tdx collateral" in " ".join(_failed(late, machines.TDX_POLICY, now=ends + timedelta(minutes=5)))


def _failed(document: AttestationDocument, policy: Policy, *, now: datetime = NOW) -> list[str]:
    with pytest.raises(RefusedError) as refusal:
        _verify(document, policy, now=now)
    return _status(refusal.value.checks, CheckStatus.FAIL)


def test_evidence_taken_apart_is_refused() -> None:
    good, other = machines.snp_document(), machines.snp_document(nonces=(OTHER_NONCE,))
    assert _failed(replace(good, evidence=other.evidence), machines.SNP_POLICY) == ["binding"]
    assert "binding" in _failed(replace(good, device_evidence=other.device_evidence), machines.SNP_POLICY)
    assert "gpu nonce" in _failed(replace(good, device_evidence=other.device_evidence), machines.SNP_POLICY)
    assert _failed(replace(other, nonces=(NONCE,)), machines.SNP_POLICY) != []
    assert _failed(other, machines.SNP_POLICY) == ["nonce"]


def test_devices_that_the_policy_asks_for_must_be_there() -> None:
    assert _failed(machines.snp_document(gpus=None), machines.SNP_POLICY) == ["devices"]


def test_devices_that_the_policy_does_not_ask_for_are_refused() -> None:
    without = InsecureRoots(snp=tuple(machines.AMD.roots.snp))
    policy = replace(machines.SNP_POLICY, gpu=None, insecure_roots=without)
    assert _failed(machines.snp_document(), policy) == ["devices"]
    assert _verify(machines.snp_document(gpus=None), policy).checks


@pytest.mark.parametrize(
    ("document", "policy"),
    [(machines.snp_document(), machines.SNP_POLICY), (machines.tdx_document(), machines.TDX_POLICY)],
    ids=["snp", "tdx"],
)
def test_a_machine_that_no_vendor_vouches_for_is_refused(document: AttestationDocument, policy: Policy) -> None:
    assert _failed(document, machines.with_vendor_roots(policy)) != []


def test_a_machine_of_another_maker_is_not_appraised() -> None:
    assert "evidence kind" in _failed(machines.tdx_document(), machines.SNP_POLICY)


@pytest.mark.parametrize(
    ("document", "policy"),
    [(machines.snp_document(), machines.SNP_POLICY), (machines.tdx_document(), machines.TDX_POLICY)],
    ids=["snp", "tdx"],
)
def test_what_is_needed_is_asked_for_until_nothing_is_missing(document: AttestationDocument, policy: Policy) -> None:
    have: dict[CollateralKey, bytes] = {}
    while missing := set(needs(document, policy, have, now=NOW)) - set(have):
        have |= {key: document.collateral[key] for key in missing}
    assert verify(document, policy, have, expected=NONCE, now=NOW).checks
    for key in have:
        rest = {other: data for other, data in have.items() if other != key}
        with pytest.raises(RefusedError):
            verify(document, policy, rest, expected=NONCE, now=NOW)


def test_nothing_is_needed_for_evidence_without_rules() -> None:
    assert needs(machines.snp_document(gpus=None), machines.TDX_POLICY, {}, now=NOW) == ()
    assert needs(attested(), STRICT_POLICY, {}, now=NOW) == ()


def test_every_kind_of_evidence_has_an_appraiser() -> None:
    assert set(_APPRAISERS) == set(EvidenceKind)


def test_a_key_of_an_unknown_suite_beside_ours_does_no_harm() -> None:
    checks = _verify(_confessing(ohttp_keys=(_FOREIGN_KEY, *STATEMENT.ohttp_keys))).checks
    (keys,) = [check for check in checks if check.name == "keys"]
    assert STATEMENT.ohttp_keys[0].path_digest in keys.detail
    assert _FOREIGN_KEY.path_digest not in keys.detail


def test_every_flipped_bit_of_the_report_is_refused() -> None:
    report = GOOD.evidence.report
    for bit in range(8 * len(report)):
        flipped = bytearray(report)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RefusedError, match="binding"):
            _verify(replace(GOOD, evidence=Evidence(EvidenceKind.INSECURE, bytes(flipped))))


def test_a_statement_that_cannot_be_read_ends_it() -> None:
    with pytest.raises(EvidenceError, match="statement"):
        _verify(attested(StatementBytes(b"{}")))


def test_a_far_end_of_the_keys_is_only_a_matter_of_policy() -> None:
    document = _confessing(not_after=253_402_300_799)
    result = _verify(document, _with_policy(max_lifetime_s=2**53 - 1, max_evidence_age_s=86_400))
    assert result.expires_at == NOW + timedelta(days=1)


def test_a_verification_is_relied_on_no_longer_than_the_policy_says() -> None:
    assert _verify(attested(), _with_policy(max_evidence_age_s=60)).expires_at == NOW + timedelta(minutes=1)


def test_nothing_is_accepted_for_longer_than_the_policy_itself() -> None:
    release = Release(version=1, expires=NOW + timedelta(seconds=9))
    assert _verify(attested(), replace(STRICT_POLICY, release=release)).expires_at == NOW + timedelta(seconds=9)


def test_a_time_without_a_zone_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="zone"):
        _verify(attested(), now=NOW.replace(tzinfo=None))


def test_a_policy_that_expired_in_use_accepts_nobody_and_says_so() -> None:
    release = Release(version=1, expires=NOW)
    assert _failed(attested(), replace(STRICT_POLICY, release=release)) == ["policy"]
