"""The command line of the package: `sottovoce-attest`.

Exit codes: 0 accepted, 10 refused, 2 usage (a policy or file that cannot be used among it), 1 internal, among it an
engine that cannot be reached.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from attestation import log_cli, policy_cli
from attestation.bundle import MAX_BUNDLE_BYTES, Bundle, parse_saved
from attestation.collateral import Cache, CollateralStore, ask_over
from attestation.collect_cli import collect_command
from attestation.document import AttestationDocument, parse_nonce
from attestation.errors import EvidenceError, FetchError, PolicyError, RefusedError
from attestation.fetch import FETCH_TIMEOUT_S, fetch_document, parse_engine_url
from attestation.http import environment_proxy, open_session
from attestation.policy import Policy
from attestation.policy_cli import MinPolicyVersion, PolicySigners, SigstoreIdentity, SigstoreIssuer, SigstoreRoot
from attestation.program import ExitCode, VersionOption
from attestation.release import PolicyTrust, load_policy, policy_trust
from attestation.selftest_cli import selftest_command
from attestation.state import cache_directory, state_directory
from attestation.types import NONCE_BYTES, CheckStatus, Nonce
from attestation.verdict import Origin, Verdict, as_json, print_claims, print_verdict, tell_fault
from attestation.verify import needs, questions, verify

CONNECT_TIMEOUT_S = 10.0

app = typer.Typer(
    name="sottovoce-attest",
    help="Ask who is at the other end, and judge the answer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


app.command("collect")(collect_command)
app.command("selftest")(selftest_command)
app.add_typer(policy_cli.app, name="policy")
app.add_typer(log_cli.app, name="log")


@app.callback()
def root(_version: VersionOption = False) -> None:
    """Ask who is at the other end, and judge the answer."""


@app.command()
def show(source: Annotated[str, typer.Argument(metavar="FILE|URL", help="A saved file, or an engine's URL.")]) -> None:
    """Show what an attestation document claims, without judging it."""
    try:
        held = _fetch(source, loopback_only=False) if _origin(source) is Origin.ENGINE else _read(source)
        print_claims(held.document if isinstance(held, Bundle) else held)
    except (EvidenceError, FetchError) as exc:
        tell_fault(exc)
        raise typer.Exit(ExitCode.REFUSED if isinstance(exc, EvidenceError) else ExitCode.INTERNAL) from None


@app.command("verify")
def verify_command(
    source: Annotated[
        str,
        typer.Argument(metavar="URL|BUNDLE", help="An engine's URL, a bundle kept with --save, or a bare document."),
    ],
    *,
    policy: Annotated[Path, typer.Option(help="The policy to judge by, a TOML file.", metavar="FILE")],
    json_output: Annotated[bool, typer.Option("--json", help="Print the verdict as one JSON object.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse when a check was skipped.")] = False,
    save: Annotated[Path | None, typer.Option(help="Keep what the engine answered.", metavar="FILE")] = None,
    nonce: Annotated[
        str | None, typer.Option(help="The nonce that a saved file must answer.", metavar="HEX", show_default=False)
    ] = None,
    policy_signer: PolicySigners = None,
    min_policy_version: MinPolicyVersion = None,
    policy_sigstore_root: SigstoreRoot = None,
    policy_sigstore_identity: SigstoreIdentity = None,
    policy_sigstore_issuer: SigstoreIssuer = None,
    collateral_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where collateral is cached. Default: the user's cache directory."),
    ] = None,
    offline_collateral: Annotated[
        bool,
        typer.Option(
            "--offline-collateral", help="Ask no vendor: collateral comes from the engine and the cache only."
        ),
    ] = False,
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
    an engine answers it, is judged as of now and needs --nonce. Neither is judged with other collateral than its own.
    """
    trusted = _trusted(
        policy_signer or (),
        min_version=min_policy_version,
        state_dir=state_directory(),
        sigstore_root=policy_sigstore_root,
        sigstore_identity=policy_sigstore_identity,
        sigstore_issuer=policy_sigstore_issuer,
    )
    verdict = Verdict(_usable_policy(policy, trusted), _origin(source), strict=strict)
    try:
        if verdict.origin is Origin.ENGINE:
            _refuse_option("--nonce", nonce, "an engine is asked with a nonce drawn for it")
            held = _fetch(source, loopback_only=verdict.policy.is_insecure and not insecure_remote_engine)
            cache = Cache(collateral_dir or cache_directory())
            held = asyncio.run(_endorsed(held, verdict.policy, cache, offline=offline_collateral))
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


# Where the evidence comes from.


def _trusted(signers: Iterable[str], **options: Any) -> PolicyTrust:
    try:
        return policy_trust(signers, **options)
    except PolicyError as exc:
        raise typer.BadParameter(str(exc), param_hint="--policy-signer") from None


def _usable_policy(path: Path, trust: PolicyTrust) -> Policy:
    try:
        return load_policy(path, trust, now=datetime.now(UTC))
    except PolicyError as exc:
        raise typer.BadParameter(str(exc), param_hint="--policy") from None


async def _endorsed(held: Bundle, policy: Policy, cache: Cache, *, offline: bool) -> Bundle:
    """The bundle with whatever collateral could be had of what the policy needs."""
    now = datetime.fromtimestamp(held.fetched_at, UTC)
    async with open_session(
        tls=None, loopback_only=False, connect_timeout_s=CONNECT_TIMEOUT_S, idle_timeout_s=FETCH_TIMEOUT_S
    ) as session:
        store = CollateralStore(cache, None if offline else ask_over(session), lambda: now)
        wanted = partial(needs, held.document, policy, now=now)
        obtained = await store.obtain(wanted, held.document.collateral, questions(held.document, policy))
    return replace(held, document=replace(held.document, collateral=obtained.collateral))


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
