"""What does this very machine prove? Run inside the guest, by whoever is about to write a policy for it.

What it keeps is a document like an engine's, over a statement that offers no service: its one key is thrown away at
once, and it is over when it begins. So a policy can be tried on it with `sottovoce-attest verify`, whose lines about
machine and devices then hold for an engine there too, and yet it is never accepted.
"""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from attestation.bundle import Bundle
from attestation.cli.verdict import print_claims, tell_fault
from attestation.document import AttestationDocument
from attestation.errors import AttestationError, FetchError
from attestation.guest.attester import EvidenceDesk
from attestation.guest.machine import open_machine
from attestation.guest.options import GuestOptions
from attestation.statement import EffectiveConfig, Statement, encode_statement
from attestation.types import NONCE_BYTES, Nonce, StatementBytes
from core.channel.keyconfig import GatewayKey
from core.program.commands import settings_command
from core.program.logs import configure_logging
from core.program.run import ExitCode


@settings_command(GuestOptions)
def collect_command(
    settings: GuestOptions,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep it as a bundle.")] = None,
) -> None:
    """Collect the evidence of the machine that this runs on, and show what it says. Nothing is judged."""
    configure_logging(settings.log_format, settings.log_level)
    nonce = Nonce(os.urandom(NONCE_BYTES))
    try:
        document = asyncio.run(_collect(settings, nonce))
        print_claims(document)
    except AttestationError as exc:
        tell_fault(exc)
        raise typer.Exit(ExitCode.INTERNAL) from None
    if out is not None:
        try:
            out.write_bytes(Bundle(nonce, _now(), document).encode())
        except OSError as exc:
            raise typer.BadParameter(f"{out}: {exc.strerror}", param_hint="--out") from None


async def _collect(options: GuestOptions, nonce: Nonce) -> AttestationDocument:
    attester = await open_machine(options)
    statement = _no_service(attester.source)
    document = await EvidenceDesk(attester, lambda: statement).document(nonce, "this machine")
    if document is None:
        raise FetchError("somebody else asks this machine all the time")
    return document


def _no_service(evidence_from: str) -> StatementBytes:
    config = EffectiveConfig(
        components=(),
        log_level="info",
        api_keys_required=False,
        request_log=False,
        insecure_options=(),
        evidence_from=evidence_from,
    )
    return encode_statement(
        Statement(
            version=1,
            instance="collected",
            ohttp_keys=(GatewayKey.generate(()).config,),
            not_after=_now(),
            max_chunk_bytes=1024,
            max_request_bytes=1,
            models=(),
            config=config,
            tls_spki_sha256=None,
            receipt_key=None,
        )
    )


def _now() -> int:
    return int(datetime.now(UTC).timestamp())
