"""An engine made of the real channel and the real evidence desk, on a real socket, that answers by script.

A test gives the next requests a `Script` each; without one a request is answered with a JSON transcript. The engine
keeps what it received, inside and outside of the envelope, for the test to look at.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from aiohttp import web

from attestation.document import WELL_KNOWN_PATH
from attestation.guest.attester import EvidenceDesk
from attestation.insecure import InsecureAttester
from attestation.statement import Component, EffectiveConfig, ModelIdentity, Statement, encode_statement
from attestation.types import StatementBytes, parse_nonce
from core.channel.bhttp import Content, Event, RequestDecoder, RequestHead, ResponseEncoder, ResponseHead
from core.channel.gateway import WELL_KNOWN_GATEWAY_PATH
from core.channel.kem import Kem
from core.channel.keyconfig import KEYS_MEDIA_TYPE, GatewayKey, encode_key_configs
from core.channel.ohttp import RESPONSE_MEDIA_TYPE, RequestOpener, ResponseSealer
from core.channel.padding import pad_event, response_padding
from core.errors import KeyMismatchError
from core.program.http.listener import Address, listening

TRANSCRIPT = "the quick brown fox"
JSON_HEADERS = (("content-type", "application/json"),)
SSE_HEADERS = (("content-type", "text/event-stream; charset=utf-8"),)
DELTA = b'data: {"type":"transcript.text.delta","delta":"the quick"}\n\n'
DONE_EVENT = b'data: {"type":"transcript.text.done","text":"the quick brown fox"}\n\n'
DONE = b"data: [DONE]\n\n"

CONFIG = EffectiveConfig(
    components=(Component("fake", (), attached=False, plugins=(), models=()),),
    log_level="info",
    api_keys_required=False,
    request_log=False,
    insecure_options=("insecure_evidence",),
    evidence_from="insecure",
)


@dataclass
class Received:
    """A request as it arrived: the outer head, the inner head and content, and how it was sealed."""

    outer_path: str = ""
    outer_headers: tuple[tuple[str, str], ...] = ()
    head: RequestHead | None = None
    content: bytearray = field(default_factory=bytearray)
    chunks: list[int] = field(default_factory=list)
    plain_bytes: int = 0
    complete: bool = False
    enc: bytes | None = None

    def header(self, name: str) -> str | None:
        assert self.head is not None
        return dict(self.head.headers).get(name)


class Reply:
    """The sealed side of a connection, for a script to write."""

    def __init__(self, request: web.Request, received: Received, opener: RequestOpener) -> None:
        self._request = request
        self._opener = opener
        self._encoder = ResponseEncoder()
        self._stream: web.StreamResponse | None = None
        self._sealer: ResponseSealer | None = None
        self.received = received

    async def start(self) -> None:
        """Send the outer head and the response nonce."""
        self._stream = web.StreamResponse(headers={"Content-Type": RESPONSE_MEDIA_TYPE, "Server": "sottovoce"})
        await self._stream.prepare(self._request)
        self._sealer = self._opener.response_sealer(os.urandom(self._opener.response_nonce_length))
        await self._stream.write(self._sealer.header)

    async def _write(self, plain: bytes) -> None:
        if self._sealer is None:
            await self.start()
        assert self._sealer is not None
        await self.raw(self._sealer.seal(plain))

    async def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        assert self._stream is not None
        await self._stream.write(data)

    async def heartbeat(self) -> None:
        await self._write(self._encoder.informational(102))

    async def head(self, status: int = 200, headers: tuple[tuple[str, str], ...] = JSON_HEADERS) -> None:
        await self._write(self._encoder.head(ResponseHead(status, headers)))

    async def content(self, data: bytes) -> None:
        await self._write(self._encoder.content(data))

    async def event(self, data: bytes) -> None:
        await self.content(pad_event(data))

    async def end(self) -> web.StreamResponse:
        assert self._sealer is not None
        assert self._stream is not None
        end = self._encoder.end()
        await self.raw(self._sealer.seal_final(end + bytes(response_padding(len(end)))))
        await self._stream.write_eof()
        return self._stream

    async def cut(self) -> web.StreamResponse:
        """End the HTTP message properly, without a final chunk."""
        assert self._stream is not None
        await self._stream.write_eof()
        return self._stream

    def abort(self) -> web.StreamResponse:
        """Drop the connection."""
        assert self._stream is not None
        assert self._request.transport is not None
        self._request.transport.abort()
        return self._stream


Play = Callable[[Reply], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Script:
    """What happens to one request.

    outer: answer this before anything opens. early: play once the inner head has opened. play: play after the end.
    after_upload: read the whole outer body before `outer`.
    """

    outer: Callable[[], web.Response] | None = None
    early: Play | None = None
    play: Play | None = None
    after_upload: bool = False


async def transcript(reply: Reply) -> web.StreamResponse:
    await reply.head()
    await reply.content(json.dumps({"text": TRANSCRIPT}).encode())
    return await reply.end()


async def event_stream(reply: Reply) -> web.StreamResponse:
    await reply.head(200, SSE_HEADERS)
    for event in (DELTA, DONE_EVENT, DONE):
        await reply.event(event)
    return await reply.end()


async def half_a_stream(reply: Reply) -> None:
    await reply.head(200, SSE_HEADERS)
    await reply.event(DELTA)
    await reply.content(b'data: {"type":"transcript.text.delta","delta":"never se')


async def cut_stream(reply: Reply) -> web.StreamResponse:
    await half_a_stream(reply)
    return await reply.cut()


async def aborted_stream(reply: Reply) -> web.StreamResponse:
    await half_a_stream(reply)
    return reply.abort()


def outer(status: int, **headers: str) -> Script:
    """An answer in the clear, as a gateway or anyone on the way would give."""
    return Script(outer=lambda: web.Response(status=status, text="clear text canary", headers=headers))


ANYWHERE = Address("127.0.0.1", 0)


class FakeEngine:
    """Keys, statement and scripts. `rotate` replaces the key; the old one opens nothing any more."""

    def __init__(
        self,
        lifetime_s: int = 3600,
        clock: Callable[[], float] = time.time,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._told = told
        self.lifetime_s = lifetime_s
        self.key = GatewayKey.generate(())
        self.url = ""
        self.received: list[Received] = []
        self.scripts: deque[Script] = deque()
        self.default = Script(play=transcript)
        self.attestations = 0
        self.attestation_failures: deque[int] = deque()
        self.attestation_gate = asyncio.Event()
        self.attestation_gate.set()
        self.statement_changes: dict[str, object] = {}
        self.config_changes: dict[str, object] = {}
        self.refuse_key = False
        self.drop_connections = False
        self.cancelled = asyncio.Event()
        self.keys_status = 200
        self.date: str | None = None

    def rotate(self, kem: Kem = Kem.X25519_HKDF_SHA256) -> None:
        self.key = GatewayKey.generate({self.key.config.key_id}, kem)

    def statement(self) -> StatementBytes:
        statement = Statement(
            version=1,
            instance="fake",
            ohttp_keys=(self.key.config,),
            not_after=int(self._clock()) + self.lifetime_s,
            max_chunk_bytes=16_384,
            max_request_bytes=2_000_000,
            models=(ModelIdentity("whisper-fake", ("whisper-1",), "ab" * 32),),
            config=replace(CONFIG, **self.config_changes),  # type: ignore[arg-type]
            tls_spki_sha256=None,
            receipt_key=None,
        )
        return encode_statement(replace(statement, **self.statement_changes))  # type: ignore[arg-type]

    async def _attest(self, request: web.Request) -> web.Response:
        self.attestations += 1
        await self.attestation_gate.wait()
        if self.attestation_failures:
            return web.Response(status=self.attestation_failures.popleft())
        desk = EvidenceDesk(InsecureAttester(), self.statement)
        document = await desk.document(parse_nonce(request.query.get("nonce")), request.remote or "")
        assert document is not None
        self._told("attested")
        return web.Response(body=document.encode(), content_type="application/json")

    async def _keys(self, _: web.Request) -> web.Response:
        headers = {"Content-Type": KEYS_MEDIA_TYPE} | ({"Date": self.date} if self.date else {})
        return web.Response(status=self.keys_status, body=encode_key_configs([self.key.config]), headers=headers)

    async def _post(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.drop_connections:
            assert request.transport is not None
            request.transport.abort()
        received = Received(outer_path=request.path, outer_headers=tuple(request.headers.items()))
        self.received.append(received)
        script = self.scripts.popleft() if self.scripts else self.default
        if script.outer is not None:
            if script.after_upload:
                await request.read()
            return script.outer()
        if request.path != f"/ohttp/{self.key.config.path_digest}" or self.refuse_key:
            return web.Response(status=422)
        reply = Reply(request, received, RequestOpener([self.key]))
        try:
            early = await self._receive(request, reply, script.early)
        except KeyMismatchError:
            return web.Response(status=422)
        if early is not None:
            return early
        assert script.play is not None
        return await script.play(reply)

    async def _receive(self, request: web.Request, reply: Reply, early: Play | None) -> web.StreamResponse | None:
        decoder, received, opener = RequestDecoder(), reply.received, reply._opener
        async for piece in request.content.iter_any():
            for chunk in opener.feed(piece):
                self._take(received, chunk, decoder.feed(chunk))
            if early is not None and received.head is not None:
                return await early(reply)
        final = opener.finish()
        self._take(received, final, [*decoder.feed(final), *decoder.finish()])
        received.complete, received.enc = True, opener.enc
        return None

    def _take(self, received: Received, chunk: bytes, events: list[Event]) -> None:
        received.chunks.append(len(chunk))
        received.plain_bytes += len(chunk)
        for event in events:
            if isinstance(event, RequestHead):
                received.head = event
            elif isinstance(event, Content):
                received.content += event.data

    @asynccontextmanager
    async def running(
        self, tls: ssl.SSLContext | None = None, address: Address = ANYWHERE
    ) -> AsyncIterator[FakeEngine]:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get(WELL_KNOWN_PATH, self._attest)
        app.router.add_post("/ohttp/{digest}", self._post)
        app.router.add_get(WELL_KNOWN_GATEWAY_PATH, self._keys)
        async with listening(app, [address], error_response=lambda status: web.Response(status=status), tls=tls) as (
            bound,
        ):
            self.url = f"{'https' if tls else 'http'}://{bound}"
            yield self
