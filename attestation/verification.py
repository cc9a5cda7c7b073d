"""Is the other end what the policy asks for? Pure: evidence, policy, collateral and time in; a result or a refusal out.

The steps, in order; each is one or more lines of the result:

0. policy        it is in force, where it has an expiry
1. freshness     the document answers our nonce
2. evidence      its kind is one that the policy accepts, it is authentic, and the machine is acceptable
3. binding       the evidence carries the report_data computed from nonces, statement and device evidence
4. devices       the GPUs answer the nonce derived from nonces and statement, are authentic, and acceptable
5. lifetime      the statement is in force now, and not for longer than the policy allows
6. keys          at least one key can be sealed to, and one that is post-quantum where the policy asks for it;
                 where live sessions are served, the same of theirs, which are others
7. configuration what the engine confesses is within the policy
8. models        every model that is served or loaded has weights that the policy names, and answers to no name beside
                 its own that is another's

Every step is taken even after one failed, so that a refusal names everything that is wrong; only a document or
statement that cannot be read at all ends it early. A step that cannot be taken is a skipped check, never a passed one.

Left out here: whether the key is really used, which the channel proves by opening what was sealed to it; and
`tls_spki_sha256`, since what is sealed does not depend on the TLS around it.

What differs from one kind of evidence to another stands in `attestation.evidence.KINDS`. `needs` says beforehand which
collateral will be looked up.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from attestation.document import AttestationDocument
from attestation.errors import RefusedError
from attestation.evidence import KINDS
from attestation.gpu import appraise as gpu
from attestation.policy import ModelPolicy, Policy, Release, StatementPolicy
from attestation.statement import (
    Component,
    EffectiveConfig,
    ModelIdentity,
    Statement,
    gpu_nonce,
    parse_statement,
    report_data,
)
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
from core.channel.hpke import setup_sender
from core.channel.kem import Kem
from core.channel.keyconfig import KeyConfig
from core.errors import ChannelError

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
    # All of it is judged before any of it refuses, so that a refusal names everything.
    machine = _machine(document, policy, collateral, now)
    devices = _devices(document, policy, collateral, now)
    checks = (
        *_in_force(policy.release, now),
        judged(
            "nonce", expected in document.nonces, "the document answers our nonce", "it answers other nonces than ours"
        ),
        *machine.checks,
        *devices.checks,
        *_lifetime(statement, policy.statement, now),
        *_keys(statement, policy.statement),
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
    evidence, keys = document.evidence, tuple[CollateralKey, ...]()
    if (rules := policy.machine.get(evidence.kind)) is not None:
        keys = KINDS[evidence.kind].needs(evidence.report, rules, collateral)
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


def _machine(document: AttestationDocument, policy: Policy, collateral: Collateral, now: datetime) -> Appraisal:
    kind = document.evidence.kind
    accepted = judged(
        "evidence kind",
        kind in policy.kinds,
        f"{kind} evidence, which the policy accepts",
        f"{kind} evidence; the policy accepts {', '.join(sorted(policy.kinds))}",
    )
    if (rules := policy.machine.get(kind)) is None:
        without_rules = f"the policy has no rules for {kind} evidence"
        return Appraisal((accepted, skipped("machine", without_rules), skipped("binding", without_rules)), None)
    appraisal = KINDS[kind].appraise(document.evidence.report, rules, collateral, roots=policy.roots, now=now)
    return replace(appraisal, checks=(accepted, *appraisal.checks, _binding(document, appraisal.reported)))


def _binding(document: AttestationDocument, reported: ReportData | None) -> Check:
    if reported is None:
        return failed("binding", "the evidence cannot be read")
    expected = report_data(document.nonces, document.statement, document.device_evidence)
    fault = "report_data does not commit to this statement, these nonces and this device evidence"
    if not any(reported[32:]):
        fault += "; half of it is zero, as where a paravisor asks in place of the guest (Azure): that is not supported"
    return judged(
        "binding",
        hmac.compare_digest(reported, expected),
        "report_data commits to the nonces, the statement and its keys, and the device evidence",
        fault,
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


def _keys(statement: Statement, policy: StatementPolicy) -> Iterator[Check]:
    # A configuration that we do not understand is for others (RFC 9458 section 3.2); the engine needs one that we do.
    sealed_to = [sealing_keys(statement.ohttp_keys)]
    yield judged(
        "keys",
        bool(sealed_to[0]),
        f"sealing to {_names(sealed_to[0])}",
        "there is no key that could be sealed to: none has a suite that we support and a sound public key",
    )
    if live := statement.live_keys:
        # RFC 9458 section 6.4: what one protocol seals must mean nothing to another.
        shared = {config.public_key for config in live} & {config.public_key for config in statement.ohttp_keys}
        sealed_to.append(usable := sealing_keys(live))
        yield judged(
            "live keys",
            bool(usable) and not shared,
            f"sealing live sessions to {_names(usable)}",
            "a key of live sessions opens requests too" if shared else "no key of live sessions could be sealed to",
        )
    if policy.require_pq:
        yield judged(
            "post-quantum",
            all(any(config.is_post_quantum for config in configs) for configs in sealed_to),
            "everything is sealed to keys of ML-KEM-768 with X25519",
            "something would be sealed to a key of X25519 alone",
        )
    else:
        yield skipped("post-quantum", "the policy does not ask for post-quantum keys")


def _names(configs: Sequence[KeyConfig]) -> str:
    return ", ".join(f"{config.path_digest} ({Kem(config.kem).name})" for config in configs)


def sealing_keys(configs: Sequence[KeyConfig]) -> tuple[KeyConfig, ...]:
    """Those of an engine's keys that are sealed to: every one that can be, of the KEM that is preferred among them."""
    usable = [config for config in configs if is_usable(config)]
    preferred = next((kem for kem in Kem if any(config.kem == kem for config in usable)), None)
    return tuple(config for config in usable if config.kem == preferred)


def is_usable(config: KeyConfig) -> bool:
    """Whether a request can be sealed to a key: it has a suite that we support, and a sound public key."""
    try:
        setup_sender(config.preferred_suite(), config.public_key, b"")  # tried, and thrown away
    except ChannelError:
        return False
    return True


def _configuration(config: EffectiveConfig, policy: Policy) -> Iterator[Check]:
    allowed = policy.statement
    implied = {INSECURE_EVIDENCE_OPTION} if policy.is_insecure else set()
    options = set(config.insecure_options) - set(allowed.allow_options) - implied
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
    yield from _components(config.components, allowed)
    yield judged(
        "options",
        not options,
        "no insecure option beyond what the policy names",
        f"insecure options in force: {', '.join(sorted(options))}",
    )
    sources = [*allowed.evidence_from, *((EvidenceKind.INSECURE,) if policy.is_insecure else ())]
    yield judged(
        "evidence source",
        config.evidence_from in sources,
        f"handed out by {config.evidence_from}",
        f"handed out by {config.evidence_from}; the policy accepts {', '.join(sources)}",
    )
    if allowed.require_api_keys:
        yield judged("api keys", config.api_keys_required, "API keys are required", "the engine requires no API key")
    else:
        yield skipped("api keys", "the policy does not ask whether the engine requires API keys")


def _components(components: tuple[Component, ...], allowed: StatementPolicy) -> Iterator[Check]:
    attached = [component.name for component in components if component.attached]
    told = [f"{one.name}, attached, which the policy allows" if one.attached else one.name for one in components]
    if not components:
        yield failed("components", "the engine names no process that hears")
    else:
        foreign = [name for name in attached if name not in allowed.allow_attached]
        yield judged(
            "components",
            not foreign,
            "; ".join(told),
            f"attached to processes that the engine did not start: {', '.join(foreign)}",
        )
    yield _arguments(components, allowed.arguments)
    plugins = {plugin for one in components for plugin in one.plugins} - set(allowed.allow_plugins)
    yield judged(
        "plugins",
        not plugins,
        "no code beyond what the policy names",
        f"loads {', '.join(sorted(plugins))}",
    )


def _arguments(components: tuple[Component, ...], accepted: Mapping[str, tuple[str, ...]] | None) -> Check:
    given = "; ".join(f"{one.name}: {' '.join(one.arguments) or 'none'}" for one in components) or "none"
    if accepted is None:
        return skipped("arguments", f"the policy does not ask; in force: {given}")
    faults = [f"{one.name}, which the policy does not name" for one in components if one.name not in accepted]
    faults += [
        f"{one.name} with {argument}, which the policy does not name"
        for one in components
        for argument in one.arguments
        if argument not in accepted.get(one.name, one.arguments)
    ]
    return judged("arguments", not faults, f"as the policy names them: {given}", "; ".join(faults))


def _models(statement: Statement, policy: tuple[ModelPolicy, ...]) -> Iterator[Check]:
    served = ", ".join(
        f"{model.id} (also {', '.join(model.aliases)})" if model.aliases else model.id for model in statement.models
    )
    if not policy:
        yield skipped("models", f"the policy names no weights; served: {served or 'none'}")
    elif not statement.models:
        yield failed("models", "the engine names no model")
    else:
        faults = (*_weights_faults(statement, policy), *_alias_faults(statement.models, policy))
        yield judged("models", not faults, f"weights as the policy names them: {served}", "; ".join(faults))


def _weights_faults(statement: Statement, policy: tuple[ModelPolicy, ...]) -> Iterator[str]:
    accepted = {model.id: model.weights_sha256 for model in policy}
    named = [(model.id, model.weights_sha256) for model in statement.models]
    named += [(model.id, model.weights_sha256) for one in statement.config.components for model in one.models]
    foreign = [model for model, weights in dict.fromkeys(named) if weights not in accepted.get(model, ())]
    if foreign:
        yield f"weights that the policy does not name: {', '.join(dict.fromkeys(foreign))}"


def _alias_faults(models: tuple[ModelIdentity, ...], policy: tuple[ModelPolicy, ...]) -> Iterator[str]:
    rules = {model.id: model for model in policy}
    for model in models:
        own = rules.get(model.id)
        for alias in model.aliases:
            # Whoever asks for a model that the policy names must get its weights, and not another's in its name.
            if alias in rules and model.weights_sha256 not in rules[alias].weights_sha256:
                yield f"{model.id} answers as {alias}, of which the policy names other weights"
            elif own is not None and own.aliases is not None and alias not in own.aliases:
                yield f"{model.id} answers as {alias}, which the policy does not name"
