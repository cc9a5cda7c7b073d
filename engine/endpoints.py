"""What does each of the engine's URLs answer?

For proxies::

    POST /ohttp/{digest}, /.well-known/ohttp-gateway    sealed requests (`engine.gateway`)
    GET  /.well-known/ohttp-gateway                     the key configuration (RFC 9540)
    GET  /.well-known/sottovoce-attestation?nonce=...   evidence over a nonce

For whoever runs the engine, on the second listener::

    GET  /livez /readyz /healthz /metrics
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog
from aiohttp import web

from attestation.attester import EvidenceDesk
from attestation.document import WELL_KNOWN_PATH, parse_nonce
from attestation.errors import AttestationError
from engine.gateway import Gateway, outer_error
from engine.keys import KeyRing
from engine.speech.transcriber import Transcriber
from engine.telemetry import Telemetry

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class EngineState:
    """What the listeners look at to say how the engine is."""

    transcriber: Transcriber
    telemetry: Telemetry
    draining: bool = False
    serving: bool = False

    def not_ready_because(self) -> str | None:
        if self.draining:
            return "draining"
        if not self.serving:
            return "starting"
        return None if self.transcriber.ready else "the speech backend is not ready"


def public_app(
    gateway: Gateway, desk: EvidenceDesk, ring: KeyRing, telemetry: Telemetry, clock: Callable[[], float]
) -> web.Application:
    """What proxies reach."""
    telemetry.gateway.key_expiry.set_function(lambda: ring.current(clock()).retires_at)

    async def attest(request: web.Request) -> web.Response:
        outcome, response = await _attest(desk, request)
        telemetry.gateway.attestations.labels(outcome=outcome).inc()
        return response

    app = web.Application(client_max_size=1024)
    app.router.add_post("/ohttp/{digest:[0-9a-f]{32}}", gateway.post)
    app.router.add_post("/.well-known/ohttp-gateway", gateway.post)
    app.router.add_get("/.well-known/ohttp-gateway", gateway.get_keys)
    app.router.add_get(WELL_KNOWN_PATH, attest)
    return app


async def _attest(desk: EvidenceDesk, request: web.Request) -> tuple[str, web.Response]:
    try:
        nonce = parse_nonce(request.query.get("nonce"))
    except ValueError:
        return "bad_nonce", outer_error(400)
    try:
        document = await desk.document(nonce, request.remote or "")
    except AttestationError as exc:
        _log.error("attestation_failed", error=type(exc).__name__, detail=str(exc))
        return "failed", outer_error(503)
    if document is None:
        return "busy", outer_error(503)
    headers = {"Cache-Control": "no-store"}
    return "attested", web.Response(body=document.encode(), content_type="application/json", headers=headers)


def status_app(state: EngineState) -> web.Application:
    """What probes and scrapes reach."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        reason = state.not_ready_because()
        return web.Response(status=503 if reason else 200, text=f"{reason or 'ok'}\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=state.telemetry.exposition(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    app = web.Application()
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/healthz", readyz)
    app.router.add_get("/metrics", metrics)
    return app
