"""What does each of the engine's URLs answer?

For proxies, 503 until the engine serves::

    POST /ohttp/{digest}, /.well-known/ohttp-gateway    sealed requests (`engine.gateway.gateway`)
    GET  /live/{digest}                                 live sessions (`engine.gateway.live_gateway`)
    GET  /.well-known/ohttp-gateway                     the key configuration (RFC 9540)
    GET  /.well-known/sottovoce-attestation?nonce=...   evidence over a nonce

For whoever runs the engine, on the second listener::

    GET  /livez /readyz /healthz /metrics
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import structlog
from aiohttp import web

from attestation.document import WELL_KNOWN_PATH
from attestation.errors import AttestationError
from attestation.guest.attester import EvidenceDesk
from attestation.types import parse_nonce
from core.channel.gateway import DIGEST_PATTERN, WELL_KNOWN_GATEWAY_PATH, gateway_path, live_path
from core.program.http.listener import refuse_names
from core.program.metrics import METRICS_MEDIA_TYPE
from engine.gateway.gateway import Gateway
from engine.gateway.live_gateway import LiveGateway
from engine.gateway.outer import outer_error
from engine.telemetry import AttestationOutcome, Telemetry

_log = structlog.get_logger(__name__)


class Readiness(Protocol):
    """`engine.backends.choose.Backend`, as far as it is used here."""

    @property
    def ready(self) -> bool:
        """Whether clips are accepted now."""


@dataclass(frozen=True, slots=True)
class Service:
    """What answers proxies. live: where live sessions are served."""

    gateway: Gateway
    desk: EvidenceDesk
    live: LiveGateway | None = None


@dataclass(slots=True)
class EngineState:
    """What the listeners look at to say how the engine is. service: once it serves."""

    backend: Readiness
    telemetry: Telemetry
    service: Service | None = None
    draining: bool = False

    def not_ready_because(self) -> str | None:
        if self.draining:
            return "draining"
        if self.service is None:
            return "starting"
        return None if self.backend.ready else "the speech backend is not ready"


_Answer: TypeAlias = Callable[[Service, web.Request], Awaitable[web.StreamResponse]]


def public_app(state: EngineState) -> web.Application:
    """What proxies reach. It listens from the start, so that a port that is taken is told at once."""

    def once_serving(answer: _Answer) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            return outer_error(503) if state.service is None else await answer(state.service, request)

        return handle

    async def post(service: Service, request: web.Request) -> web.StreamResponse:
        return await service.gateway.post(request)

    async def live(service: Service, request: web.Request) -> web.StreamResponse:
        return outer_error(422) if service.live is None else await service.live.get(request)

    async def get_keys(service: Service, _: web.Request) -> web.StreamResponse:
        return service.gateway.get_keys()

    async def attest(service: Service, request: web.Request) -> web.StreamResponse:
        outcome, response = await _attest(service.desk, request)
        state.telemetry.gateway.attestations.labels(outcome=outcome).inc()
        return response

    app = web.Application(client_max_size=1024)
    app.router.add_post(gateway_path(f"{{digest:{DIGEST_PATTERN}}}"), once_serving(post))
    app.router.add_get(live_path(f"{{digest:{DIGEST_PATTERN}}}"), once_serving(live), allow_head=False)
    app.router.add_post(WELL_KNOWN_GATEWAY_PATH, once_serving(post))
    app.router.add_get(WELL_KNOWN_GATEWAY_PATH, once_serving(get_keys))
    app.router.add_get(WELL_KNOWN_PATH, once_serving(attest))
    return app


async def _attest(desk: EvidenceDesk, request: web.Request) -> tuple[AttestationOutcome, web.Response]:
    try:
        nonce = parse_nonce(request.query.get("nonce"))
    except ValueError:
        return AttestationOutcome.BAD_NONCE, outer_error(400)
    try:
        document = await desk.document(nonce, request.remote or "")
    except AttestationError as exc:
        _log.error("attestation_failed", error=type(exc).__name__, detail=str(exc))
        return AttestationOutcome.FAILED, outer_error(503)
    if document is None:
        return AttestationOutcome.BUSY, outer_error(503)
    headers = {"Cache-Control": "no-store"}
    return AttestationOutcome.ATTESTED, web.Response(
        body=document.encode(), content_type="application/json", headers=headers
    )


def status_app(state: EngineState) -> web.Application:
    """What probes and scrapes reach, by address."""

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        reason = state.not_ready_because()
        return web.Response(status=503 if reason else 200, text=f"{reason or 'ok'}\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=state.telemetry.snapshot().exposition(), headers={"Content-Type": METRICS_MEDIA_TYPE})

    app = web.Application(middlewares=[refuse_names(lambda: outer_error(403))])
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/healthz", readyz)
    app.router.add_get("/metrics", metrics)
    return app
