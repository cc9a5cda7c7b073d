"""What does an app get from each URL? Handlers of both listeners, and the middleware that answers their errors.

For apps, behind the guard::

    GET  /v1/realtime            as a WebSocket: a live session
    GET  / /page/...             the page for a browser (`proxy.local.page.serving`)
    *    /v1/...                 sealed, sent to the engine; which targets exist there is the engine's answer
    GET  /attestation            what was verified, check by check
    GET  /attestation/bundle     the document itself, to be verified again by anyone

For whoever runs the proxy, on the second listener::

    GET  /livez /readyz /healthz /metrics
"""

from __future__ import annotations

import secrets
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from core.channel.gateway import request_id
from core.program.http.listener import PeerGoneError, PeerStalledError
from core.program.metrics import METRICS_MEDIA_TYPE
from proxy.engines.report import attestation_report, readiness
from proxy.errors import ErrorCode, ProxyError, from_status
from proxy.local.guard import CORS_ORIGIN, cors_headers
from proxy.local.offer import opens_session
from proxy.local.outbox import send
from proxy.local.service import REQUEST_ID, SERVICE
from proxy.telemetry import Telemetry

_log = structlog.get_logger(__name__)

BUNDLE_NAME: Final = "sottovoce-attestation.json"


def refusal(error: ProxyError) -> web.Response:
    return web.Response(status=error.row.status, body=error.body(), headers=error.headers())


def constant_refusal(status: int) -> web.Response:
    """The answer to what never became a request; see `core.program.http.listener.listening`."""
    return refusal(from_status(status))


def host_refusal() -> web.Response:
    """The answer to a probe that names a host; see `core.program.http.listener.refuse_names`."""
    return refusal(ProxyError(ErrorCode.HOST_NOT_ALLOWED))


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The one place where an error becomes an answer, and where an answer is counted; it leaves unless it has left."""
    request[REQUEST_ID] = request_id(request.headers.get("x-request-id"), secrets.token_bytes(16))
    service = request.app[SERVICE]
    telemetry = service.sender.telemetry
    is_live = opens_session(request.method, request.path, request.headers)  # no request: it may last an hour
    with telemetry.live_session() if is_live else telemetry.request():
        try:
            response = await _answer(request, handler)
            if not response.prepared:
                await send(request, response, stall_s=service.idle_timeout_s)
        except PeerGoneError as exc:
            if isinstance(exc, PeerStalledError):
                _log.info("app_does_not_read")
            return web.Response()  # nobody gets it: aiohttp finds the connection closed, as when an app leaves
        telemetry.answered(response.status)
        return response


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    telemetry = request.app[SERVICE].sender.telemetry
    try:
        return await handler(request)
    except ProxyError as exc:
        return _counted_refusal(telemetry, exc)
    except web.HTTPException as exc:
        return _counted_refusal(telemetry, from_status(exc.status))
    except Exception as exc:
        if request.writer.output_size > 0:
            raise  # an answer has begun: only closing is left
        # Its message may quote the request.
        _log.error("internal_error", error=type(exc).__name__)
        return _counted_refusal(telemetry, ProxyError(ErrorCode.INTERNAL_ERROR))


@web.middleware
async def answer_status_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The same for the second listener, where nothing is counted."""
    try:
        return await handler(request)
    except ProxyError as exc:
        return refusal(exc)
    except web.HTTPException as exc:
        return constant_refusal(exc.status)


def _counted_refusal(telemetry: Telemetry, error: ProxyError) -> web.Response:
    telemetry.failed(error.code.value)
    _log.info("refused", code=error.code.value)
    return refusal(error)


async def finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    """What every answer carries; a signal of aiohttp, sent before the head of an answer leaves."""
    response.headers["Server"] = "sottovoce"
    response.headers.setdefault("x-request-id", request.get(REQUEST_ID) or request_id(None, secrets.token_bytes(16)))
    if origin := request.get(CORS_ORIGIN):
        response.headers.update(cors_headers(origin, list(response.headers)))


async def end_live_sessions(app: web.Application) -> None:
    """Live sessions would go on for an hour; whoever holds one may open another elsewhere. A signal of aiohttp."""
    app[SERVICE].stopping.set()


async def continue_later(_: web.Request) -> None:
    """Meets no expectation: aiohttp asks before the guard has looked, so `exchange` says `100 Continue` in its time."""


async def not_found(_: web.Request) -> web.StreamResponse:
    raise ProxyError(ErrorCode.NOT_FOUND)


async def method_not_allowed(_: web.Request) -> web.StreamResponse:
    raise ProxyError(ErrorCode.METHOD_NOT_ALLOWED)


async def get_attestation(request: web.Request) -> web.Response:
    """What was verified, when, until when, and how each check came out."""
    service = request.app[SERVICE]
    report = attestation_report(service.sender.engines, draining=service.draining)
    return web.json_response(report, headers={"Cache-Control": "no-store"})


async def get_bundle(request: web.Request) -> web.Response:
    """The attestation in use, as a file to keep: `sottovoce-attest verify` checks it again, now or later.

    Of the first engine that is attested, or of the one at the place that `?engine=` names.
    """
    engines, place = request.app[SERVICE].sender.engines, request.query.get("engine")
    found = [
        held for member in engines.members if (held := member.trust.held) and (place is None or place == str(member.id))
    ]
    if not found:
        raise ProxyError(ErrorCode.NO_ATTESTED_ENGINE, retry_after_s=1.0)
    headers = {"Content-Disposition": f'attachment; filename="{BUNDLE_NAME}"', "Cache-Control": "no-store"}
    return web.Response(body=found[0].bundle.encode(), content_type="application/json", headers=headers)


async def livez(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.Response:
    """200 while requests would be sealed and sent; `?verbose` lists what that depends on."""
    service = request.app[SERVICE]
    ready, text = readiness(service.sender.engines, draining=service.draining, verbose="verbose" in request.query)
    return web.Response(status=200 if ready else 503, text=text)


async def metrics(request: web.Request) -> web.Response:
    return web.Response(
        body=request.app[SERVICE].sender.telemetry.snapshot().exposition(), headers={"Content-Type": METRICS_MEDIA_TYPE}
    )
