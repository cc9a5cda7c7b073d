"""`sottovoce receipts`: is this receipt an attested engine's, and for the request and the answer that it was kept with?

Exit codes: 0 it is, 10 it is not, 2 usage (a policy or a file that cannot be used among it).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from attestation.bundle import MAX_BUNDLE_BYTES, parse_bundle
from attestation.errors import AttestationError, RefusedError
from attestation.policy import INSECURE_ROOTS_WARNING, Policy
from attestation.receipt import Receipt, verify_receipt
from attestation.release.load import load_policy
from attestation.release.trust import TrustOptions
from attestation.types import Check
from attestation.verification import verify
from core.program.commands import settings_command
from core.program.run import ExitCode
from proxy.sealed.receipts import MAX_FILE_BYTES, parse_kept

receipts = typer.Typer(no_args_is_help=True, help="What engines signed of the requests that they answered.")


@receipts.callback()
def _group() -> None:
    """What engines signed of the requests that they answered."""


@receipts.command("verify")
@settings_command(TrustOptions)
def verify_one(
    settings: TrustOptions,
    receipt: Annotated[Path, typer.Argument(help="A file of `--receipts-dir`.")],
    *,
    bundle: Annotated[Path, typer.Option(help="What `sottovoce-attest verify URL --save` kept of the engine.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Judge the engine by a policy as of when the bundle was saved, and the receipt by the engine's key."""
    policy = _policy(settings)
    kept_data, bundle_data = _read(receipt, MAX_FILE_BYTES), _read(bundle, MAX_BUNDLE_BYTES)
    told: Receipt | None = None
    try:
        told, checks = _judged(kept_data, bundle_data, policy)
        reason = ""
    except RefusedError as exc:
        checks, reason = exc.checks, "checks failed"
    except AttestationError as exc:
        checks, reason = (), str(exc)
    if json_output:
        typer.echo(_as_json(told, checks, policy, reason))
    else:
        _print(told, checks, policy, reason)
    raise typer.Exit(ExitCode.ACCEPTED if told else ExitCode.REFUSED)


def _policy(settings: TrustOptions) -> Policy:
    try:
        return load_policy(settings.policy, settings.policy_trust, now=datetime.now(UTC))
    except AttestationError as exc:
        raise typer.BadParameter(str(exc), param_hint="--policy") from None


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as exc:
        raise typer.BadParameter(f"{path}: {exc.strerror}") from None


def _judged(kept_data: bytes, bundle_data: bytes, policy: Policy) -> tuple[Receipt, tuple[Check, ...]]:
    """Raises AttestationError."""
    kept, held = parse_kept(kept_data), parse_bundle(bundle_data)
    judged_at = datetime.fromtimestamp(held.fetched_at, UTC)
    attested = verify(held.document, policy, held.document.collateral, expected=held.nonce, now=judged_at)
    receipt, checks = verify_receipt(
        kept.receipt,
        attested.statement.receipt_key,
        request_sha256=kept.request_sha256,
        answer_sha256=kept.answer_sha256,
    )
    return receipt, (*attested.checks, *checks)


def _as_json(told: Receipt | None, checks: tuple[Check, ...], policy: Policy, reason: str) -> str:
    claims = {name: getattr(told, name) for name in Receipt.__dataclass_fields__} if told else None
    return json.dumps(
        {
            "accepted": told is not None,
            "insecure": policy.is_insecure or policy.has_insecure_roots,
            "reason": reason or None,
            "receipt": claims,
            "checks": [{"name": each.name, "status": each.status.value, "detail": each.detail} for each in checks],
        }
    )


def _print(told: Receipt | None, checks: tuple[Check, ...], policy: Policy, reason: str) -> None:
    if policy.is_insecure:
        typer.secho("INSECURE policy: it accepts evidence that anyone can make.", fg="red", bold=True)
    if policy.has_insecure_roots:
        typer.secho(INSECURE_ROOTS_WARNING, fg="red", bold=True)
    for check in checks:
        typer.echo(f"{check.status:<4}  {check.name:<20}  {check.detail}")
    if told is None:
        typer.secho(f"REFUSED: {reason}", fg="red")
        return
    issued = datetime.fromtimestamp(told.issued_at, UTC)
    heard = "answered again, nothing was heard" if told.replayed else f"{told.audio_seconds} s of audio"
    typer.echo(f"ACCEPTED: status {told.status}, model {told.model or 'none'}, {heard}, {issued:%Y-%m-%dT%H:%M:%SZ}")
