"""The command line of the package: `sottovoce-attest`.

Exit codes: 0 accepted, 10 refused, 2 usage (a policy or file that cannot be used among it), 1 internal, among it an
engine that cannot be reached.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from attestation.bundle import MAX_BUNDLE_BYTES, Bundle, parse_saved
from attestation.cli import log as log_cli
from attestation.cli import policy as policy_cli
from attestation.cli import reference as reference_cli
from attestation.cli.collect import collect_command
from attestation.cli.inspect import inspect_command
from attestation.cli.selftest import selftest_command
from attestation.cli.sources import fetch, now_s, obtain, read_file, usable_policy
from attestation.cli.verdict import Origin, Verdict, as_json, print_claims, print_verdict, tell_fault
from attestation.collateral.options import CollateralOptions
from attestation.document import AttestationDocument
from attestation.errors import EvidenceError, FetchError, RefusedError
from attestation.policy import Policy
from attestation.release.trust import TrustOptions
from attestation.types import CheckStatus, parse_nonce
from attestation.verification import needs, questions, verify
from core.program.commands import VersionOption, settings_command
from core.program.logs import configure_logging
from core.program.run import ExitCode

app = typer.Typer(
    name="sottovoce-attest",
    help="Ask who is at the other end, and judge the answer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


app.command("collect")(collect_command)
app.command("inspect")(inspect_command)
app.command("selftest")(selftest_command)
app.add_typer(policy_cli.app, name="policy")
app.add_typer(log_cli.app, name="log")
app.add_typer(reference_cli.app, name="reference")


@app.callback()
def root(_version: VersionOption = False) -> None:
    """Ask who is at the other end, and judge the answer."""


@app.command()
def show(source: Annotated[str, typer.Argument(metavar="FILE|URL", help="A saved file, or an engine's URL.")]) -> None:
    """Show what an attestation document claims, without judging it."""
    try:
        held = fetch(source, loopback_only=False) if _origin(source) is Origin.ENGINE else _read(source)
        print_claims(held.document if isinstance(held, Bundle) else held)
    except (EvidenceError, FetchError) as exc:
        tell_fault(exc)
        raise typer.Exit(ExitCode.REFUSED if isinstance(exc, EvidenceError) else ExitCode.INTERNAL) from None


class VerifySettings(TrustOptions, CollateralOptions):
    """Settings of `sottovoce-attest verify`."""

    strict: bool = Field(False, description="Refuse when a check was skipped.")
    insecure_remote_engine: bool = Field(
        False, description="DANGER: under an insecure policy, speak to engines on other machines too."
    )
    ca_file: Path | None = Field(None, description="PEM roots for the engine's TLS, in place of the system's.")


@app.command("verify")
@settings_command(VerifySettings)
def verify_command(
    settings: VerifySettings,
    source: Annotated[
        str,
        typer.Argument(metavar="URL|BUNDLE", help="An engine's URL, a bundle kept with --save, or a bare document."),
    ],
    *,
    json_output: Annotated[bool, typer.Option("--json", help="Print the verdict as one JSON object.")] = False,
    save: Annotated[Path | None, typer.Option(help="Keep what the engine answered.", metavar="FILE")] = None,
    nonce: Annotated[
        str | None, typer.Option(help="The nonce that a saved file must answer.", metavar="HEX", show_default=False)
    ] = None,
) -> None:
    """Judge an engine, or what it once answered, by a policy.

    A bundle is judged as of the time it was saved, by the nonce it was saved with, or by --nonce. A bare document, as
    an engine answers it, is judged as of now and needs --nonce. Neither is judged with other collateral than its own.
    """
    configure_logging(settings.log_format, settings.log_level)
    verdict = Verdict(usable_policy(settings.policy, settings.policy_trust), _origin(source), strict=settings.strict)
    try:
        if verdict.origin is Origin.ENGINE:
            _refuse_option("--nonce", nonce, "an engine is asked with a nonce drawn for it")
            loopback_only = verdict.policy.is_insecure and not settings.insecure_remote_engine
            held = fetch(source, loopback_only=loopback_only, ca_file=settings.ca_file)
            held = _endorsed(held, verdict.policy, settings)
            _keep(held, save)
        else:
            _refuse_option("--save", save, "there is nothing new to keep")
            held = _with_nonce(_read(source), nonce)
        verdict = _judge(held, verdict)
    except (EvidenceError, FetchError) as exc:
        refused = isinstance(exc, EvidenceError)
        verdict = replace(verdict, code=ExitCode.REFUSED if refused else ExitCode.INTERNAL, reason=str(exc))
    if json_output:
        typer.echo(json.dumps(as_json(verdict)))
    else:
        print_verdict(verdict)
    raise typer.Exit(verdict.code)


def main() -> None:
    """Entry point of the console script."""
    app()


def _origin(source: str) -> Origin:
    return Origin.ENGINE if "://" in source else Origin.FILE


def _judge(held: Bundle, verdict: Verdict) -> Verdict:
    verdict = replace(verdict, held=held)
    judged_at = datetime.fromtimestamp(held.fetched_at, UTC)
    try:
        result = verify(held.document, verdict.policy, held.document.collateral, expected=held.nonce, now=judged_at)
    except RefusedError as exc:
        return replace(verdict, code=ExitCode.REFUSED, reason="checks failed", checks=exc.checks)
    if verdict.strict and any(check.status is CheckStatus.SKIP for check in result.checks):
        return replace(verdict, code=ExitCode.REFUSED, reason="checks were skipped (--strict)", checks=result.checks)
    return replace(verdict, code=ExitCode.ACCEPTED, checks=result.checks, result=result)


def _endorsed(held: Bundle, policy: Policy, options: CollateralOptions) -> Bundle:
    """The bundle with whatever collateral could be had of what the policy needs."""
    document, now = held.document, datetime.fromtimestamp(held.fetched_at, UTC)
    wanted = partial(needs, document, policy, now=now)
    asked = questions(document, policy)
    collateral = asyncio.run(obtain(wanted, document.collateral, options, now=now, questions=asked))
    return replace(held, document=replace(document, collateral=collateral))


def _refuse_option(name: str, value: object, reason: str) -> None:
    if value is not None:
        raise typer.BadParameter(reason, param_hint=name)


def _read(source: str) -> Bundle | AttestationDocument:
    return parse_saved(read_file(Path(source), max_bytes=MAX_BUNDLE_BYTES, hint="source"))


def _with_nonce(held: Bundle | AttestationDocument, text: str | None) -> Bundle:
    try:
        nonce = parse_nonce(text) if text is not None else None
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--nonce") from None
    if isinstance(held, Bundle):
        return replace(held, nonce=nonce or held.nonce)
    if nonce is None:
        raise typer.BadParameter("a bare document does not say whose nonce it answers", param_hint="--nonce")
    return Bundle(nonce, now_s(), held)


def _keep(held: Bundle, path: Path | None) -> None:
    try:
        if path is not None:
            path.write_bytes(held.encode())
    except OSError as exc:
        raise typer.BadParameter(f"{path}: {exc.strerror}", param_hint="--save") from None
