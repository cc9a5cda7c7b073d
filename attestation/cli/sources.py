"""Where do a command's policy, evidence and collateral come from? Files and services, with faults told as usage."""

from __future__ import annotations

import asyncio
import os
import ssl
from datetime import UTC, datetime
from pathlib import Path

import typer

from attestation.bundle import Bundle
from attestation.collateral.options import CollateralOptions
from attestation.collateral.store import Cache, CollateralStore, Needs, Questions, ask_over
from attestation.document import AttestationDocument
from attestation.errors import PolicyError
from attestation.fetch import FETCH_TIMEOUT_S, fetch_document, parse_engine_url
from attestation.policy import Policy
from attestation.release.load import load_policy
from attestation.release.trust import PolicyTrust
from attestation.types import NONCE_BYTES, Collateral, Nonce
from core.program.http.client import open_session, proxy_for

CONNECT_TIMEOUT_S = 10.0


def now_s() -> int:
    """Unix time in whole seconds."""
    return int(datetime.now(UTC).timestamp())


def usable_policy(path: Path, trust: PolicyTrust) -> Policy:
    """The policy to judge by."""
    try:
        return load_policy(path, trust, now=datetime.now(UTC))
    except PolicyError as exc:
        raise typer.BadParameter(str(exc), param_hint="--policy") from None


def read_file(path: Path, *, max_bytes: int, hint: str) -> bytes:
    """A file, or its first `max_bytes` and one more. hint: what the argument is called."""
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except OSError as exc:
        raise typer.BadParameter(f"{path}: {exc.strerror}", param_hint=hint) from None


def fetch(url: str, *, loopback_only: bool, ca_file: Path | None = None) -> Bundle:
    """What an engine answers to a nonce drawn for it. Raises FetchError, EvidenceError.

    ca_file: PEM roots for the engine's TLS, in place of the system's.
    """
    try:
        engine = parse_engine_url(url)
        proxy = None if loopback_only else proxy_for(engine, os.environ)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="source") from None
    tls, nonce = _tls(ca_file), Nonce(os.urandom(NONCE_BYTES))
    fetched = _fetched(engine, nonce, tls=tls, proxy=proxy, loopback_only=loopback_only)
    return Bundle(nonce, now_s(), asyncio.run(fetched))


def _tls(ca_file: Path | None) -> ssl.SSLContext | None:
    try:
        return None if ca_file is None else ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        reason = "no certificate in PEM" if isinstance(exc, ssl.SSLError) else exc.strerror
        raise typer.BadParameter(f"{ca_file}: {reason}", param_hint="--ca-file") from None


async def _fetched(
    engine: str, nonce: Nonce, *, tls: ssl.SSLContext | None, proxy: str | None, loopback_only: bool
) -> AttestationDocument:
    async with open_session(
        tls=tls, loopback_only=loopback_only, connect_timeout_s=CONNECT_TIMEOUT_S, idle_timeout_s=FETCH_TIMEOUT_S
    ) as session:
        return await fetch_document(session, engine, nonce, proxy=proxy)


async def obtain(
    wanted: Needs, sent: Collateral, options: CollateralOptions, *, now: datetime, questions: Questions | None = None
) -> Collateral:
    """Whatever can be had of the collateral that is wanted. sent: what came with the evidence."""
    async with open_session(
        tls=None, loopback_only=False, connect_timeout_s=CONNECT_TIMEOUT_S, idle_timeout_s=FETCH_TIMEOUT_S
    ) as session:
        ask = None if options.offline_collateral else ask_over(session)
        store = CollateralStore(Cache(options.collateral_directory), ask, lambda: now)
        return (await store.obtain(wanted, sent, questions or {})).collateral
