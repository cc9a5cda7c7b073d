"""What does an app get from each URL? Handlers of both listeners, and the middleware that answers their errors.

For apps, behind the guard::

    *    /v1/...                 sealed, sent to the engine; which targets exist there is the engine's answer
    GET  /attestation            what was verified, check by check
    GET  /attestation/bundle     the document itself, to be verified again by anyone

For whoever runs the proxy, on the second listener::

    GET  /livez /readyz /healthz /metrics
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

import structlog
from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError
from aiohttp.typedefs import Handler
from multidict import CIMultiDict
from pydantic import SecretStr

from attestation import insecure
from attestation.policy import INSECURE_ROOTS_WARNING, Policy
from attestation.types import Check
from proxy import sse
from proxy.envelope import inner_head, released_headers, request_id
from proxy.errors import ErrorCode, ProxyError, from_status
from proxy.guard import CORS_ORIGIN, cors_headers
from proxy.outbox import AppGoneError, send, write
from proxy.relay import Answer, Relay
from proxy.spool import Allowance, RetainedBody
from proxy.telemetry import CONTENT_TYPE, Telemetry
from proxy.trust import Attempt, Outcome, Trust
from proxy.verifier import AttestedEngine, EngineVerifier

_log = structlog.get_logger(__name__)

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""Of an answer that is held back until it is whole; the words of a day of speech take a fraction of it."""

BUNDLE_NAME: Final = "sottovoce-attestation.json"

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_REQUEST_ID: Final = web.RequestKey("request_id", str)


@dataclass(slots=True)
class Service:
    """What the handlers work with.

    idle_timeout_s: how long an app may read nothing of its answer. api_key: replaces the Authorization of apps.
    draining: the proxy is about to end.
    """

    relay: Relay
    trust: Trust
    verifier: EngineVerifier
    telemetry: Telemetry
    allowance: Allowance
    idle_timeout_s: float
    overall_timeout_s: float
    api_key: SecretStr | None = None
    draining: bool = False

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.verifier.policy

    def use_policy(self, policy: Policy) -> None:
        """Put another policy in force: nothing is sealed before the engine has met it."""
        self.verifier.policy = policy
        self.trust.forget()


SERVICE: Final = web.AppKey("service", Service)


def refusal(error: ProxyError) -> web.Response:
    return web.Response(status=error.row.status, body=error.body(), headers=error.headers())


def constant_refusal(status: int) -> web.Response:
    """The answer to what never became a request; see `attestation.http.listening`."""
    return refusal(from_status(status))


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The one place where an error becomes an answer, and where an answer leaves and is counted."""
    request[_REQUEST_ID] = request_id(request.headers.get("x-request-id"))
    service = request.app[SERVICE]
    with service.telemetry.request():
        try:
            response = await _answer(request, handler)
            await send(request, response, stall_s=service.idle_timeout_s)
        except AppGoneError:
            return web.Response()  # nobody gets it: aiohttp finds the connection closed, as when an app leaves
    service.telemetry.answered(response.status)
    return response


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    telemetry = request.app[SERVICE].telemetry
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
    response.headers.setdefault("x-request-id", request.get(_REQUEST_ID) or request_id(None))
    if origin := request.get(CORS_ORIGIN):
        response.headers.update(cors_headers(origin))


async def continue_later(_: web.Request) -> None:
    """Meets no expectation: aiohttp asks before the guard has looked, so `relay` says `100 Continue` in its time."""


async def not_found(_: web.Request) -> web.StreamResponse:
    raise ProxyError(ErrorCode.NOT_FOUND)


async def relay(request: web.Request) -> web.StreamResponse:
    """Pass one request of an app to the engine."""
    service = request.app[SERVICE]
    exchange = _Exchange(request, service)
    try:
        async with asyncio.timeout(service.overall_timeout_s):
            return await exchange.run()
    except TimeoutError:
        return await exchange.fail(ProxyError(ErrorCode.TIMEOUT))
    except ProxyError as exc:
        return await exchange.fail(exc)


class _Exchange:
    """One request of an app and its answer, which is either held until it is whole or flows event by event."""

    def __init__(self, request: web.Request, service: Service) -> None:
        self._request = request
        self._service = service
        self._stream: web.StreamResponse | None = None
        self._first_event = service.telemetry.first_event_clock()

    async def run(self) -> web.StreamResponse:
        await self._accept_upload()
        request, service = self._request, self._service
        replaced = {"x-request-id": request[_REQUEST_ID]}
        if service.api_key:
            replaced["authorization"] = f"Bearer {service.api_key.get_secret_value()}"
        head = inner_head(request.method, request.raw_path, request.headers, replaced)
        with RetainedBody(self._read, service.allowance) as body:
            try:
                async with service.relay.answering(head, body) as answer:
                    response = await self._deliver(answer)
            finally:
                service.telemetry.uploaded(body.received_bytes)
        if self._stream is None:
            await send(request, response, stall_s=service.idle_timeout_s)
        return response

    async def fail(self, error: ProxyError) -> web.StreamResponse:
        """End in `error`: as the answer, or as the last event of one that has begun.

        Where a whole answer was on its way, the connection has been cut, and `error` is only counted.
        """
        if self._stream is None:
            raise error
        self._service.telemetry.failed(error.code.value)
        await write(self._request, self._stream, sse.error_event(error), stall_s=self._service.idle_timeout_s)
        return self._stream

    async def _accept_upload(self) -> None:
        """Refuse by head what would be refused later, and only then ask for the body. Raises ProxyError."""
        request = self._request
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
            raise ProxyError(ErrorCode.UNSUPPORTED_CONTENT_ENCODING)
        limit_bytes = (await self._service.trust.engine()).result.statement.max_request_bytes
        if (request.content_length or 0) > limit_bytes:
            raise ProxyError(ErrorCode.FILE_TOO_LARGE, numbers={"limit_bytes": limit_bytes})
        if expectation := request.headers.get(hdrs.EXPECT):
            if expectation.lower() != "100-continue":
                raise ProxyError(ErrorCode.EXPECTATION_FAILED)
            await request.writer.write(_CONTINUE)
            request.writer.output_size = 0  # it is no part of the answer

    async def _read(self) -> bytes:
        try:
            return await self._request.content.readany()
        except (web.RequestPayloadError, HttpProcessingError):
            raise ProxyError(ErrorCode.INVALID_REQUEST) from None

    async def _deliver(self, answer: Answer) -> web.StreamResponse:
        headers = CIMultiDict(released_headers(answer.headers))
        if answer.media_type == sse.MEDIA_TYPE:
            return await self._flow(answer, headers)
        body = bytearray()
        async for data in answer.content:
            body += data
            if len(body) > MAX_ANSWER_BYTES:
                raise ProxyError(ErrorCode.UPSTREAM_PROTOCOL_ERROR)
        self._service.telemetry.delivered(len(body))
        return web.Response(status=answer.status, headers=headers, body=bytes(body))

    async def _flow(self, answer: Answer, headers: CIMultiDict[str]) -> web.StreamResponse:
        headers["Cache-Control"] = "no-store"
        stream = web.StreamResponse(status=answer.status, headers=headers)
        await stream.prepare(self._request)
        self._stream = stream
        events = sse.EventStream()
        async for data in answer.content:
            await self._write(stream, events.feed(data))
        await self._write(stream, events.finish())
        return stream

    async def _write(self, stream: web.StreamResponse, events: bytes) -> None:
        if events:
            self._first_event()
            self._service.telemetry.delivered(len(events))
            await write(self._request, stream, events, stall_s=self._service.idle_timeout_s)


async def get_attestation(request: web.Request) -> web.Response:
    """What was verified, when, until when, and how each check came out."""
    service = request.app[SERVICE]
    return web.json_response(_report(service), headers={"Cache-Control": "no-store"})


def _report(service: Service) -> dict[str, Any]:
    held, last = service.trust.held, service.trust.last_attempt
    return {
        "state": _state(held, last),
        "ready": service.trust.is_ready and not service.draining,
        "insecure": service.policy.is_insecure or service.policy.has_insecure_roots,
        "warning": _warning(service.policy),
        "policy_sha256": service.policy.digest,
        "engine": _engine_report(held) if held else None,
        "last_attempt": _attempt_report(last) if last else None,
    }


def _warning(policy: Policy) -> str | None:
    if policy.is_insecure:
        return insecure.WARNING
    return INSECURE_ROOTS_WARNING if policy.has_insecure_roots else None


def _state(held: AttestedEngine | None, last: Attempt | None) -> str:
    if held:
        return "attested"
    return "starting" if last is None or last.outcome is Outcome.ACCEPTED else last.outcome.value


def _engine_report(engine: AttestedEngine) -> dict[str, Any]:
    result = engine.result
    statement = result.statement
    return {
        "evidence": result.kind.value,
        "verified_at": _timestamp(result.verified_at),
        "expires_at": _timestamp(result.expires_at),
        "collateral_expires_at": _timestamp(result.collateral_expires_at) if result.collateral_expires_at else None,
        "claims": dict(result.claims),
        "keys_sha256": sorted(digest.hex() for digest in engine.digests),
        "checks": _checks(result.checks),
        "statement": {
            "instance": statement.instance,
            "models": [asdict(model) for model in statement.models],
            "config": asdict(statement.config),
            "max_request_bytes": statement.max_request_bytes,
            "max_chunk_bytes": statement.max_chunk_bytes,
        },
    }


def _attempt_report(attempt: Attempt) -> dict[str, Any]:
    return {
        "at": _timestamp(attempt.at),
        "outcome": attempt.outcome.value,
        "reason": attempt.reason.value,
        "detail": attempt.detail,
        "checks": _checks(attempt.checks),
    }


def _checks(checks: tuple[Check, ...]) -> list[dict[str, str]]:
    return [{"name": check.name, "status": check.status.value, "detail": check.detail} for check in checks]


def _timestamp(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


async def get_bundle(request: web.Request) -> web.Response:
    """The attestation in use, as a file to keep: `sottovoce-attest verify` checks it again, now or later."""
    held = request.app[SERVICE].trust.held
    if held is None:
        raise ProxyError(ErrorCode.NO_ATTESTED_ENGINE, retry_after_s=1.0)
    headers = {"Content-Disposition": f'attachment; filename="{BUNDLE_NAME}"', "Cache-Control": "no-store"}
    return web.Response(body=held.bundle.encode(), content_type="application/json", headers=headers)


async def livez(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.Response:
    """200 while requests would be sealed and sent; `?verbose` lists what that depends on."""
    service = request.app[SERVICE]
    conditions = {
        "not draining": not service.draining,
        "engine attested": service.trust.held is not None,
        "key accepted": service.trust.is_ready,
    }
    ready = all(conditions.values())
    lines = ["ok" if ready else "not ready"]
    if "verbose" in request.query:
        lines = [f"[{'+' if met else '-'}] {name}" for name, met in conditions.items()] + lines
    if warning := _warning(service.policy):
        lines.append(warning)
    return web.Response(status=200 if ready else 503, text="\n".join(lines) + "\n")


async def metrics(request: web.Request) -> web.Response:
    return web.Response(body=request.app[SERVICE].telemetry.exposition(), headers={"Content-Type": CONTENT_TYPE})
