"""What has the proxy verified, and is it ready? For an app as JSON, for a probe as text."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from attestation import insecure
from attestation.policy import INSECURE_ROOTS_WARNING, Policy
from attestation.types import Check
from proxy.engines.pool import Pool
from proxy.engines.trust import Attempt, Outcome, Trust
from proxy.engines.verifier import AttestedEngine

_RANKS: Final = ("attested", "starting", Outcome.UNREACHABLE.value, Outcome.REFUSED.value)
"""States of an engine, the one that is told of all first."""

_NONE: Final[dict[str, Any]] = {"state": "starting", "attested": None, "last_attempt": None}
"""No engine is known yet."""


def attestation_report(engines: Pool, *, draining: bool) -> dict[str, Any]:
    """What was verified, when, until when, and how each check came out; of each engine, and of the best by itself."""
    policy = engines.policy
    each = [{"engine": member.id, **_engine(member.trust)} for member in engines.members]
    one = min(each, key=lambda engine: _RANKS.index(engine["state"]), default=_NONE)
    return {
        "state": one["state"],
        "ready": engines.is_ready and not draining,
        "insecure": policy.is_insecure or policy.has_insecure_roots,
        "warning": _warning(policy),
        "policy_sha256": policy.digest,
        "engine": one["attested"],
        "last_attempt": one["last_attempt"],
        "engines": each,
    }


def _warning(policy: Policy) -> str | None:
    if policy.is_insecure:
        return insecure.WARNING
    return INSECURE_ROOTS_WARNING if policy.has_insecure_roots else None


def _engine(trust: Trust) -> dict[str, Any]:
    held, last = trust.held, trust.last_attempt
    return {
        "state": _state(held, last),
        "ready": trust.is_ready,
        "attested": _attested(held) if held else None,
        "last_attempt": _attempt(last) if last else None,
    }


def _state(held: AttestedEngine | None, last: Attempt | None) -> str:
    if held:
        return "attested"
    return "starting" if last is None or last.outcome is Outcome.ACCEPTED else last.outcome.value


def _attested(engine: AttestedEngine) -> dict[str, Any]:
    result = engine.result
    statement = result.statement
    return {
        "evidence": result.kind.value,
        "verified_at": _timestamp(result.verified_at),
        "expires_at": _timestamp(result.expires_at),
        "collateral_expires_at": _timestamp(result.collateral_expires_at) if result.collateral_expires_at else None,
        "claims": dict(result.claims),
        "keys_sha256": sorted(digest.hex() for digest in engine.digests),
        "checks": _checks(result.checks),
        "statement": {
            "instance": statement.instance,
            "models": [asdict(model) for model in statement.models],
            "config": asdict(statement.config),
            "max_request_bytes": statement.max_request_bytes,
            "max_chunk_bytes": statement.max_chunk_bytes,
        },
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "at": _timestamp(attempt.at),
        "outcome": attempt.outcome.value,
        "reason": attempt.reason.value,
        "detail": attempt.detail,
        "checks": _checks(attempt.checks),
    }


def _checks(checks: tuple[Check, ...]) -> list[dict[str, str]]:
    return [{"name": check.name, "status": check.status.value, "detail": check.detail} for check in checks]


def _timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def readiness(engines: Pool, *, draining: bool, verbose: bool) -> tuple[bool, str]:
    """Whether requests would be sealed and sent, and the lines that say so. verbose: each condition too."""
    conditions = {
        "not draining": not draining,
        "engine attested": bool(engines.held),
        "key accepted": engines.is_ready,
    }
    ready = all(conditions.values())
    if len(engines.members) > 1:
        conditions |= {f"engine {member.id} ready": member.trust.is_ready for member in engines.members}
    lines = [f"[{'+' if met else '-'}] {name}" for name, met in conditions.items()] if verbose else []
    lines.append("ok" if ready else "not ready")
    if warning := _warning(engines.policy):
        lines.append(warning)
    return ready, "\n".join(lines) + "\n"
