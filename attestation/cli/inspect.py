"""The command that reads a bare report, quote or evidence of devices: `sottovoce-attest inspect`.

It is for evidence that no engine answered with, such as what a vendor's own tool wrote, and for trying a policy on it.
Nothing binds such evidence to an engine's keys, so that it is never said to be accepted.

Exit codes: 0 shown, or every check passed; 10 a check failed, or it cannot be read; 2 a wrong option or no such file.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field
from rich.console import Console
from rich.text import Text

from attestation import insecure
from attestation.cli.described import describe_devices, describe_machine
from attestation.cli.sources import obtain, read_file, usable_policy
from attestation.cli.verdict import ALARM, STYLES, UNVERIFIED, check_line, checks_as_json, claim_line, tell_fault, utc
from attestation.collateral.options import CollateralOptions
from attestation.errors import EvidenceError
from attestation.evidence import KINDS
from attestation.gpu import appraise as gpu
from attestation.gpu.evidence import MAX_DEVICE_EVIDENCE_BYTES, parse_devices
from attestation.policy import INSECURE_ROOTS_WARNING, Policy
from attestation.recognition import recognise
from attestation.release.trust import SignerOptions
from attestation.types import Check, CheckStatus, DeviceEvidence, Evidence, EvidenceKind, failed
from core.program.commands import settings_command
from core.program.logs import configure_logging
from core.program.run import ExitCode


class InspectSettings(SignerOptions, CollateralOptions):
    """Settings of `sottovoce-attest inspect`."""

    policy: Path | None = Field(None, description="TOML file to judge by; nothing is judged without one.")


@settings_command(InspectSettings)
def inspect_command(
    settings: InspectSettings,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A report, a quote, or evidence of GPUs in JSON.")],
    *,
    at: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%dT%H:%M:%SZ"], help="Judge as of this time, in UTC.", show_default="now"),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print what was found as one JSON object.")] = False,
) -> None:
    """Show what a bare report, quote or evidence of GPUs says and, with --policy, how each check of it comes out.

    The file is binary, hexadecimal or base64; evidence of GPUs is JSON. That it is fresh, and to which keys it belongs,
    is not told by such evidence alone: for that there is verify.
    """
    configure_logging(settings.log_format, settings.log_level)
    policy = usable_policy(settings.policy, settings.policy_trust) if settings.policy else None
    now = (at or datetime.now(UTC)).replace(tzinfo=UTC)
    try:
        evidence = recognise(read_file(file, max_bytes=MAX_DEVICE_EVIDENCE_BYTES, hint="FILE"))
        if policy is None and isinstance(evidence, Evidence):
            KINDS[evidence.kind].reported(evidence.report)  # a policy has a check for what cannot be read
    except EvidenceError as exc:
        tell_fault(exc)
        raise typer.Exit(ExitCode.REFUSED) from None
    checks = _judged(evidence, policy, settings, now) if policy else ()
    if json_output:
        typer.echo(json.dumps(_as_json(evidence, policy, checks, now)))
    else:
        _print(evidence, policy, checks, now)
    raise typer.Exit(ExitCode.REFUSED if any(check.failed for check in checks) else ExitCode.ACCEPTED)


def _judged(
    evidence: Evidence | DeviceEvidence, policy: Policy, options: CollateralOptions, now: datetime
) -> Sequence[Check]:
    if not isinstance(evidence, Evidence):
        return _judged_devices(evidence, policy, options, now)
    if (rules := policy.machine.get(evidence.kind)) is None:
        return (failed("evidence kind", f"{evidence.kind}; the policy accepts {', '.join(sorted(policy.kinds))}"),)
    kind = KINDS[evidence.kind]
    wanted = partial(kind.needs, evidence.report, rules)
    collateral = asyncio.run(obtain(wanted, {}, options, now=now))
    return kind.appraise(evidence.report, rules, collateral, roots=policy.roots, now=now).checks


def _judged_devices(
    evidence: DeviceEvidence, policy: Policy, options: CollateralOptions, now: datetime
) -> Sequence[Check]:
    if policy.gpu is None:
        return (failed("devices", "the policy has no rules for devices"),)
    devices = parse_devices(evidence)
    # Whose nonce it is cannot be known: it is enough that all devices signed the one that the first says it answers.
    nonce = (*devices.gpus, *devices.switches)[0].nonce
    wanted = partial(gpu.needs, evidence, policy.gpu, nonce=nonce, roots=policy.roots, now=now)
    questions = gpu.questions(evidence, policy.gpu, nonce=nonce)
    collateral = asyncio.run(obtain(wanted, {}, options, now=now, questions=questions))
    return gpu.appraise(evidence, policy.gpu, collateral, nonce=nonce, roots=policy.roots, now=now).checks


def _described(evidence: Evidence | DeviceEvidence) -> Mapping[str, str]:
    return describe_machine(evidence) if isinstance(evidence, Evidence) else describe_devices(evidence)


def _as_json(
    evidence: Evidence | DeviceEvidence, policy: Policy | None, checks: Sequence[Check], now: datetime
) -> dict[str, object]:
    """The machine form; every member is always there."""
    return {
        "version": 1,
        "kind": evidence.kind if isinstance(evidence, Evidence) else "devices",
        "described": dict(_described(evidence)),
        "policy_sha256": policy.digest if policy else None,
        "judged_at": utc(now.timestamp()) if policy else None,
        "passed": not any(check.failed for check in checks) if policy else None,
        "checks": checks_as_json(checks),
    }


def _print(evidence: Evidence | DeviceEvidence, policy: Policy | None, checks: Sequence[Check], now: datetime) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text("UNVERIFIED: what it claims of itself.", UNVERIFIED))
    if isinstance(evidence, Evidence):
        console.print(claim_line("evidence", evidence.kind))
        if evidence.kind is EvidenceKind.INSECURE:
            console.print(Text(insecure.WARNING, ALARM))
    for name, value in _described(evidence).items():
        console.print(claim_line(name, value))
    if policy is None:
        return
    if policy.has_insecure_roots:
        console.print(Text(INSECURE_ROOTS_WARNING, ALARM))
    console.print(Text(f"By policy {policy.digest[:16]}, as of {utc(now.timestamp())}:", "dim"))
    for number, check in enumerate(checks, 1):
        console.print(check_line(number, check))
    if any(check.failed for check in checks):
        console.print(Text("REFUSED: checks failed", STYLES[CheckStatus.FAIL]))
    else:
        console.print(Text("No check failed. Whose keys it vouches for, and whether it is fresh, is open.", UNVERIFIED))
