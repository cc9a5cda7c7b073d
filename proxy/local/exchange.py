"""What passes between an app and the proxy for a sealed request? Its body on the way in, its answer on the way out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict

from proxy.errors import ErrorCode, ProxyError
from proxy.local.outbox import finish, send, write
from proxy.local.service import REQUEST_ID, SERVICE, Service
from proxy.sealed import sse
from proxy.sealed.courier import AppRequest

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


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


async def ask_for_body(request: web.Request) -> None:
    """Say `100 Continue` where that is waited for; aiohttp would say it before the guard has looked.

    Raises ProxyError.
    """
    if expectation := request.headers.get(hdrs.EXPECT):
        if expectation.lower() != "100-continue":
            raise ProxyError(ErrorCode.EXPECTATION_FAILED)
        await request.writer.write(_CONTINUE)
        request.writer.output_size = 0  # it is no part of the answer


class _Exchange:
    """One request of an app and its answer, which is either whole or flows event by event."""

    def __init__(self, request: web.Request, service: Service) -> None:
        self._request = request
        self._service = service
        self._stream: web.StreamResponse | None = None
        self._first_event = service.sender.telemetry.first_event_clock()

    async def run(self) -> web.StreamResponse:
        request, service = self._request, self._service
        app_request = AppRequest(
            request_id=request[REQUEST_ID],
            method=request.method,
            path=request.raw_path,
            headers=request.headers,
            content_length=request.content_length,
            read=self._read,
        )
        lease = await service.sender.courier.accept(app_request)
        await ask_for_body(request)
        async with service.sender.courier.carrying(lease, app_request) as delivery:
            headers = CIMultiDict(delivery.headers)
            if not isinstance(delivery.body, bytes):
                return await self._flow(delivery.status, headers, delivery.body)
        service.sender.telemetry.delivered(len(delivery.body))
        response = web.Response(status=delivery.status, headers=headers, body=delivery.body)
        await send(request, response, stall_s=service.idle_timeout_s)
        return response

    async def fail(self, error: ProxyError) -> web.StreamResponse:
        """End in `error`: as the answer, or as the last event of one that has begun.

        Where a whole answer was on its way, the connection has been cut, and `error` is only counted.
        """
        if self._stream is None:
            raise error
        self._service.sender.telemetry.failed(error.code.value)
        await write(self._request, self._stream, sse.error_event(error), stall_s=self._service.idle_timeout_s)
        await finish(self._request, self._stream, stall_s=self._service.idle_timeout_s)
        return self._stream

    async def _read(self) -> bytes:
        try:
            return await self._request.content.readany()
        except (web.RequestPayloadError, HttpProcessingError):
            raise ProxyError(ErrorCode.INVALID_REQUEST) from None

    async def _flow(self, status: int, headers: CIMultiDict[str], events: AsyncIterator[bytes]) -> web.StreamResponse:
        headers["Cache-Control"] = "no-store"
        stream = web.StreamResponse(status=status, headers=headers)
        await stream.prepare(self._request)
        self._stream = stream
        async for complete in events:
            self._first_event()
            self._service.sender.telemetry.delivered(len(complete))
            await write(self._request, stream, complete, stall_s=self._service.idle_timeout_s)
        await finish(self._request, stream, stall_s=self._service.idle_timeout_s)
        return stream
