"""How is a verdict said, to people and to machines? Numbered lines with pass, fail or skip, or one JSON object.

Whatever the other end wrote is shown without the characters that a terminal would obey.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from rich.console import Console
from rich.text import Text

from attestation import insecure
from attestation.bundle import Bundle
from attestation.cli.described import describe, describe_component
from attestation.document import AttestationDocument
from attestation.policy import INSECURE_ROOTS_WARNING, Policy
from attestation.statement import Statement, parse_statement
from attestation.types import Check, CheckStatus, EvidenceKind
from attestation.verification import AttestationResult
from core.program.run import ExitCode

STYLES = {CheckStatus.PASS: "green", CheckStatus.FAIL: "bold red", CheckStatus.SKIP: "dim yellow"}
ALARM = "bold red"
UNVERIFIED = "bold yellow"


class Origin(StrEnum):
    """Where the evidence came from."""

    ENGINE = "engine"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run found out. code: INTERNAL until something was judged. held: None when nothing was had to judge."""

    policy: Policy
    origin: Origin
    strict: bool
    code: ExitCode = ExitCode.INTERNAL
    reason: str | None = None
    held: Bundle | None = None
    checks: tuple[Check, ...] = ()
    result: AttestationResult | None = None


def as_json(verdict: Verdict) -> dict[str, object]:
    """The machine form; every member is always there."""
    return {
        "version": 1,
        "verdict": {ExitCode.ACCEPTED: "accepted", ExitCode.REFUSED: "refused"}.get(verdict.code, "unknown"),
        "reason": verdict.reason,
        "insecure": verdict.policy.is_insecure or verdict.policy.has_insecure_roots,
        "strict": verdict.strict,
        "origin": verdict.origin,
        "policy_sha256": verdict.policy.digest,
        "nonce": verdict.held.nonce.hex() if verdict.held else None,
        "judged_at": utc(verdict.held.fetched_at) if verdict.held else None,
        "evidence_kind": verdict.held.document.evidence.kind if verdict.held else None,
        "expires_at": utc(verdict.result.expires_at.timestamp()) if verdict.result else None,
        "claims": dict(verdict.result.claims) if verdict.result else {},
        "keys": [key.digest.hex() for key in verdict.result.statement.ohttp_keys] if verdict.result else [],
        "checks": checks_as_json(verdict.checks),
    }


def checks_as_json(checks: Sequence[Check]) -> list[dict[str, object]]:
    return [
        {"number": number, "name": check.name, "status": check.status, "detail": check.detail}
        for number, check in enumerate(checks, 1)
    ]


def print_verdict(verdict: Verdict) -> None:
    """The form for people, on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    if verdict.policy.is_insecure:
        console.print(Text("INSECURE policy: it accepts evidence that anyone can make.", ALARM))
    if verdict.policy.has_insecure_roots:
        console.print(Text(INSECURE_ROOTS_WARNING, ALARM))
    if verdict.origin is Origin.FILE and verdict.held:
        console.print(Text(f"A saved file, judged as of {utc(verdict.held.fetched_at)}.", "dim"))
    for number, check in enumerate(verdict.checks, 1):
        console.print(check_line(number, check))
    console.print(_conclusion(verdict))


def check_line(number: int, check: Check) -> Text:
    """One numbered line."""
    alarming = check.name == "machine" and check.detail == insecure.WARNING
    style = ALARM if alarming else STYLES[check.status]
    return Text(f"{number:>3}  {check.status:<4}  {check.name:<24}  {visible(check.detail)}", style)


def _conclusion(verdict: Verdict) -> Text:
    policy = f"policy {verdict.policy.digest[:16]}"
    if verdict.result is None:
        word = "REFUSED" if verdict.code is ExitCode.REFUSED else "NOT JUDGED"
        return Text(f"{word}: {visible(verdict.reason or '')} ({policy})", STYLES[CheckStatus.FAIL])
    if verdict.policy.is_insecure:
        return Text(f"ACCEPTED, AND NOTHING IS PROVEN ({policy})", ALARM)
    until = f"ACCEPTED until {utc(verdict.result.expires_at.timestamp())} ({policy})"
    if verdict.policy.has_insecure_roots:
        return Text(f"{until}, BY INSECURE ROOTS", ALARM)
    return Text(until, STYLES[CheckStatus.PASS])


def tell_fault(fault: Exception) -> None:
    """Why nothing could be shown, on standard error."""
    Console(stderr=True, highlight=False).print(Text(visible(str(fault)), STYLES[CheckStatus.FAIL]))


def print_claims(document: AttestationDocument) -> None:
    """What a document says of itself, on standard output. Raises EvidenceError."""
    console = Console(highlight=False, soft_wrap=True)
    statement = parse_statement(document.statement)
    console.print(Text("UNVERIFIED: what the document claims. Nothing here was checked.", UNVERIFIED))
    if document.evidence.kind is EvidenceKind.INSECURE:
        console.print(Text(insecure.WARNING, ALARM))
    for name, value in _claims(document, statement):
        console.print(claim_line(name, value))


def claim_line(name: str, value: str) -> Text:
    """What evidence or a statement says of one thing."""
    return Text(f"{name:<18} {visible(value)}")


def _claims(document: AttestationDocument, statement: Statement) -> Iterator[tuple[str, str]]:
    config = statement.config
    yield "evidence", f"{document.evidence.kind}, {len(document.evidence.report)} bytes"
    yield "device evidence", f"{len(document.device_evidence)} bytes"
    yield from describe(document).items()
    yield "collateral", _listed(tuple(f"{key.kind}" for key in sorted(document.collateral)))
    yield from (("nonce", nonce.hex()) for nonce in document.nonces)
    yield "instance", statement.instance
    yield "not after", utc(statement.not_after)
    yield from (("key", f"{key.digest.hex()} (id {key.key_id}, KEM {key.kem:#06x})") for key in statement.ohttp_keys)
    for model in statement.models:
        yield "model", " ".join((model.id, model.weights_sha256, *(f"alias {alias}" for alias in model.aliases)))
    for component in config.components:
        yield from describe_component(component).items()
    yield "insecure options", _listed(config.insecure_options)
    yield "evidence from", config.evidence_from
    yield "log level", config.log_level
    yield "request log", _yes(config.request_log)
    yield "API keys required", _yes(config.api_keys_required)
    yield "request limit", f"{statement.max_request_bytes} bytes, in chunks of {statement.max_chunk_bytes}"
    yield "TLS key (SPKI)", statement.tls_spki_sha256 or "none"
    yield "receipt key", statement.receipt_key.hex() if statement.receipt_key else "none"
    yield "extensions", _listed(tuple(statement.extensions))


def _listed(words: tuple[str, ...]) -> str:
    return " ".join(words) or "none"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def utc(unix_s: float) -> str:
    """Unix seconds as a person and a machine read them."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def visible(text: str) -> str:
    """Text of the other end, without what a terminal would obey."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
