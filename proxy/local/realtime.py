"""What passes between an app and the proxy for a live session? `GET /v1/realtime`, from its 101 to its close frame.

Whoever may not use the proxy is refused by the guard, over HTTP. Everything later is told inside: the upgrade always
succeeds, and what goes wrong is an `error` event and a close code (`live_events`), as OpenAI does it and its clients
expect. What the app says while an engine is being called waits for it, in bounded memory.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog
from aiohttp import WSMsgType, hdrs, web

from core.channel.records import EndRecord
from core.program.http.listener import PeerGoneError, PeerStalledError, patience
from core.program.together import first_of
from proxy.errors import ErrorCode, ProxyError
from proxy.local import live_events
from proxy.local.exchange import relay
from proxy.local.live_events import MAX_FRAME_BYTES, STOPPING, Audio, Passed, Refused
from proxy.local.offer import REALTIME, Offer, is_websocket
from proxy.local.service import REQUEST_ID, SERVICE, Service
from proxy.sealed.live import LiveCall, Spoken

_log = structlog.get_logger(__name__)

PING_S: Final = 20.0
STALL_S: Final = 10.0
"""How long an app may read nothing: less than the engine waits for us, who then read nothing either."""
CLOSING_S: Final = 2.0


async def realtime(request: web.Request) -> web.StreamResponse:
    """A live session, where the request asks for a WebSocket; else a request like any other."""
    if not is_websocket(request.headers):
        return await relay(request)
    session = _Session(request, request.app[SERVICE])
    await session.open()
    return await session.run()


class _Session:
    """One WebSocket of an app."""

    def __init__(self, request: web.Request, service: Service) -> None:
        self._request = request
        self._service = service
        self._telemetry = service.sender.telemetry
        self._stall_s = min(service.idle_timeout_s, STALL_S)
        self._stalled = False
        self._spoken = Spoken()
        self._socket = web.WebSocketResponse(
            protocols=(REALTIME,), compress=False, max_msg_size=MAX_FRAME_BYTES, timeout=CLOSING_S, writer_limit=0
        )

    async def open(self) -> None:
        await self._socket.prepare(self._request)

    async def run(self) -> web.StreamResponse:
        reason = "app"
        try:
            with suppress(PeerGoneError):  # then nobody is told
                reason, end = await self._ended()
                if end is not None:
                    await self._close(end)
        finally:
            self._telemetry.live_ended("stalled" if self._stalled else reason)
        return self._socket

    async def _ended(self) -> tuple[str, EndRecord | None]:
        """Why the session is over, and how the app is told; None where it knows."""
        try:
            return await first_of(self._listen(), self._stopped(), self._carry(), self._ping())
        except ProxyError as exc:
            self._telemetry.failed(exc.code.value)
            _log.info("live_session_failed", code=exc.code.value)
            await self._tell(live_events.error_event(exc))
            return exc.code.value, live_events.end_of(exc)

    async def _listen(self) -> tuple[str, EndRecord | None]:
        """Take what the app says, until it leaves."""
        while True:
            await self._spoken.room()
            message = await self._socket.receive()
            if message.type is WSMsgType.TEXT:
                await self._take(message.data)
            elif message.type is WSMsgType.BINARY:
                self._spoken.event(b"")  # no event is binary: the engine finds nothing to read, and says so
            else:
                return "app", None

    async def _take(self, text: str) -> None:
        match live_events.said(text):
            case Audio(data):
                self._spoken.audio(data)
            case Passed(data):
                self._spoken.event(data)
            case Refused(answer):
                await self._tell(answer)

    async def _stopped(self) -> tuple[str, EndRecord | None]:
        await self._service.stopping.wait()
        return "stopped", STOPPING

    async def _ping(self) -> tuple[str, EndRecord | None]:
        """Keep alive what lies between; an answer would prove nothing that matters, and is not waited for."""
        while True:
            await asyncio.sleep(PING_S)
            async with patience(self._request, self._stall_s):
                await self._socket.ping()

    async def _carry(self) -> tuple[str, EndRecord | None]:
        """Call an engine, and bring the app its answers. Raises ProxyError, PeerGoneError."""
        live = self._service.sender.live
        head = live.head(self._request.raw_path, self._request.headers, self._replaced())
        async with live.calling(head, self._spoken) as call:
            return await first_of(self._deliver(call), call.speak(self._spoken))

    def _replaced(self) -> dict[str, str]:
        """Fields of the head that are not the app's own, or not where a head has them. Raises ProxyError."""
        headers, offer = self._request.headers, Offer.of(self._request.headers)
        replaced = {"x-request-id": self._request[REQUEST_ID]}
        if offer.beta is not None:
            replaced["openai-beta"] = offer.beta
        if self._service.sender.live.holds_key:
            return replaced
        shown = dict.fromkeys(headers.getall(hdrs.AUTHORIZATION, ()))
        shown |= dict.fromkeys(f"Bearer {key}" for key in offer.keys)
        if len(shown) > 1:
            raise ProxyError(ErrorCode.INVALID_API_KEY)
        return replaced | ({"authorization": next(iter(shown))} if shown else {})

    async def _deliver(self, call: LiveCall) -> tuple[str, EndRecord | None]:
        async for answer in call.answers():
            if isinstance(answer, EndRecord):
                return "engine" if call.is_open else "refused", answer
            try:
                event = answer.decode()
            except UnicodeDecodeError:
                raise ProxyError(ErrorCode.UPSTREAM_PROTOCOL_ERROR) from None
            self._telemetry.delivered(len(answer))
            await self._tell(event)
        raise ProxyError(ErrorCode.STREAM_TRUNCATED)

    async def _tell(self, event: str) -> None:
        try:
            async with patience(self._request, self._stall_s):
                await self._socket.send_str(event)
        except PeerStalledError:
            self._stalled = True  # what is seen first may be that the connection, now cut, is gone
            _log.info("app_does_not_read")
            raise

    async def _close(self, end: EndRecord) -> None:
        async with patience(self._request, self._stall_s):
            await self._socket.close(code=end.code, message=end.reason.encode())
