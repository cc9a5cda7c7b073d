"""Each check fails by itself, none is left out, and only a whole verdict accepts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from attestation.document import AttestationDocument
from attestation.errors import EvidenceError, RefusedError
from attestation.gpu.evidence import encode_devices, parse_devices
from attestation.policy import InsecureRoots, ModelPolicy, Policy, Release, StatementPolicy, parse_policy
from attestation.statement import LoadedModel, ModelIdentity, encode_statement, live_keys_extension, parse_statement
from attestation.types import (
    Check,
    CheckStatus,
    CollateralKey,
    DeviceEvidence,
    Evidence,
    EvidenceKind,
    EvidenceSource,
    Nonce,
    StatementBytes,
)
from attestation.verification import AttestationResult, needs, sealing_keys, verify
from core.channel.kem import Kem
from core.channel.keyconfig import GatewayKey, KeyConfig
from tests.attestation import machines, policies
from tests.attestation.gpu.forge import Machine
from tests.attestation.samples import (
    DEFAULT_POLICY,
    KEY,
    MEASURED,
    NONCE,
    NOW,
    OTHER_NONCE,
    PQ_KEY,
    RECOGNISER,
    STATEMENT,
    STRICT_POLICY,
    attested,
    hearing,
    statement_with,
)

LIVE = "live keys"
"""Judged where there are any."""

STEPS = [
    "nonce",
    "evidence kind",
    "machine",
    "binding",
    "devices",
    "lifetime",
    "keys",
    "post-quantum",
    "log level",
    "request log",
    "components",
    "arguments",
    "plugins",
    "options",
    "evidence source",
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
    assert _status(result.checks, CheckStatus.SKIP) == [
        "machine",
        "devices",
        "post-quantum",
        "arguments",
        "api keys",
        "models",
    ]


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


def _serving(*models: ModelIdentity) -> AttestationDocument:
    loaded = tuple(LoadedModel(model.id, model.weights_sha256) for model in models)
    return _confessing(models=models, **hearing(models=loaded))


def _half_spoilt(config: KeyConfig) -> KeyConfig:
    return replace(config, public_key=config.public_key[:-32] + bytes(32))


PQ_LIVE_KEY = GatewayKey.generate((), Kem.MLKEM768_X25519).config
GOOD = attested()
_ANY_KEM = _with_policy(require_pq=False)
_FOREIGN_KEY = KeyConfig(1, 0x7777, b"whatever", ())
_LOW_ORDER = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")

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
        replace(GOOD, statement=encode_statement(statement_with(ohttp_keys=(PQ_LIVE_KEY,)))),
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
    "keys of another suite only": _Case("keys", _confessing(ohttp_keys=(_FOREIGN_KEY,)), _ANY_KEM),
    "a key of zeros": _Case("keys", _confessing(ohttp_keys=(replace(KEY.config, public_key=bytes(32)),)), _ANY_KEM),
    "another key of low order": _Case(
        "keys", _confessing(ohttp_keys=(replace(KEY.config, public_key=_LOW_ORDER),)), _ANY_KEM
    ),
    "a post-quantum key with a half of low order": _Case(
        "keys", _confessing(ohttp_keys=(_half_spoilt(PQ_KEY.config),)), _ANY_KEM
    ),
    "live keys of another suite only": _Case(
        "live keys", _confessing(extensions=live_keys_extension([_FOREIGN_KEY])), _ANY_KEM
    ),
    "a live key that opens requests too": _Case(
        "live keys", _confessing(extensions=live_keys_extension([PQ_LIVE_KEY, PQ_KEY.config]))
    ),
    "no post-quantum key": _Case("post-quantum", _confessing(ohttp_keys=(KEY.config,))),
    "no sound post-quantum key": _Case(
        "post-quantum", _confessing(ohttp_keys=(_half_spoilt(PQ_KEY.config), KEY.config))
    ),
    "no post-quantum key of live sessions": _Case(
        "post-quantum", _confessing(extensions=live_keys_extension([GatewayKey.generate(()).config]))
    ),
    "debug logging": _Case("log level", _confessing(log_level="debug")),
    "an unknown log level": _Case("log level", _confessing(log_level="trace")),
    "a request log": _Case("request log", _confessing(request_log=True)),
    "a recogniser that ran before": _Case("components", _confessing(**hearing(attached=True))),
    "nothing that hears": _Case("components", _confessing(components=())),
    "an argument of the recogniser": _Case("arguments", _confessing(**hearing(arguments=("device=cpu", "log=all")))),
    "another recogniser": _Case("arguments", _confessing(**hearing(name="vllm", arguments=()))),
    "another component beside it": _Case(
        "arguments", _confessing(components=(RECOGNISER, replace(RECOGNISER, name="spy", arguments=())))
    ),
    "a plugin": _Case("plugins", _confessing(**hearing(plugins=("spy",)))),
    "a plugin of a second component": _Case(
        "plugins",
        _confessing(components=(RECOGNISER, replace(RECOGNISER, name="aligner", plugins=("spy",)))),
        _with_policy(arguments=None),
    ),
    "an assume option": _Case("options", _confessing(insecure_options=("assume_weights_immutable",))),
    "an allow option": _Case("options", _confessing(insecure_options=("allow_unsandboxed_decoder",))),
    "an insecure option": _Case("options", _confessing(insecure_options=("insecure_roots",))),
    "evidence that nobody known handed out": _Case("evidence source", _confessing(evidence_from="somebody")),
    "evidence that a source which the policy does not name handed out": _Case(
        "evidence source", _confessing(evidence_from="coco"), _with_policy(evidence_from=(EvidenceSource.CONFIGFS,))
    ),
    "no API keys": _Case("api keys", _confessing(api_keys_required=False)),
    "other weights": _Case("models", _confessing(models=(replace(STATEMENT.models[0], weights_sha256="00" * 32),))),
    "another model": _Case("models", _confessing(models=(*STATEMENT.models, ModelIdentity("b", (), "ab" * 32)))),
    "other weights in the recogniser": _Case(
        "models", _confessing(**hearing(models=(replace(RECOGNISER.models[0], weights_sha256="00" * 32),)))
    ),
    "another model in the recogniser": _Case(
        "models", _confessing(**hearing(models=(replace(RECOGNISER.models[0], id="b"),)))
    ),
    "an alias that is another model's name": _Case(
        "models",
        _serving(ModelIdentity("nano", ("openai/whisper-large-v3",), "cd" * 32)),
        replace(STRICT_POLICY, models=(*STRICT_POLICY.models, ModelPolicy("nano", ("cd" * 32,)))),
    ),
    "an alias that the policy does not name": _Case(
        "models",
        GOOD,
        replace(STRICT_POLICY, models=(replace(STRICT_POLICY.models[0], aliases=("whisper-2",)),)),
    ),
    "an alias where the policy allows none": _Case(
        "models", GOOD, replace(STRICT_POLICY, models=(replace(STRICT_POLICY.models[0], aliases=()),))
    ),
    "no model at all": _Case("models", _confessing(models=())),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_fault_fails_exactly_its_check(case: _Case) -> None:
    with pytest.raises(RefusedError) as refusal:
        _verify(case.document, case.policy, now=case.now)
    assert _status(refusal.value.checks, CheckStatus.FAIL) == [case.check]
    steps = [*STEPS[:7], LIVE, *STEPS[7:]] if parse_statement(case.document.statement).live_keys else STEPS
    assert [check.name for check in refusal.value.checks] == steps


def test_every_check_that_is_judged_has_a_case() -> None:
    elsewhere = {"machine", "evidence kind"}
    assert {case.check for case in CASES.values()} == {*STEPS, LIVE} - elsewhere


_CONFESSED = ["log level", "request log", "components", "plugins", "options", "evidence source"]


@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.check in _CONFESSED and case.policy is STRICT_POLICY]
)
def test_the_default_policy_refuses_what_the_statement_confesses(name: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        _verify(CASES[name].document, replace(DEFAULT_POLICY, statement=StatementPolicy()))
    assert _status(refusal.value.checks, CheckStatus.FAIL) == [CASES[name].check]


@pytest.mark.parametrize(
    ("confessed", "allowed"),
    [
        ({"log_level": "debug"}, {"log_levels": ("debug",)}),
        ({"request_log": True}, {"allow_request_log": True}),
        (hearing(attached=True), {"allow_attached": ("faster-whisper",)}),
        (hearing(plugins=("p",)), {"allow_plugins": ("p", "q")}),
        ({"insecure_options": ("allow_a",)}, {"allow_options": ("allow_a",)}),
        (hearing(arguments=()), {"arguments": {"faster-whisper": ()}}),
        *(({"evidence_from": source.value}, {}) for source in EvidenceSource),
        ({"evidence_from": "dstack"}, {"evidence_from": (EvidenceSource.DSTACK,)}),
    ],
)
def test_what_the_policy_allows_is_accepted(confessed: dict[str, Any], allowed: dict[str, Any]) -> None:
    assert _verify(_confessing(**confessed), _with_policy(**allowed)).checks


def test_an_alias_is_accepted_where_it_is_nobody_elses_or_of_the_same_weights() -> None:
    (model,) = STATEMENT.models
    (rules,) = STRICT_POLICY.models
    named = replace(STRICT_POLICY, models=(replace(rules, aliases=("whisper-1", "whisper-2")),))
    alike = replace(STRICT_POLICY, models=(rules, ModelPolicy("whisper-1", rules.weights_sha256)))
    for policy in (STRICT_POLICY, named, alike):
        (check,) = [check for check in _verify(GOOD, policy).checks if check.name == "models"]
        assert check.detail.endswith(f"{model.id} (also whisper-1)")


def test_aliases_are_told_where_the_policy_names_no_models() -> None:
    (check,) = [check for check in _verify(GOOD, DEFAULT_POLICY).checks if check.name == "models"]
    assert (check.status, "(also whisper-1)" in check.detail) == (CheckStatus.SKIP, True)


def test_every_step_is_taken_and_every_fault_told() -> None:
    worst = statement_with(
        not_after=int(NOW.timestamp()) - 1,
        ohttp_keys=(_FOREIGN_KEY,),
        log_level="debug",
        request_log=True,
        components=(replace(RECOGNISER, attached=True, arguments=("x",), plugins=("p",)),),
        insecure_options=("allow_a",),
        evidence_from="somebody",
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
        _verify(_confessing(**MEASURED), SNP_POLICY)
    assert _status(refusal.value.checks, CheckStatus.FAIL) == ["evidence kind"]
    assert _status(refusal.value.checks, CheckStatus.SKIP) == ["machine", "binding", "devices"]


def test_only_an_insecure_policy_implies_the_option_of_development_evidence() -> None:
    with pytest.raises(RefusedError) as refusal:
        _verify(attested(), SNP_POLICY)
    assert "options" in _status(refusal.value.checks, CheckStatus.FAIL)


# Machines and devices


@pytest.mark.parametrize(
    ("document", "policy"),
    [
        (machines.snp_document(), machines.SNP_POLICY),
        (machines.snp_document(gpus=Machine.build(versioned=True)), machines.SNP_POLICY),
        (machines.tdx_document(), machines.TDX_POLICY),
    ],
    ids=["snp and a GPU", "snp and a GPU with a newer driver", "tdx"],
)
def test_a_machine_that_its_vendors_vouch_for_is_accepted(document: AttestationDocument, policy: Policy) -> None:
    result = _verify(document, policy)
    assert result.kind is document.evidence.kind
    assert result.claims
    assert result.collateral_expires_at is not None
    assert NOW < result.expires_at <= min(result.collateral_expires_at, NOW + timedelta(hours=1))
    assert all(f"{word}" not in " ".join(result.claims.values()) for word in (NONCE.hex(), result.statement.instance))


def test_another_nonce_and_another_key_leave_the_claims_as_they_are() -> None:
    other = replace(machines.SECURE, ohttp_keys=(PQ_LIVE_KEY,))
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


def test_a_byte_that_no_device_signed_is_still_bound() -> None:
    """Reports may end in one, which is not looked at."""
    good = machines.snp_document()
    (gpu,) = parse_devices(good.device_evidence).gpus
    longer = encode_devices([replace(gpu, evidence=gpu.evidence + b"\0")])
    assert _failed(replace(good, device_evidence=longer), machines.SNP_POLICY) == ["binding"]


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


def test_a_key_of_an_unknown_suite_beside_ours_does_no_harm() -> None:
    checks = _verify(_confessing(ohttp_keys=(_FOREIGN_KEY, *STATEMENT.ohttp_keys))).checks
    (keys,) = [check for check in checks if check.name == "keys"]
    assert STATEMENT.ohttp_keys[0].path_digest in keys.detail
    assert _FOREIGN_KEY.path_digest not in keys.detail


def test_post_quantum_keys_are_sealed_to_where_there_are_any() -> None:
    other = GatewayKey.generate((), Kem.MLKEM768_X25519).config
    configs = (KEY.config, PQ_KEY.config, _FOREIGN_KEY, other)
    assert sealing_keys(configs) == (PQ_KEY.config, other)
    assert sealing_keys((KEY.config, _half_spoilt(other))) == (KEY.config,)
    assert sealing_keys((_FOREIGN_KEY,)) == ()


def test_without_being_asked_for_post_quantum_keys_are_no_condition() -> None:
    checks = _verify(_confessing(ohttp_keys=(KEY.config,)), _ANY_KEM).checks
    assert [check.status for check in checks if check.name == "post-quantum"] == [CheckStatus.SKIP]


def test_keys_of_live_sessions_are_judged_where_there_are_any() -> None:
    assert "live keys" not in [check.name for check in _verify(GOOD).checks]
    live = PQ_LIVE_KEY
    result = _verify(_confessing(extensions=live_keys_extension([live])))
    assert [check.detail for check in result.checks if check.name == "live keys"] == [
        f"sealing live sessions to {live.path_digest} (MLKEM768_X25519)"
    ]
    assert result.statement.live_keys == (live,)


def test_every_flipped_bit_of_the_report_is_refused() -> None:
    report = GOOD.evidence.report
    for bit in range(8 * len(report)):
        flipped = bytearray(report)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RefusedError, match="binding"):
            _verify(replace(GOOD, evidence=Evidence(EvidenceKind.INSECURE, bytes(flipped))))


def test_a_report_that_a_paravisor_asked_for_is_refused_with_the_reason() -> None:
    half = Evidence(EvidenceKind.INSECURE, GOOD.evidence.report[:-32] + bytes(32))
    with pytest.raises(RefusedError, match=r"binding: .*\(Azure\): that is not supported"):
        _verify(replace(GOOD, evidence=half))


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
