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

from attestation.attester import EvidenceDesk
from attestation.bundle import Bundle
from attestation.channel.keyconfig import GatewayKey
from attestation.document import AttestationDocument
from attestation.errors import AttestationError, FetchError
from attestation.machine import MachineAttester
from attestation.program import ExitCode
from attestation.statement import EffectiveConfig, Statement, encode_statement
from attestation.tsm import ConfigfsTree
from attestation.types import NONCE_BYTES, Nonce, StatementBytes
from attestation.verdict import print_claims, tell_fault

TSM_PATH = Path("/sys/kernel/config/tsm/report")


def collect_command(
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep it as a bundle.")] = None,
    tsm_path: Annotated[Path, typer.Option(metavar="DIR", help="Where the kernel hands out reports.")] = TSM_PATH,
) -> None:
    """Collect the evidence of the machine that this runs on, and show what it says. Nothing is judged."""
    nonce = Nonce(os.urandom(NONCE_BYTES))
    try:
        document = asyncio.run(_collect(tsm_path, nonce))
        print_claims(document)
    except AttestationError as exc:
        tell_fault(exc)
        raise typer.Exit(ExitCode.INTERNAL) from None
    if out is not None:
        try:
            out.write_bytes(Bundle(nonce, _now(), document).encode())
        except OSError as exc:
            raise typer.BadParameter(f"{out}: {exc.strerror}", param_hint="--out") from None


async def _collect(tsm_path: Path, nonce: Nonce) -> AttestationDocument:
    attester = await MachineAttester.open(ConfigfsTree(tsm_path))
    document = await EvidenceDesk(attester, _no_service).document(nonce, "this machine")
    if document is None:
        raise FetchError("somebody else asks this machine all the time")
    return document


def _no_service() -> StatementBytes:
    config = EffectiveConfig(
        backend="none",
        backend_arguments=(),
        backend_attached=False,
        log_level="info",
        plugins=(),
        api_keys_required=False,
        request_log=False,
        insecure_options=(),
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
