"""Live sessions that say back what they are told, and a client that seals to a gateway as badly as a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from attestation.receipt import ReceiptKey
from core.channel.bhttp import RequestHead, ResponseHead
from core.channel.kem import Kem
from core.channel.keyconfig import KeyConfig
from core.channel.live import UP_BYTES, UpSealer, decode_response_head, encode_request_head
from core.channel.records import EndRecord, EventRecord, FrameWriter, HeadRecord, Record
from core.program.http.listener import Address, listening
from core.program.metrics import Registry
from core.program.metronome import MakeMetronome
from core.transcript.faults import Fault
from engine.gateway.exchange import Head
from engine.gateway.keyring import KeyRing
from engine.gateway.live import End, Failure, Heard, LiveSession, SessionExpiredError
from engine.gateway.live_gateway import LiveGateway, LiveLimits
from engine.gateway.outer import outer_error
from engine.openai.live_failures import failure_of
from engine.telemetry import PREFIX, GatewayMetrics, LiveMetrics
from tests.engine.gateway.fake_application import NOW, Clock, statement

CREATED = b'{"type":"session.created"}'
BROKEN = b'{"type":"error","error":{"code":"broken"}}'


@dataclass(eq=False)
class FakeLiveSession:
    """Implements `engine.gateway.live.LiveSession`: every event comes back, and audio is kept.

    said: what `answers` yields next, or raises.
    """

    head: Head
    events: list[bytes] = field(default_factory=list)
    heard: bytearray = field(default_factory=bytearray)
    said: asyncio.Queue[bytes | End | Exception] = field(default_factory=asyncio.Queue)
    behind_s: float = 0.0
    answered: int = 0
    closed: int = 0

    def event(self, event: bytes) -> None:
        self.events.append(event)
        self.said.put_nowait(event)

    def audio(self, data: bytes) -> None:
        self.heard += data

    @property
    def processed(self) -> Heard:
        """As of samples of 16 bits at 24 kHz."""
        return Heard(len(self.heard) / 48_000, "openai/whisper-tiny" if self.heard else None)

    async def answers(self) -> AsyncGenerator[bytes | End, None]:
        yield CREATED
        while True:
            answer = await self.said.get()
            if isinstance(answer, Exception):
                raise answer
            self.answered += 1
            yield answer

    def close(self) -> None:
        self.closed += 1


@dataclass
class FakeLiveApplication:
    """Implements `engine.gateway.live.LiveApplication`. open_with: raised instead of opening."""

    open_with: Exception | None = None
    sessions: list[FakeLiveSession] = field(default_factory=list)

    async def open_live(self, head: Head, *, source: str) -> LiveSession:
        if self.open_with is not None:
            raise self.open_with
        self.sessions.append(FakeLiveSession(head))
        return self.sessions[-1]

    def live_failure(self, error: Exception, head: Head | None) -> Failure:
        if isinstance(error, Fault | SessionExpiredError):
            return failure_of(error, "event_1")
        return Failure(500, BROKEN, End(1011, "server_error.internal_error"))

    @property
    def session(self) -> FakeLiveSession:
        (session,) = self.sessions
        return session


@dataclass(frozen=True, slots=True)
class LiveServing:
    """A gateway of live sessions that serves."""

    url: str
    gateway: LiveGateway
    ring: KeyRing
    metrics: Registry

    @property
    def config(self) -> KeyConfig:
        return self.ring.current(NOW).live_keys[0].key.config

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"sottovoce_engine_{name}", labels) or 0.0

    @property
    def live_url(self) -> str:
        return f"{self.url}/live/{self.config.path_digest}"


@asynccontextmanager
async def serving_live(
    application: FakeLiveApplication,
    metronome: MakeMetronome,
    *,
    max_sessions: int = 8,
    max_arriving: int = 100,
    receipt_key: ReceiptKey | None = None,
    limits: LiveLimits | None = None,
) -> AsyncIterator[LiveServing]:
    """Serve `application`; afterwards every session must have been closed exactly once."""
    metrics = Registry(PREFIX)
    ring = KeyRing(statement, lifetime_s=1000, overlap_s=100, now=NOW, kems=tuple(Kem), live=True)
    gateway = LiveGateway(
        ring,
        application,
        GatewayMetrics(metrics),
        LiveMetrics(metrics, metrics),
        max_sessions=max_sessions,
        max_arriving=max_arriving,
        receipt_key=receipt_key,
        limits=limits,
        metronome=metronome,
        clock=Clock(),
    )
    app = web.Application()
    app.router.add_get("/live/{digest:[0-9a-f]{32}}", gateway.get)
    async with listening(app, [Address("127.0.0.1", 0)], error_response=outer_error) as (address, *_):
        yield LiveServing(f"http://{address}", gateway, ring, metrics)
    assert [session.closed for session in application.sessions] == [1] * len(application.sessions)


def hello_head(path: str = "/v1/realtime", authority: str = "sottovoce.invalid", **headers: str) -> bytes:
    return encode_request_head(RequestHead("GET", "https", authority, path, tuple(headers.items())))


class Caller:
    """The other end of a session, by hand."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, config: KeyConfig) -> None:
        self.socket = socket
        self.sealer = UpSealer(config)
        self.opener = self.sealer.down_opener()
        self.writer = FrameWriter(UP_BYTES)
        self.lengths: list[int] = []
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self._records: list[Record] = []

    def hello(self, head: bytes | None = None) -> bytes:
        self.writer.head(hello_head() if head is None else head)
        return self._frame()

    def _frame(self) -> bytes:
        self.sent.append(self.sealer.seal(self.writer.frame()))
        return self.sent[-1]

    async def say(self, *events: bytes, audio: bytes = b"", end: EndRecord | None = None) -> None:
        """Send as many frames as this takes, at least one."""
        for event in events:
            self.writer.event(event)
        self.writer.audio(audio)
        if end is not None:
            self.writer.end(end)
        await self.socket.send_bytes(self._frame())
        while self.writer.waiting_bytes:
            await self.socket.send_bytes(self._frame())

    async def record(self) -> Record:
        """The next record; frames of nothing are passed over."""
        while not self._records:
            data = await self.socket.receive_bytes()
            self.lengths.append(len(data))
            self.received.append(data)
            self._records += self.opener.open(data)
        return self._records.pop(0)

    async def head(self) -> ResponseHead:
        record = await self.record()
        assert isinstance(record, HeadRecord)
        return decode_response_head(record.data)

    async def event(self) -> bytes:
        record = await self.record()
        assert isinstance(record, EventRecord), record
        return record.data

    async def code(self) -> int | None:
        """With which code the engine closes, what it still sends passed over."""
        while True:
            message = await self.socket.receive()
            if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                return self.socket.close_code


@asynccontextmanager
async def calling(serving: LiveServing, config: KeyConfig | None = None) -> AsyncIterator[Caller]:
    """A connection on which nothing was said yet."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(serving.live_url, max_msg_size=0, compress=0) as socket,
    ):
        yield Caller(socket, config or serving.config)


@asynccontextmanager
async def opened(serving: LiveServing) -> AsyncIterator[Caller]:
    """A session that is open, and has said that it was created."""
    async with calling(serving) as caller:
        await caller.socket.send_bytes(caller.hello())
        assert (await caller.head()).status == 101
        yield caller


def codes(events: Sequence[bytes]) -> list[str]:
    return [json.loads(event)["error"]["code"] for event in events]
