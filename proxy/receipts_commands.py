"""`sottovoce receipts`: is this receipt an attested engine's, and for what it was kept with?

Exit codes: 0 it is, 10 it is not, 2 usage (a policy or a file that cannot be used among it).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from attestation.bundle import MAX_BUNDLE_BYTES, parse_bundle
from attestation.errors import AttestationError, EvidenceError, RefusedError
from attestation.policy import INSECURE_ROOTS_WARNING, Policy
from attestation.receipt import Receipt, verify_live_receipt, verify_receipt
from attestation.release.load import load_policy
from attestation.release.trust import TrustOptions
from attestation.types import Check, failed, judged
from attestation.verification import verify
from core.program.commands import settings_command
from core.program.run import ExitCode
from proxy.sealed.receipts import (
    MAX_FILE_BYTES,
    KeptJobReceipts,
    KeptLiveReceipt,
    KeptPartReceipt,
    KeptReceipt,
    parse_kept,
)

receipts = typer.Typer(no_args_is_help=True, help="What engines signed of the requests that they answered.")


@receipts.callback()
def _group() -> None:
    """What engines signed of the requests that they answered."""


@receipts.command("verify")
@settings_command(TrustOptions)
def verify_one(
    settings: TrustOptions,
    receipt: Annotated[Path, typer.Argument(help="A file of `--receipts-dir`, or of `sottovoce jobs receipts`.")],
    *,
    bundle: Annotated[
        list[Path],
        typer.Option(
            help="What `sottovoce-attest verify URL --save` kept of the engine; of a job, of each of several."
        ),
    ],
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Judge the engine by a policy as of when the bundle was saved, and the receipt by the engine's key."""
    policy = _policy(settings)
    kept_data, bundles = _read(receipt, MAX_FILE_BYTES), [_read(each, MAX_BUNDLE_BYTES) for each in bundle]
    told: Told | None = None
    try:
        told, checks = _judged(kept_data, bundles, policy)
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


@dataclass(frozen=True, slots=True)
class Told:
    """What was found true. claims: for JSON. sentence: for a person."""

    claims: dict[str, object]
    sentence: str


@dataclass(frozen=True, slots=True)
class Signer:
    """An engine that the policy accepts, by its bundle."""

    instance: str
    key: bytes | None


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


Checks: TypeAlias = tuple[Check, ...]


def _judged(kept_data: bytes, bundles: Sequence[bytes], policy: Policy) -> tuple[Told, Checks]:
    """Raises AttestationError."""
    kept = parse_kept(kept_data)
    signers, checks = list[Signer](), list[Check]()
    for data in bundles:
        held = parse_bundle(data)
        judged_at = datetime.fromtimestamp(held.fetched_at, UTC)
        attested = verify(held.document, policy, held.document.collateral, expected=held.nonce, now=judged_at)
        signers.append(Signer(attested.statement.instance, attested.statement.receipt_key))
        checks += attested.checks
    if isinstance(kept, KeptJobReceipts):
        told, found = _of_a_job(kept, {signer.instance: signer for signer in signers})
    else:
        told, found = _of_one(kept, signers)
    return told, (*checks, *found)


def _of_one(kept: KeptReceipt | KeptLiveReceipt, signers: Sequence[Signer]) -> tuple[Told, Checks]:
    """Raises RefusedError, EvidenceError."""
    if len(signers) != 1:
        raise EvidenceError("receipt: of one engine, so one bundle is needed")
    (signer,) = signers
    if isinstance(kept, KeptLiveReceipt):
        up, down = (kept.frames_up, kept.up_sha256), (kept.frames_down, kept.down_sha256)
        session, checks = verify_live_receipt(kept.receipt, signer.key, up=up, down=down)
        what = f"session ended with {session.code}, model {session.model or 'none'}, {session.audio_seconds} s of audio"
        return Told(asdict(session), f"{what}, {_moment(session.issued_at)}"), checks
    receipt, checks = _verified(kept, signer.key)
    heard = "answered again, nothing was heard" if receipt.replayed else f"{receipt.audio_seconds} s of audio"
    what = f"status {receipt.status}, model {receipt.model or 'none'}, {heard}"
    return Told(asdict(receipt), f"{what}, {_moment(receipt.issued_at)}"), checks


def _verified(kept: KeptReceipt | KeptPartReceipt, key: bytes | None) -> tuple[Receipt, Checks]:
    """Raises RefusedError, EvidenceError."""
    return verify_receipt(kept.receipt, key, request_sha256=kept.request_sha256, answer_sha256=kept.answer_sha256)


def _of_a_job(kept: KeptJobReceipts, signers: Mapping[str, Signer]) -> tuple[Told, Checks]:
    """Every part in its place, each with a receipt of its own by an engine of these. Raises RefusedError."""
    numbers = [part.part for part in kept.receipts]
    whole = judged(
        "parts",
        bool(numbers) and numbers == list(range(len(numbers))),
        f"{len(numbers)} parts follow each other",
        "a part is missing, or not in its place",
    )
    once = judged(
        "once",
        len({part.request_sha256 for part in kept.receipts}) == len(numbers),
        "each has a receipt of its own",
        "a receipt is there twice",
    )
    checks, receipts = [whole, once], list[Receipt]()
    for part in kept.receipts:
        receipt, found = _of_a_part(part, signers)
        checks += found
        receipts += [receipt] if receipt else []
    if any(check.failed for check in checks):
        raise RefusedError(tuple(checks))
    models = sorted({receipt.model for receipt in receipts if receipt.model})
    audio_s = sum(receipt.audio_seconds for receipt in receipts)
    claims: dict[str, object] = {"job": kept.job, "parts": len(receipts), "models": models, "audio_seconds": audio_s}
    issued_at = max(receipt.issued_at for receipt in receipts)
    sentence = f"job {kept.job}, {len(receipts)} parts, model {', '.join(models)}, {audio_s} s of audio"
    return Told(claims | {"issued_at": issued_at}, f"{sentence}, {_moment(issued_at)}"), tuple(checks)


def _of_a_part(part: KeptPartReceipt, signers: Mapping[str, Signer]) -> tuple[Receipt | None, list[Check]]:
    """The receipt of a part, and what was found, under the part's name."""
    name = f"part {part.part}"
    if (signer := signers.get(part.instance)) is None:
        return None, [failed(f"{name} engine", "no bundle of its engine was given")]
    try:
        receipt, checks = _verified(part, signer.key)
    except RefusedError as exc:
        return None, [replace(check, name=f"{name} {check.name}") for check in exc.checks]
    except EvidenceError as exc:
        return None, [failed(f"{name} receipt", str(exc))]
    heard = judged(f"{name} status", receipt.status == 200, "it was answered", "it was not answered")
    return receipt, [*(replace(check, name=f"{name} {check.name}") for check in checks), heard]


def _moment(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _as_json(told: Told | None, checks: Checks, policy: Policy, reason: str) -> str:
    return json.dumps(
        {
            "accepted": told is not None,
            "insecure": policy.is_insecure or policy.has_insecure_roots,
            "reason": reason or None,
            "receipt": told.claims if told else None,
            "checks": [{"name": each.name, "status": each.status.value, "detail": each.detail} for each in checks],
        }
    )


def _print(told: Told | None, checks: Checks, policy: Policy, reason: str) -> None:
    if policy.is_insecure:
        typer.secho("INSECURE policy: it accepts evidence that anyone can make.", fg="red", bold=True)
    if policy.has_insecure_roots:
        typer.secho(INSECURE_ROOTS_WARNING, fg="red", bold=True)
    for check in checks:
        typer.echo(f"{check.status:<4}  {check.name:<20}  {check.detail}")
    if told is None:
        typer.secho(f"REFUSED: {reason}", fg="red")
        return
    typer.echo(f"ACCEPTED: {told.sentence}")
