"""The command line of the package: `sottovoce-attest`.

Exit codes: 0 accepted, 10 refused, 2 usage (a policy or file that cannot be used among it), 1 internal, among it an
engine that cannot be reached.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from attestation import insecure
from attestation.bundle import MAX_BUNDLE_BYTES, Bundle, parse_saved
from attestation.document import AttestationDocument, parse_nonce
from attestation.errors import EvidenceError, FetchError, PolicyError, RefusedError
from attestation.fetch import FETCH_TIMEOUT_S, fetch_document, parse_engine_url
from attestation.http import environment_proxy, open_session
from attestation.policy import Policy, read_policy
from attestation.program import ExitCode, VersionOption
from attestation.statement import Statement, parse_statement
from attestation.types import NONCE_BYTES, Check, CheckStatus, EvidenceKind, Nonce
from attestation.verify import AttestationResult, verify

CONNECT_TIMEOUT_S = 10.0

STYLES = {CheckStatus.PASS: "green", CheckStatus.FAIL: "bold red", CheckStatus.SKIP: "dim yellow"}
ALARM = "bold red"
UNVERIFIED = "bold yellow"

app = typer.Typer(
    name="sottovoce-attest",
    help="Ask who is at the other end, and judge the answer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def root(_version: VersionOption = False) -> None:
    """Ask who is at the other end, and judge the answer."""


@app.command()
def show(source: Annotated[str, typer.Argument(metavar="FILE|URL", help="A saved file, or an engine's URL.")]) -> None:
    """Show what an attestation document claims, without judging it."""
    try:
        held = _fetch(source, loopback_only=False) if _origin(source) is Origin.ENGINE else _read(source)
        _print_claims(held.document if isinstance(held, Bundle) else held)
    except (EvidenceError, FetchError) as exc:
        Console(stderr=True, highlight=False).print(Text(_visible(str(exc)), STYLES[CheckStatus.FAIL]))
        raise typer.Exit(ExitCode.REFUSED if isinstance(exc, EvidenceError) else ExitCode.INTERNAL) from None


@app.command("verify")
def verify_command(
    source: Annotated[
        str,
        typer.Argument(metavar="URL|BUNDLE", help="An engine's URL, a bundle kept with --save, or a bare document."),
    ],
    *,
    policy: Annotated[Path, typer.Option(help="The policy to judge by, a TOML file.", metavar="FILE")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as one JSON object.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse when a check was skipped.")] = False,
    save: Annotated[Path | None, typer.Option(help="Keep what the engine answered.", metavar="FILE")] = None,
    nonce: Annotated[
        str | None, typer.Option(help="The nonce that a saved file must answer.", metavar="HEX", show_default=False)
    ] = None,
    insecure_remote_engine: Annotated[
        bool,
        typer.Option(
            "--insecure-remote-engine",
            help="DANGER: under an insecure policy, speak to engines on other machines too.",
        ),
    ] = False,
) -> None:
    """Judge an engine, or what it once answered, by a policy.

    A bundle is judged as of the time it was saved, by the nonce it was saved with, or by --nonce. A bare document, as
    an engine answers it, is judged as of now and needs --nonce.
    """
    verdict = _Verdict(_usable_policy(policy), _origin(source), strict=strict)
    try:
        if verdict.origin is Origin.ENGINE:
            _refuse_option("--nonce", nonce, "an engine is asked with a nonce drawn for it")
            held = _fetch(source, loopback_only=verdict.policy.is_insecure and not insecure_remote_engine)
            _keep(held, save)
        else:
            _refuse_option("--save", save, "there is nothing new to keep")
            held = _with_nonce(_read(source), nonce)
        verdict = _judge(held, verdict)
    except (EvidenceError, FetchError) as exc:
        refused = isinstance(exc, EvidenceError)
        verdict = replace(verdict, code=ExitCode.REFUSED if refused else ExitCode.INTERNAL, reason=str(exc))
    if as_json:
        typer.echo(json.dumps(_as_json(verdict)))
    else:
        _print_verdict(verdict)
    raise typer.Exit(verdict.code)


def main() -> None:
    """Entry point of the console script."""
    app()


class Origin(StrEnum):
    """Where the evidence came from."""

    ENGINE = "engine"
    FILE = "file"


def _origin(source: str) -> Origin:
    return Origin.ENGINE if "://" in source else Origin.FILE


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What a run found out. code: INTERNAL until something was judged. held: None when nothing was had to judge."""

    policy: Policy
    origin: Origin
    strict: bool
    code: ExitCode = ExitCode.INTERNAL
    reason: str | None = None
    held: Bundle | None = None
    checks: tuple[Check, ...] = ()
    result: AttestationResult | None = None


def _judge(held: Bundle, verdict: _Verdict) -> _Verdict:
    verdict = replace(verdict, held=held)
    judged_at = datetime.fromtimestamp(held.fetched_at, UTC)
    try:
        result = verify(held.document, verdict.policy, expected=held.nonce, now=judged_at)
    except RefusedError as exc:
        return replace(verdict, code=ExitCode.REFUSED, reason="checks failed", checks=exc.checks)
    if verdict.strict and any(check.status is CheckStatus.SKIP for check in result.checks):
        return replace(verdict, code=ExitCode.REFUSED, reason="checks were skipped (--strict)", checks=result.checks)
    return replace(verdict, code=ExitCode.ACCEPTED, checks=result.checks, result=result)


# Where the evidence comes from.


def _usable_policy(path: Path) -> Policy:
    try:
        return read_policy(path)
    except PolicyError as exc:
        raise typer.BadParameter(str(exc), param_hint="--policy") from None


def _refuse_option(name: str, value: object, reason: str) -> None:
    if value is not None:
        raise typer.BadParameter(reason, param_hint=name)


def _read(source: str) -> Bundle | AttestationDocument:
    try:
        with Path(source).open("rb") as file:
            return parse_saved(file.read(MAX_BUNDLE_BYTES + 1))
    except OSError as exc:
        raise typer.BadParameter(f"{source}: {exc.strerror}", param_hint="source") from None


def _with_nonce(held: Bundle | AttestationDocument, text: str | None) -> Bundle:
    nonce = _nonce(text) if text is not None else None
    if isinstance(held, Bundle):
        return replace(held, nonce=nonce or held.nonce)
    if nonce is None:
        raise typer.BadParameter("a bare document does not say whose nonce it answers", param_hint="--nonce")
    return Bundle(nonce, _now(), held)


def _nonce(text: str) -> Nonce:
    try:
        return parse_nonce(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--nonce") from None


def _now() -> int:
    return int(datetime.now(UTC).timestamp())


def _fetch(source: str, *, loopback_only: bool) -> Bundle:
    try:
        url = parse_engine_url(source)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="source") from None
    nonce = Nonce(os.urandom(NONCE_BYTES))
    document = asyncio.run(_fetched(url, nonce, loopback_only=loopback_only))
    return Bundle(nonce, _now(), document)


async def _fetched(url: str, nonce: Nonce, *, loopback_only: bool) -> AttestationDocument:
    proxy = None if loopback_only else environment_proxy(url)
    async with open_session(
        tls=None, loopback_only=loopback_only, connect_timeout_s=CONNECT_TIMEOUT_S, idle_timeout_s=FETCH_TIMEOUT_S
    ) as session:
        return await fetch_document(session, url, nonce, proxy=proxy)


def _keep(held: Bundle, path: Path | None) -> None:
    if path is None:
        return
    try:
        path.write_bytes(held.encode())
    except OSError as exc:
        raise typer.BadParameter(f"{path}: {exc.strerror}", param_hint="--save") from None


# What is said of it.


def _as_json(verdict: _Verdict) -> dict[str, object]:
    """The machine form; every member is always there."""
    return {
        "version": 1,
        "verdict": {ExitCode.ACCEPTED: "accepted", ExitCode.REFUSED: "refused"}.get(verdict.code, "unknown"),
        "reason": verdict.reason,
        "insecure": verdict.policy.is_insecure,
        "strict": verdict.strict,
        "origin": verdict.origin,
        "policy_sha256": verdict.policy.digest,
        "nonce": verdict.held.nonce.hex() if verdict.held else None,
        "judged_at": _time(verdict.held.fetched_at) if verdict.held else None,
        "evidence_kind": verdict.held.document.evidence.kind if verdict.held else None,
        "expires_at": _time(verdict.result.statement.not_after) if verdict.result else None,
        "keys": [key.digest.hex() for key in verdict.result.statement.ohttp_keys] if verdict.result else [],
        "checks": [
            {"number": number, "name": check.name, "status": check.status, "detail": check.detail}
            for number, check in enumerate(verdict.checks, 1)
        ],
    }


def _print_verdict(verdict: _Verdict) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if verdict.policy.is_insecure:
        console.print(Text("INSECURE policy: it accepts evidence that anyone can make.", ALARM))
    if verdict.origin is Origin.FILE and verdict.held:
        console.print(Text(f"A saved file, judged as of {_time(verdict.held.fetched_at)}.", "dim"))
    for number, check in enumerate(verdict.checks, 1):
        console.print(_line(number, check))
    console.print(_conclusion(verdict))


def _line(number: int, check: Check) -> Text:
    alarming = check.name == "machine" and check.detail == insecure.WARNING
    style = ALARM if alarming else STYLES[check.status]
    return Text(f"{number:>3}  {check.status:<4}  {check.name:<17}  {_visible(check.detail)}", style)


def _conclusion(verdict: _Verdict) -> Text:
    policy = f"policy {verdict.policy.digest[:16]}"
    if verdict.result is None:
        word = "REFUSED" if verdict.code is ExitCode.REFUSED else "NOT JUDGED"
        return Text(f"{word}: {_visible(verdict.reason or '')} ({policy})", STYLES[CheckStatus.FAIL])
    if verdict.policy.is_insecure:
        return Text(f"ACCEPTED, AND NOTHING IS PROVEN ({policy})", ALARM)
    return Text(f"ACCEPTED until {_time(verdict.result.statement.not_after)} ({policy})", STYLES[CheckStatus.PASS])


def _print_claims(document: AttestationDocument) -> None:
    console = Console(highlight=False, soft_wrap=True)
    statement = parse_statement(document.statement)
    console.print(Text("UNVERIFIED: what the document claims. Nothing here was checked.", UNVERIFIED))
    if document.evidence.kind is EvidenceKind.INSECURE:
        console.print(Text(insecure.WARNING, ALARM))
    for name, value in _claims(document, statement):
        console.print(Text(f"{name:<18} {_visible(value)}"))


def _claims(document: AttestationDocument, statement: Statement) -> Iterator[tuple[str, str]]:
    config = statement.config
    yield "evidence", f"{document.evidence.kind}, {len(document.evidence.report)} bytes"
    yield "device evidence", f"{len(document.device_evidence)} bytes"
    yield from (("nonce", nonce.hex()) for nonce in document.nonces)
    yield "instance", statement.instance
    yield "not after", _time(statement.not_after)
    yield from (("key", f"{key.digest.hex()} (id {key.key_id}, KEM {key.kem:#06x})") for key in statement.ohttp_keys)
    for model in statement.models:
        yield "model", " ".join((model.id, model.weights_sha256, *(f"alias {alias}" for alias in model.aliases)))
    yield "backend", config.backend + (" (attached)" if config.backend_attached else "")
    yield "backend arguments", _listed(config.backend_arguments)
    yield "plugins", _listed(config.plugins)
    yield "insecure options", _listed(config.insecure_options)
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


def _time(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _visible(text: str) -> str:
    """Text of the other end, without what a terminal would obey."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
