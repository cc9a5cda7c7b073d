"""Is the other end what the policy asks for? Pure: evidence, policy, collateral and time in; a result or a refusal out.

The steps, in order; each is one or more lines of the result:

0. policy        it is in force, where it has an expiry
1. freshness     the document answers our nonce
2. evidence      its kind is one that the policy accepts, it is authentic, and the machine is acceptable
3. binding       the evidence carries the report_data computed from nonces, statement and device evidence
4. devices       the GPUs answer the nonce derived from nonces and statement, are authentic, and acceptable
5. lifetime      the statement is in force now, and not for longer than the policy allows
6. keys          at least one key configuration can be used
7. configuration what the engine confesses is within the policy
8. models        every served model has weights that the policy names

Every step is taken even after one failed, so that a refusal names everything that is wrong; only a document or
statement that cannot be read at all ends it early. A step that cannot be taken is a skipped check, never a passed one.

Left out here: whether the key is really used, which the channel proves by opening what was sealed to it; and
`tls_spki_sha256`, since what is sealed does not depend on the TLS around it.

What differs from one kind of evidence to another stands in one table, `_APPRAISERS`. `needs` says beforehand which
collateral will be looked up.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from attestation import insecure
from attestation.channel.keyconfig import KeyConfig
from attestation.document import AttestationDocument
from attestation.errors import ChannelError, RefusedError
from attestation.gpu import appraise as gpu
from attestation.policy import ModelPolicy, Policy, Release, StatementPolicy
from attestation.snp import appraise as snp
from attestation.statement import EffectiveConfig, Statement, gpu_nonce, parse_statement, report_data
from attestation.tdx import appraise as tdx
from attestation.types import (
    Appraisal,
    Check,
    Collateral,
    CollateralKey,
    EvidenceKind,
    Nonce,
    ReportData,
    failed,
    judged,
    skipped,
)

INSECURE_EVIDENCE_OPTION = "insecure_evidence"
"""The option under which an engine produces development evidence; a policy for that evidence implies it."""


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """An accepted peer (RFC 9334: attestation result).

    checks: every check made or skipped, in order; none failed.
    claims: what the evidence says of machine and devices, by name; the same as long as they stay the same.
    collateral_expires_at: when the first certificate or piece of collateral behind it expires; None without any.
    expires_at: when the keys in `statement` may no longer be used: at the end of the statement, of what the evidence
        rests on, of the time for which the policy relies on one verification, or of the policy, whichever is first.
    """

    statement: Statement
    kind: EvidenceKind
    checks: tuple[Check, ...]
    claims: Mapping[str, str]
    verified_at: datetime
    collateral_expires_at: datetime | None
    expires_at: datetime


def verify(
    document: AttestationDocument, policy: Policy, collateral: Collateral, *, expected: Nonce, now: datetime
) -> AttestationResult:
    """Appraise `document` against `policy`.

    collateral: what `needs` asks for, as far as it can be had. expected: the nonce we sent. now: an aware datetime.
    Raises RefusedError carrying every check, and EvidenceError when the statement cannot be read.
    """
    if now.tzinfo is None:
        raise ValueError("a time without a zone would be read as local time")
    statement = parse_statement(document.statement)
    machine = _machine(document, policy, collateral, now)
    devices = _devices(document, policy, collateral, now)
    checks = (
        *_in_force(policy.release, now),
        *_freshness(document, expected),
        *machine.checks,
        *devices.checks,
        *_lifetime(statement, policy.statement, now),
        *_keys(statement),
        *_configuration(statement.config, policy),
        *_models(statement, policy.models),
    )
    if any(check.failed for check in checks):
        raise RefusedError(checks)
    collateral_expires_at = min(filter(None, (machine.valid_until, devices.valid_until)), default=None)
    ends = (
        datetime.fromtimestamp(statement.not_after, UTC),
        now + timedelta(seconds=policy.statement.max_evidence_age_s),
        collateral_expires_at,
        policy.release.expires if policy.release else None,
    )
    return AttestationResult(
        statement=statement,
        kind=document.evidence.kind,
        checks=checks,
        claims={**machine.claims, **devices.claims},
        verified_at=now,
        collateral_expires_at=collateral_expires_at,
        expires_at=min(filter(None, ends)),
    )


def needs(
    document: AttestationDocument, policy: Policy, collateral: Collateral, *, now: datetime
) -> tuple[CollateralKey, ...]:
    """What `verify` will look up at `now`. Some shows only once other pieces are at hand: ask again with those."""
    report = document.evidence.report
    match document.evidence.kind:
        case EvidenceKind.SNP if policy.snp:
            keys = snp.needs(report, policy.snp, collateral)
        case EvidenceKind.TDX if policy.tdx:
            keys = tdx.needs(report, policy.tdx, collateral)
        case _:
            keys = ()
    if policy.gpu and document.device_evidence:
        nonce = _device_nonce(document)
        keys += gpu.needs(document.device_evidence, policy.gpu, collateral, nonce=nonce, roots=policy.roots, now=now)
    return keys


def questions(document: AttestationDocument, policy: Policy) -> Mapping[CollateralKey, bytes]:
    """What a vendor must be sent to get the pieces of `needs` whose names do not hold their questions."""
    if policy.gpu is None or not document.device_evidence:
        return {}
    return gpu.questions(document.device_evidence, policy.gpu, nonce=_device_nonce(document))


def _in_force(release: Release | None, now: datetime) -> Iterator[Check]:
    """A policy that expired while it was in use accepts nobody, and says so."""
    if release is not None:
        yield judged(
            "policy",
            now < release.expires,
            f"in force until {release.expires:%Y-%m-%dT%H:%M:%SZ}",
            f"the policy expired at {release.expires:%Y-%m-%dT%H:%M:%SZ}",
        )


def _freshness(document: AttestationDocument, expected: Nonce) -> Iterator[Check]:
    yield judged(
        "nonce",
        expected in document.nonces,
        "the document answers our nonce",
        "it answers other nonces than ours",
    )


def _machine(document: AttestationDocument, policy: Policy, collateral: Collateral, now: datetime) -> Appraisal:
    kind = document.evidence.kind
    accepted = judged(
        "evidence kind",
        kind in policy.kinds,
        f"{kind} evidence, which the policy accepts",
        f"{kind} evidence; the policy accepts {', '.join(sorted(policy.kinds))}",
    )
    appraisal = _APPRAISERS[kind](document.evidence.report, policy, collateral, now)
    if appraisal is None:
        without_rules = f"the policy has no rules for {kind} evidence"
        return Appraisal((accepted, skipped("machine", without_rules), skipped("binding", without_rules)), None)
    return replace(appraisal, checks=(accepted, *appraisal.checks, _binding(document, appraisal.reported)))


def _insecure(report: bytes, policy: Policy, _: Collateral, __: datetime) -> Appraisal | None:
    return insecure.appraise(report) if policy.insecure else None


def _snp(report: bytes, policy: Policy, collateral: Collateral, now: datetime) -> Appraisal | None:
    return snp.appraise(report, policy.snp, collateral, roots=policy.roots, now=now) if policy.snp else None


def _tdx(report: bytes, policy: Policy, collateral: Collateral, now: datetime) -> Appraisal | None:
    return tdx.appraise(report, policy.tdx, collateral, roots=policy.roots, now=now) if policy.tdx else None


_APPRAISERS: Mapping[EvidenceKind, Callable[[bytes, Policy, Collateral, datetime], Appraisal | None]] = {
    EvidenceKind.INSECURE: _insecure,
    EvidenceKind.SNP: _snp,
    EvidenceKind.TDX: _tdx,
}
"""How a report of each kind is appraised; None when the policy has no rules for it."""


def _binding(document: AttestationDocument, reported: ReportData | None) -> Check:
    if reported is None:
        return failed("binding", "the evidence cannot be read")
    expected = report_data(document.nonces, document.statement, document.device_evidence)
    return judged(
        "binding",
        hmac.compare_digest(reported, expected),
        "report_data commits to the nonces, the statement and its keys, and the device evidence",
        "report_data does not commit to this statement, these nonces and this device evidence",
    )


def _devices(document: AttestationDocument, policy: Policy, collateral: Collateral, now: datetime) -> Appraisal:
    evidence = document.device_evidence
    if policy.gpu is None and not evidence:
        return Appraisal((skipped("devices", "no device evidence, and the policy asks for none"),), None)
    if policy.gpu is None:
        fault = "device evidence is present, and the policy has no rules to appraise it by"
        return Appraisal((failed("devices", fault),), None)
    if not evidence:
        return Appraisal((failed("devices", f"no device evidence; the policy asks for {policy.gpu.count} GPUs"),), None)
    nonce = _device_nonce(document)
    return gpu.appraise(evidence, policy.gpu, collateral, nonce=nonce, roots=policy.roots, now=now)


def _device_nonce(document: AttestationDocument) -> Nonce:
    return gpu_nonce(document.nonces, document.statement)


def _lifetime(statement: Statement, policy: StatementPolicy, now: datetime) -> Iterator[Check]:
    left_s = statement.not_after - now.timestamp()
    if left_s <= 0:
        yield failed("lifetime", f"the statement expired {-left_s:.0f} s ago")
    else:
        yield judged(
            "lifetime",
            left_s <= policy.max_lifetime_s,
            f"in force for another {left_s:.0f} s",
            f"in force for another {left_s:.0f} s; the policy allows {policy.max_lifetime_s} s",
        )


def _keys(statement: Statement) -> Iterator[Check]:
    # A configuration that we do not understand is for others (RFC 9458 section 3.2); the engine needs one that we do.
    digests = [config.path_digest for config in statement.ohttp_keys if is_usable(config)]
    yield judged(
        "keys",
        bool(digests),
        f"sealing to {', '.join(digests)}",
        "no key configuration offers a suite that we support",
    )


def is_usable(config: KeyConfig) -> bool:
    """Whether a key configuration offers a suite that we support."""
    try:
        config.preferred_suite()
    except ChannelError:
        return False
    return True


def _configuration(config: EffectiveConfig, policy: Policy) -> Iterator[Check]:
    allowed = policy.statement
    implied = {INSECURE_EVIDENCE_OPTION} if policy.is_insecure else set()
    options = set(config.insecure_options) - set(allowed.allow_options) - implied
    plugins = set(config.plugins) - set(allowed.allow_plugins)
    yield judged(
        "log level",
        config.log_level in allowed.log_levels,
        f"logs at level {config.log_level}",
        f"logs at level {config.log_level}; the policy accepts {', '.join(allowed.log_levels)}",
    )
    yield judged(
        "request log",
        allowed.allow_request_log or not config.request_log,
        "no log line per request" if not config.request_log else "a log line per request, which the policy allows",
        "writes a log line per request",
    )
    yield judged(
        "backend",
        allowed.allow_attached_backend or not config.backend_attached,
        f"{config.backend}" + (", attached, which the policy allows" if config.backend_attached else ""),
        f"{config.backend}, attached to a process that the engine did not start",
    )
    yield _backend_arguments(config, allowed.backend_arguments)
    yield judged(
        "plugins",
        not plugins,
        "no code in the backend beyond what the policy names",
        f"loads {', '.join(sorted(plugins))} into the backend",
    )
    yield judged(
        "options",
        not options,
        "no insecure option beyond what the policy names",
        f"insecure options in force: {', '.join(sorted(options))}",
    )
    yield _api_keys(config, required=allowed.require_api_keys)


def _backend_arguments(config: EffectiveConfig, accepted: tuple[str, ...] | None) -> Check:
    given = " ".join(config.backend_arguments) or "none"
    if accepted is None:
        return skipped("backend arguments", f"the policy does not ask; in force: {given}")
    foreign = [argument for argument in config.backend_arguments if argument not in accepted]
    return judged(
        "backend arguments",
        not foreign,
        f"as the policy names them: {given}",
        f"arguments that the policy does not name: {' '.join(foreign)}",
    )


def _api_keys(config: EffectiveConfig, *, required: bool) -> Check:
    if not required:
        return skipped("api keys", "the policy does not ask whether the engine requires API keys")
    return judged("api keys", config.api_keys_required, "API keys are required", "the engine requires no API key")


def _models(statement: Statement, policy: tuple[ModelPolicy, ...]) -> Iterator[Check]:
    served = ", ".join(model.id for model in statement.models) or "none"
    if not policy:
        yield skipped("models", f"the policy names no weights; served: {served}")
        return
    if not statement.models:
        yield failed("models", "the engine names no model")
        return
    accepted = {model.id: model.weights_sha256 for model in policy}
    foreign = [model.id for model in statement.models if model.weights_sha256 not in accepted.get(model.id, ())]
    yield judged(
        "models",
        not foreign,
        f"weights as the policy names them: {served}",
        f"weights that the policy does not name: {', '.join(foreign)}",
    )
