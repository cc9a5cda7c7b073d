"""How does a sealed request become an exchange, and its answer a sealed response? The gateway resource of RFC 9458.

Outside the envelope there are four answers, each a constant; all others are inside it:

==== =====================================================================================
200  whatever the application says, sealed
422  the key, suite or first chunk do not fit what we hold: verify us again (RFC 9458 section 6.4)
400  anything else that is wrong with the envelope: framing, a later chunk, a replay, an upload too slow
413  more bytes arrive than any request we admit can have, padding and framing included
==== =====================================================================================

The order of things is fixed: the first chunk authenticates; its `enc` is claimed, so that a replay goes no further;
the inner head opens, and the application admits or refuses by it, at once; the body is counted and fed; the final
chunk opens; only then does work start. From then on a chunk goes out at least every `HEARTBEAT_S`, so that no proxy
in between takes long work for a dead connection.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence

import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError

from attestation.channel.bhttp import Content, RequestDecoder, RequestHead, ResponseEncoder, ResponseHead
from attestation.channel.keyconfig import encode_key_configs
from attestation.channel.ohttp import REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE, RequestOpener, ResponseSealer
from attestation.channel.padding import pad_event, padme, response_padding
from attestation.errors import ChannelError, KeyMismatchError
from engine.admission import UploadPace
from engine.errors import ErrorCode, RequestError
from engine.exchange import Answer, Application, Events, Exchange, Head, ticking
from engine.keys import KeyEpoch, KeyRing
from engine.telemetry import GatewayMetrics

_log = structlog.get_logger(__name__)

HEARTBEAT_S = 15.0
KEYS_MEDIA_TYPE = "application/ohttp-keys"
RESPONSE_CHUNK_BYTES = 65_536
MAX_HEAD_BYTES = 65_536

_RESPONSE_HEADERS = {
    "Content-Type": RESPONSE_MEDIA_TYPE,
    "Incremental": "?1",
    "Cache-Control": "private, no-store",
    "X-Accel-Buffering": "no",
    "Server": "sottovoce",
}

_KEY_PROBLEM = (
    b'{"type":"https://iana.org/assignments/http-problem-types#ohttp-key",'
    b'"title":"key identifier unknown or key does not match"}'
)


class _OversizeError(Exception):
    """More outer bytes than any admissible request has."""


class _ReplayError(ChannelError):
    """This `enc` has been seen before."""


def outer_error(status: int) -> web.Response:
    """The constant answer outside the envelope; nothing of the request has a part in it."""
    headers = {"Cache-Control": "no-store", "Server": "sottovoce"}
    if status == 422:
        return web.Response(
            status=422, body=_KEY_PROBLEM, headers={**headers, "Content-Type": "application/problem+json"}
        )
    body = b'{"type":"about:blank","title":"the request cannot be served","status":%d}' % status
    return web.Response(status=status, body=body, headers={**headers, "Content-Type": "application/problem+json"})


def max_outer_bytes(max_request_bytes: int) -> int:
    """The longest sealed request that can hold `max_request_bytes` of content.

    Padmé adds at most 12 % to content and head; a chunk of at least 1,024 bytes adds at most 20 to that.
    """
    return padme(max_request_bytes + MAX_HEAD_BYTES) * 1044 // 1024 + 4096


class _Inbox:
    """A sealed request on its way in: bytes in, an exchange fed. Holds no I/O."""

    def __init__(self, epochs: Sequence[KeyEpoch], application: Application, max_request_bytes: int) -> None:
        self._epochs = epochs
        self._application = application
        self._max_request_bytes = max_request_bytes
        self._decoder = RequestDecoder(max_head_bytes=MAX_HEAD_BYTES)
        self._content_bytes = 0
        self._claimed = False
        self.opener = RequestOpener([epoch.key for epoch in epochs])
        self.head: Head | None = None
        self.exchange: Exchange | None = None

    def feed(self, data: bytes) -> None:
        for chunk in self.opener.feed(data):
            self._take(chunk)

    def finish(self) -> Exchange:
        """The exchange, whole. Raises ChannelError when anything is missing."""
        self._take(self.opener.finish())
        self._deliver(self._decoder.finish())
        if self.exchange is None:
            raise ChannelError("a request without a head")
        return self.exchange

    def _take(self, chunk: bytes) -> None:
        if not self._claimed:
            self._claim()
        self._deliver(self._decoder.feed(chunk))

    def _claim(self) -> None:
        enc = self.opener.enc or b""
        # In every set: which of the candidate keys opened the chunk does not matter, and all of them must know.
        if not all([epoch.replays.claim(enc) for epoch in self._epochs]):  # noqa: C419 - no short cut
            raise _ReplayError
        self._claimed = True

    def _deliver(self, events: Sequence[object]) -> None:
        for event in events:
            match event:
                case RequestHead():
                    self.head = _head(event)
                    self.exchange = self._application.open(self.head)
                case Content(data=data):
                    self._content(data)

    def _content(self, data: bytes) -> None:
        self._content_bytes += len(data)
        if self._content_bytes > self._max_request_bytes:
            raise RequestError(
                ErrorCode.FILE_TOO_LARGE,
                "file",
                numbers={"limit_bytes": self._max_request_bytes, "read_bytes": self._content_bytes},
            )
        if self.exchange is not None:
            self.exchange.feed(data)

    def close(self) -> None:
        if self.exchange is not None:
            self.exchange.close()


def _head(event: RequestHead) -> Head:
    headers: dict[str, str] = {}
    for name, value in event.headers:
        headers.setdefault(name, value)
    return Head(event.method, event.path, headers)


class Gateway:
    """Serves sealed requests with the keys of `ring` and the application behind them."""

    def __init__(
        self,
        ring: KeyRing,
        application: Application,
        metrics: GatewayMetrics,
        *,
        max_request_bytes: int,
        pace: UploadPace,
        heartbeat_s: float = HEARTBEAT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ring = ring
        self._application = application
        self._metrics = metrics
        self._max_request_bytes = max_request_bytes
        self._max_outer_bytes = max_outer_bytes(max_request_bytes)
        self._pace = pace
        self._heartbeat_s = heartbeat_s
        self._clock = clock

    async def get_keys(self, _: web.Request) -> web.Response:
        """The current key configuration, for monitoring and interoperation; no proxy of ours trusts it."""
        config = self._ring.current(self._clock()).key.config
        return web.Response(body=encode_key_configs([config]), content_type=KEYS_MEDIA_TYPE)

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Serve one sealed request."""
        epochs = self._epochs(request)
        if request.content_type != REQUEST_MEDIA_TYPE or request.headers.get("Content-Encoding"):
            return self._outer(400, "not_an_envelope")
        if not epochs:
            return self._outer(422, "unknown_key")
        if (request.content_length or 0) > self._max_outer_bytes:
            return self._outer(413, "oversize")
        inbox = _Inbox(epochs, self._application, self._max_request_bytes)
        try:
            return await self._serve(request, inbox)
        except KeyMismatchError:
            return self._outer(422, "key_mismatch")
        except _ReplayError:
            return self._outer(400, "replay")
        except (ChannelError, TimeoutError, web.RequestPayloadError, HttpProcessingError):
            return self._outer(400, "envelope")
        except _OversizeError:
            return self._outer(413, "oversize")
        finally:
            inbox.close()

    def _epochs(self, request: web.Request) -> tuple[KeyEpoch, ...]:
        now = self._clock()
        digest = request.match_info.get("digest")
        if digest is None:
            return self._ring.live(now)
        epoch = self._ring.find(digest, now)
        return (epoch,) if epoch else ()

    def _outer(self, status: int, reason: str) -> web.Response:
        self._metrics.refused.labels(reason=reason).inc()
        return outer_error(status)

    async def _serve(self, request: web.Request, inbox: _Inbox) -> web.StreamResponse:
        try:
            exchange = await self._receive(request, inbox)
        except RequestError as exc:
            # Refused by its head or while it arrives: the answer goes out at once and reading stops.
            refused = self._application.refusal(exc, inbox.head)
            return await _Outbox(request, inbox.opener).send_whole(refused)
        outbox = _Outbox(request, inbox.opener)
        await outbox.begin()
        answer = await ticking(self._answer(exchange, inbox.head), self._heartbeat_s, outbox.heartbeat)
        if isinstance(answer.body, bytes):
            return await outbox.send_whole(answer)
        return await outbox.send_stream(answer, answer.body, self._application.broken_stream)

    async def _answer(self, exchange: Exchange, head: Head | None) -> Answer:
        try:
            return await exchange.answer()
        except Exception as exc:  # noqa: BLE001 - the last frame that can still answer; what it was is logged by kind
            return self._application.refusal(exc, head)

    async def _receive(self, request: web.Request, inbox: _Inbox) -> Exchange:
        begun = time.monotonic()
        received = 0
        while True:
            async with asyncio.timeout(self._pace.idle_s):
                data = await request.content.readany()
            if not data:
                return inbox.finish()
            received += len(data)
            self._metrics.received_bytes.inc(len(data))
            if received > self._max_outer_bytes:
                raise _OversizeError
            if self._pace.too_slow(received, time.monotonic() - begun):
                raise TimeoutError
            inbox.feed(data)


class _Outbox:
    """A sealed response on its way out."""

    def __init__(self, request: web.Request, opener: RequestOpener) -> None:
        self._request = request
        self._response = web.StreamResponse(status=200, headers=_RESPONSE_HEADERS)
        self._response.enable_chunked_encoding()
        self._encoder = ResponseEncoder()
        self._sealer: ResponseSealer = opener.response_sealer(os.urandom(opener.response_nonce_length))
        self._begun = False

    async def begin(self) -> None:
        """Send the outer head and the response nonce."""
        if not self._begun:
            self._begun = True
            await self._response.prepare(self._request)
            await self._response.write(self._sealer.header)

    async def heartbeat(self) -> None:
        """Show that work goes on: an authenticated 102 that the other side drops."""
        await self._response.write(self._sealer.seal(self._encoder.informational(102)))

    async def send_whole(self, answer: Answer) -> web.StreamResponse:
        """Send a complete answer, its size hidden in a multiple of 4 KiB."""
        await self.begin()
        body = answer.body if isinstance(answer.body, bytes) else b""
        message = self._encoder.head(ResponseHead(answer.status, answer.headers))
        message += self._encoder.content(body) if body else b""
        message += self._encoder.end(padding=response_padding(len(message) + 2))
        for start in range(0, len(message) - RESPONSE_CHUNK_BYTES, RESPONSE_CHUNK_BYTES):
            await self._response.write(self._sealer.seal(message[start : start + RESPONSE_CHUNK_BYTES]))
        last = (len(message) - 1) // RESPONSE_CHUNK_BYTES * RESPONSE_CHUNK_BYTES
        await self._response.write(self._sealer.seal_final(message[last:]))
        await self._response.write_eof()
        return self._response

    async def send_stream(
        self, answer: Answer, events: Events, broken: Callable[[Exception], bytes]
    ) -> web.StreamResponse:
        """Send each event as it comes, in a chunk of its own, its size hidden in a multiple of 256 bytes."""
        await self._response.write(self._sealer.seal(self._encoder.head(ResponseHead(answer.status, answer.headers))))
        try:
            async for event in events:
                await self._event(event)
        except Exception as exc:
            if self._request.transport is None or self._request.transport.is_closing():
                raise
            await self._event(broken(exc))
        finally:
            await events.aclose()
        await self._response.write(self._sealer.seal_final(self._encoder.end()))
        await self._response.write_eof()
        return self._response

    async def _event(self, event: bytes) -> None:
        await self._response.write(self._sealer.seal(self._encoder.content(pad_event(event))))
