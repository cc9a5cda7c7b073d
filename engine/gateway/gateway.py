"""How does a sealed request become an exchange, and its answer a sealed response? The gateway resource of RFC 9458.

A request waits at the door until its inner head has opened (`lobby`); the application admits or refuses by it; the body
arrives at its pace (`upload`) and is fed (`inbox`); the final chunk opens; only then does work start. From then on
something goes out (`outbox`) at least every `HEARTBEAT_S`, so that no proxy in between takes long work for a dead
connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

from aiohttp import web

from attestation.receipt import ReceiptKey
from core.channel.gateway import HEARTBEAT_S
from core.channel.keyconfig import KEYS_MEDIA_TYPE, encode_key_configs
from core.channel.ohttp import REQUEST_MEDIA_TYPE
from engine.gateway.admission import UploadPace, source_of
from engine.gateway.exchange import Answer, Application, Exchange, Head, ticking
from engine.gateway.inbox import Inbox
from engine.gateway.keyring import HeldKey, KeyRing
from engine.gateway.lobby import Lobby
from engine.gateway.outbox import Outbox
from engine.gateway.outer import RefusedError, max_outer_bytes, outer_error, outer_faults
from engine.gateway.receipts import Coverage
from engine.gateway.upload import Upload
from engine.telemetry import GatewayMetrics


class Gateway:
    """Serves sealed requests with the keys of `ring` and the application behind them.

    receipt_key: signs receipts; without it none are given. window_s: how long an event of a stream waits for others.
    max_chunk_bytes: of a request's chunks, as the statement tells. max_arriving: requests whose head has not opened.
    clock: Unix seconds, for the keys. monotonic: seconds, for the pace of uploads.
    """

    def __init__(
        self,
        ring: KeyRing,
        application: Application,
        metrics: GatewayMetrics,
        *,
        max_request_bytes: int,
        max_chunk_bytes: int,
        max_arriving: int,
        pace: UploadPace,
        receipt_key: ReceiptKey | None = None,
        window_s: float = 0.0,
        heartbeat_s: float = HEARTBEAT_S,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ring = ring
        self._application = application
        self._metrics = metrics
        self._max_request_bytes = max_request_bytes
        self._max_chunk_bytes = max_chunk_bytes
        self._max_outer_bytes = max_outer_bytes(max_request_bytes)
        self._lobby = Lobby(max_arriving)
        self._pace = pace
        self._receipt_key = receipt_key
        self._window_s = window_s
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._monotonic = monotonic
        self._draining = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def get_keys(self) -> web.Response:
        """The current key configurations, for monitoring and interoperation; no proxy of ours trusts them."""
        configs = [held.key.config for held in self._ring.current(self._clock()).keys]
        headers = {"Cache-Control": "no-store", "Server": "sottovoce", "Content-Type": KEYS_MEDIA_TYPE}
        return web.Response(body=encode_key_configs(configs), headers=headers)

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Serve one sealed request."""
        with self._counted():
            try:
                return await self._serve(request)
            except RefusedError as exc:
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
        with closing(self._inbox(self._candidates(request))) as inbox:
            coverage = Coverage(self._receipt_key, self._clock) if self._receipt_key else None
            try:
                exchange = await self._receive(request, inbox, coverage)
            except (RefusedError, ConnectionError):
                raise
            except Exception as exc:  # noqa: BLE001 - the application's; what it was is logged by kind
                # Refused by its head or while it arrives: the answer goes out at once and reading stops.
                refusal = self._application.refusal(exc, inbox.head)
                return await self._outbox(request, inbox).send_whole(refusal.to(inbox.head))
            outbox = self._outbox(request, inbox, coverage if coverage and coverage.wanted else None)
            await outbox.begin()
            answer = await ticking(self._answer(exchange, inbox.head), self._heartbeat_s, outbox.heartbeat)
            answer = answer.to(inbox.head)
            if isinstance(answer.body, bytes):
                return await outbox.send_whole(answer)
            return await outbox.send_stream(answer, answer.body, self._application.broken_stream)

    def _candidates(self, request: web.Request) -> tuple[HeldKey, ...]:
        """The keys that may open the request. Raises RefusedError for what its outer head alone refuses."""
        if self._draining:
            raise RefusedError(503, "draining")
        if request.content_type != REQUEST_MEDIA_TYPE or "Content-Encoding" in request.headers:
            raise RefusedError(400, "not_an_envelope")
        keys = self._keys(request)
        if not keys:
            raise RefusedError(422, "unknown_key")
        if (request.content_length or 0) > self._max_outer_bytes:
            raise RefusedError(413, "oversize")
        return keys

    def _keys(self, request: web.Request) -> tuple[HeldKey, ...]:
        now = self._clock()
        digest = request.match_info.get("digest")
        if digest is None:
            return self._ring.held(now)
        held = self._ring.find(digest, now)
        return (held,) if held else ()

    def _inbox(self, candidates: tuple[HeldKey, ...]) -> Inbox:
        return Inbox(candidates, max_request_bytes=self._max_request_bytes, max_chunk_bytes=self._max_chunk_bytes)

    def _outbox(self, request: web.Request, inbox: Inbox, coverage: Coverage | None = None) -> Outbox:
        return Outbox(request, inbox.opener, stall_s=self._pace.idle_s, window_s=self._window_s, coverage=coverage)

    async def _answer(self, exchange: Exchange, head: Head | None) -> Answer:
        try:
            return await exchange.answer()
        except Exception as exc:  # noqa: BLE001 - the last frame that can still answer; what it was is logged by kind
            return self._application.refusal(exc, head)

    async def _receive(self, request: web.Request, inbox: Inbox, coverage: Coverage | None) -> Exchange:
        """The exchange, once all of it has arrived. Raises RefusedError, and what the application raises."""
        upload = Upload(request, self._pace, max_bytes=self._max_outer_bytes, monotonic=self._monotonic)
        with outer_faults():
            async with self._lobby.place() as place:
                while inbox.head is None:
                    inbox.feed(await self._read(upload, coverage))
                place.settle()
                if coverage is not None:
                    coverage.decide(inbox.head)
                exchange = await self._application.open(inbox.head, source=source_of(request.remote))
                inbox.begin(exchange)
            upload.admitted(inbox.size_bytes)
            while not inbox.whole:
                inbox.feed(await self._read(upload, coverage))
        return exchange

    async def _read(self, upload: Upload, coverage: Coverage | None) -> bytes:
        data = await upload.read()
        if coverage is not None:
            coverage.received(data)
        self._metrics.received_bytes.inc(len(data))
        return data
