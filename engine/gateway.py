"""How does a sealed request become an exchange, and its answer a sealed response? The gateway resource of RFC 9458.

Outside the envelope there are five answers, each a constant; all others are inside it:

==== =====================================================================================
200  whatever the application says, sealed
422  the key, suite or first chunk do not fit what we hold: verify us again (RFC 9458 section 5.3)
400  anything else that is wrong with the envelope: framing, a later chunk, a replay, an upload too slow
413  more bytes arrive than any request we admit can have, padding and framing included
503  the engine is about to stop: try another one
==== =====================================================================================

The order of things is fixed: the first chunk authenticates; its `enc` is claimed, so that a replay goes no further;
the inner head opens, and the application admits or refuses by it, at once; the body is counted and fed; the final
chunk opens; only then does work start. From then on a chunk goes out at least every `HEARTBEAT_S`, so that no proxy
in between takes long work for a dead connection.

What is asked of an inner request here, whatever it is for. Honest clients never meet any of it:

* It is one message (RFC 9292 section 4): no header that may stand once stands twice, and a Content-Length is the
  number of bytes that follow. Anything else is wrong with the envelope: 400.
* It is for us: scheme `https`, authority `sottovoce.invalid`. Another target does not exist here: 404, sealed.
* Its method is the application's to judge, and so is its path, which starts with a slash: there is no absolute form
  and no CONNECT. What trailers it has are not read.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, closing, contextmanager, suppress

from aiohttp import web
from aiohttp.http import HttpProcessingError

from attestation.channel.bhttp import Content, Fields, RequestDecoder, RequestHead, ResponseEncoder, ResponseHead
from attestation.channel.keyconfig import KEYS_MEDIA_TYPE, encode_key_configs
from attestation.channel.ohttp import REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE, RequestOpener, ResponseSealer
from attestation.channel.padding import pad_event, padme, response_padding
from attestation.errors import ChannelError, KeyMismatchError
from engine.admission import UploadPace
from engine.errors import ErrorCode, RequestError
from engine.exchange import Answer, Application, Events, Exchange, Head, ticking
from engine.keys import KeyEpoch, KeyRing
from engine.telemetry import GatewayMetrics

HEARTBEAT_S = 15.0
RESPONSE_CHUNK_BYTES = 65_536
MAX_HEAD_BYTES = 65_536
AUTHORITY = "sottovoce.invalid"
"""Of every inner request: which engine it is for is said by the key it is sealed to, and nowhere else."""

SINGLETONS = frozenset(
    {
        "authorization",
        "content-encoding",
        "content-length",
        "content-type",
        "idempotency-key",
        "sottovoce-receipt",
        "x-request-id",
    }
)
"""Headers of which a second one would be a choice left to us."""

_MAX_LENGTH_DIGITS = 18

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


class _ReplayError(ChannelError):
    """This `enc` has been seen before."""


class _GoneError(ConnectionError):
    """The other side has left, or does not read; there is nobody to tell."""


class _RefusedError(Exception):
    """The request is answered outside the envelope. reason: for the metric only."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


_ENVELOPE_FAULTS: tuple[tuple[type[Exception], int, str], ...] = (
    (KeyMismatchError, 422, "key_mismatch"),
    (_ReplayError, 400, "replay"),
    (ChannelError, 400, "envelope"),
    (TimeoutError, 400, "too_slow"),
    (web.RequestPayloadError, 400, "framing"),
    (HttpProcessingError, 400, "framing"),
)
"""What can go wrong while a request arrives that is not the application's to answer; the first that fits."""


def outer_error(status: int) -> web.Response:
    """The constant answer outside the envelope; nothing of the request has a part in it."""
    headers = {"Cache-Control": "no-store", "Server": "sottovoce", "Content-Type": "application/problem+json"}
    if status == 422:
        return web.Response(status=422, body=_KEY_PROBLEM, headers=headers)
    if status == 503:
        headers["Retry-After"] = "1"
    body = b'{"type":"about:blank","title":"the request cannot be served","status":%d}' % status
    return web.Response(status=status, body=body, headers=headers)


def max_outer_bytes(max_request_bytes: int) -> int:
    """The longest sealed request that can hold `max_request_bytes` of content.

    The content comes in pieces that add a sixteenth at most: one byte to 16, and less to longer ones. Head and
    trailers are at their bounds. Padmé rounds all that up, and never rounds a shorter message to a longer one. A chunk
    of 1,024 bytes or more adds at most 20 to that: its length and its tag.
    """
    message = max_request_bytes * 17 // 16 + 2 * MAX_HEAD_BYTES + 16
    return padme(message) * 1044 // 1024 + 1024


class _Inbox:
    """A sealed request on its way in: bytes in, an exchange fed. Holds no I/O."""

    def __init__(self, epochs: Sequence[KeyEpoch], application: Application, max_request_bytes: int) -> None:
        self._epochs = epochs
        self._application = application
        self._max_request_bytes = max_request_bytes
        self._decoder = RequestDecoder(max_head_bytes=MAX_HEAD_BYTES)
        self._declared_bytes: int | None = None
        self._content_bytes = 0
        self._claimed = False
        self.opener = RequestOpener([epoch.key for epoch in epochs])
        self.head: Head | None = None
        self.exchange: Exchange | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises ChannelError, or what the application refuses the request with."""
        for chunk in self.opener.feed(data):
            self._take(chunk)

    def finish(self) -> Exchange:
        """The exchange, whole. Raises as `feed` does, and when anything is missing."""
        self._take(self.opener.finish())
        self._deliver(self._decoder.finish())
        if self.exchange is None:
            raise ChannelError("a request without a head")
        if self._declared_bytes not in (None, self._content_bytes):
            raise ChannelError("less content than the Content-Length says")
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
                    self._begin(event)
                case Content(data=data):
                    self._content(data)

    def _begin(self, event: RequestHead) -> None:
        headers = _joined(event.headers)
        self._declared_bytes = _declared_bytes(headers)
        self.head = Head(event.method, event.path, headers)
        if (event.scheme, event.authority) != ("https", AUTHORITY):
            raise RequestError(ErrorCode.NOT_FOUND)
        self.exchange = self._application.open(self.head)

    def _content(self, data: bytes) -> None:
        self._content_bytes += len(data)
        if self._declared_bytes is not None and self._content_bytes > self._declared_bytes:
            # Also what keeps the application's accounts honest, which go by the length declared.
            raise ChannelError("more content than the Content-Length says")
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


def _joined(fields: Fields) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in fields:
        if name in headers and name in SINGLETONS:
            raise ChannelError("a header stands twice that may stand once")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _declared_bytes(headers: Mapping[str, str]) -> int | None:
    declared = headers.get("content-length")
    if declared is None:
        return None
    if not (declared.isascii() and declared.isdecimal() and len(declared) <= _MAX_LENGTH_DIGITS):
        raise ChannelError("a Content-Length that is no length")
    return int(declared)


class Gateway:
    """Serves sealed requests with the keys of `ring` and the application behind them.

    clock: Unix seconds, for the keys. monotonic: seconds, for the pace of uploads.
    """

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
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ring = ring
        self._application = application
        self._metrics = metrics
        self._max_request_bytes = max_request_bytes
        self._max_outer_bytes = max_outer_bytes(max_request_bytes)
        self._pace = pace
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._monotonic = monotonic
        self._draining = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def get_keys(self, _: web.Request) -> web.Response:
        """The current key configuration, for monitoring and interoperation; no proxy of ours trusts it."""
        config = self._ring.current(self._clock()).key.config
        headers = {"Cache-Control": "no-store", "Server": "sottovoce", "Content-Type": KEYS_MEDIA_TYPE}
        return web.Response(body=encode_key_configs([config]), headers=headers)

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Serve one sealed request."""
        with self._counted():
            try:
                return await self._serve(request)
            except _RefusedError as exc:
                self._metrics.refused.labels(reason=exc.reason).inc()
                return outer_error(exc.status)

    async def drain(self, patience_s: float) -> None:
        """Take no new request; return when all are answered that are here, or after `patience_s`.

        To be called while the listener still listens: once it closes, aiohttp reads no upload to its end.
        """
        self._draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._idle.wait()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        candidates = self._candidates(request)
        with closing(_Inbox(candidates, self._application, self._max_request_bytes)) as inbox:
            try:
                exchange = await self._receive(request, inbox)
            except (_RefusedError, ConnectionError):
                raise
            except Exception as exc:  # noqa: BLE001 - the application's; what it was is logged by kind
                # Refused by its head or while it arrives: the answer goes out at once and reading stops.
                refusal = self._application.refusal(exc, inbox.head)
                return await self._outbox(request, inbox).send_whole(refusal)
            outbox = self._outbox(request, inbox)
            await outbox.begin()
            answer = await ticking(self._answer(exchange, inbox.head), self._heartbeat_s, outbox.heartbeat)
            if isinstance(answer.body, bytes):
                return await outbox.send_whole(answer)
            return await outbox.send_stream(answer, answer.body, self._application.broken_stream)

    def _candidates(self, request: web.Request) -> tuple[KeyEpoch, ...]:
        """The keys that may open the request. Raises _RefusedError for what its outer head alone refuses."""
        if self._draining:
            raise _RefusedError(503, "draining")
        if request.content_type != REQUEST_MEDIA_TYPE or "Content-Encoding" in request.headers:
            raise _RefusedError(400, "not_an_envelope")
        epochs = self._epochs(request)
        if not epochs:
            raise _RefusedError(422, "unknown_key")
        if (request.content_length or 0) > self._max_outer_bytes:
            raise _RefusedError(413, "oversize")
        return epochs

    def _epochs(self, request: web.Request) -> tuple[KeyEpoch, ...]:
        now = self._clock()
        digest = request.match_info.get("digest")
        if digest is None:
            return self._ring.live(now)
        epoch = self._ring.find(digest, now)
        return (epoch,) if epoch else ()

    def _outbox(self, request: web.Request, inbox: _Inbox) -> _Outbox:
        return _Outbox(request, inbox.opener, stall_s=self._pace.idle_s)

    async def _answer(self, exchange: Exchange, head: Head | None) -> Answer:
        try:
            return await exchange.answer()
        except Exception as exc:  # noqa: BLE001 - the last frame that can still answer; what it was is logged by kind
            return self._application.refusal(exc, head)

    async def _receive(self, request: web.Request, inbox: _Inbox) -> Exchange:
        """The exchange, once all of it has arrived. Raises _RefusedError, and what the application raises."""
        begun, received = self._monotonic(), 0
        try:
            while data := await self._read(request):
                received += len(data)
                if received > self._max_outer_bytes:
                    raise _RefusedError(413, "oversize")
                if self._pace.too_slow(received, self._monotonic() - begun):
                    raise TimeoutError
                inbox.feed(data)
            return inbox.finish()
        except tuple(kind for kind, _, _ in _ENVELOPE_FAULTS) as exc:
            status, reason = next((row[1], row[2]) for row in _ENVELOPE_FAULTS if isinstance(exc, row[0]))
            raise _RefusedError(status, reason) from exc

    async def _read(self, request: web.Request) -> bytes:
        """What has arrived; nothing at the end."""
        async with asyncio.timeout(self._pace.idle_s):
            data = await request.content.readany()
        self._metrics.received_bytes.inc(len(data))
        return data


class _Outbox:
    """A sealed response on its way out.

    stall_s: how long the other side may read nothing while we have more to say; then the connection is cut.
    """

    def __init__(self, request: web.Request, opener: RequestOpener, *, stall_s: float) -> None:
        self._request = request
        self._stall_s = stall_s
        # No length and no explicit chunking: aiohttp chunks for HTTP/1.1 and closes after HTTP/1.0, which is what
        # a stock nginx speaks to its upstream. The envelope itself tells a cut answer from a complete one.
        self._response = web.StreamResponse(status=200, headers=_RESPONSE_HEADERS)
        self._encoder = ResponseEncoder()
        self._sealer: ResponseSealer = opener.response_sealer(os.urandom(opener.response_nonce_length))
        self._begun = False

    async def begin(self) -> None:
        """Send the outer head and the response nonce."""
        if not self._begun:
            self._begun = True
            await self._response.prepare(self._request)
            await self._write(self._sealer.header)

    async def heartbeat(self) -> None:
        """Show that work goes on: an authenticated 102 that the other side drops."""
        await self._write(self._sealer.seal(self._encoder.informational(102)))

    async def send_whole(self, answer: Answer) -> web.StreamResponse:
        """Send a complete answer, its size hidden in a multiple of 4 KiB."""
        await self.begin()
        body = answer.body if isinstance(answer.body, bytes) else b""
        message = self._encoder.head(ResponseHead(answer.status, answer.headers))
        message += self._encoder.content(body) if body else b""
        message += self._encoder.end(padding=response_padding(len(message) + 2))
        last = (len(message) - 1) // RESPONSE_CHUNK_BYTES * RESPONSE_CHUNK_BYTES
        for start in range(0, last, RESPONSE_CHUNK_BYTES):
            await self._write(self._sealer.seal(message[start : start + RESPONSE_CHUNK_BYTES]))
        return await self._end(message[last:])

    async def send_stream(
        self, answer: Answer, events: Events, broken: Callable[[Exception], bytes]
    ) -> web.StreamResponse:
        """Send each event as it comes, in a chunk of its own, its size hidden in a multiple of 256 bytes."""
        async with aclosing(events):
            await self._write(self._sealer.seal(self._encoder.head(ResponseHead(answer.status, answer.headers))))
            try:
                async for event in events:
                    await self._event(event)
            except _GoneError:
                raise
            except Exception as exc:  # noqa: BLE001 - the stream's; it is told to the other side, and logged by kind
                await self._event(broken(exc))
        return await self._end(self._encoder.end())

    async def _event(self, event: bytes) -> None:
        await self._write(self._sealer.seal(self._encoder.content(pad_event(event))))

    async def _end(self, message: bytes) -> web.StreamResponse:
        await self._write(self._sealer.seal_final(message))
        async with self._patience():
            await self._response.write_eof()
        return self._response

    async def _write(self, data: bytes) -> None:
        async with self._patience():
            await self._response.write(data)

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._stall_s):
                yield
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()  # closing would wait for the same reader
            raise _GoneError from None
        except ConnectionError as exc:
            raise _GoneError from exc
