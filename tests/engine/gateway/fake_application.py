"""An application and a gateway around it, for tests of the gateway alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from attestation.receipt import ReceiptKey
from attestation.types import StatementBytes
from core.channel.kem import Kem
from core.channel.keyconfig import KeyConfig
from core.program.http.listener import Address, listening
from core.program.metrics import Registry
from core.transcript.faults import Fault
from engine.gateway.admission import UploadPace
from engine.gateway.exchange import Answer, Events, Head
from engine.gateway.gateway import Gateway
from engine.gateway.keyring import KeyRing
from engine.gateway.outer import outer_error
from engine.telemetry import PREFIX, GatewayMetrics

MAX_REQUEST_BYTES = 262_144
MAX_CHUNK_BYTES = 65_536
NOW = 1_000_000.0
BROKEN = b"data: broken\n\n"


@dataclass
class FakeExchange:
    """Keeps what it is fed; how it answers is up to its application."""

    head: Head
    application: FakeApplication
    body: bytearray = field(default_factory=bytearray)
    closed: int = 0

    def feed(self, data: bytes) -> None:
        self.body += data
        if self.application.refuse_after is not None and len(self.body) > self.application.refuse_after:
            raise self.application.refuse_with

    async def answer(self) -> Answer:
        self.application.answering += 1
        try:
            return await self.application.answer(self)
        except asyncio.CancelledError:
            self.application.cancelled += 1
            raise

    def close(self) -> None:
        self.closed += 1


async def echo(exchange: FakeExchange) -> Answer:
    return Answer(200, (("content-type", "text/plain"),), bytes(exchange.body))


@dataclass
class FakeApplication:
    """Implements `engine.gateway.exchange.Application`.

    door: awaited before opening. open_with: raised instead of opening.
    refuse_after: bytes after which `refuse_with` is raised.
    exchanges: every one that was opened. sources: where each came from. waiting: how many came to the door.
    answering, cancelled: how many answers were begun and given up.
    """

    answer: Callable[[FakeExchange], Coroutine[Any, Any, Answer]] = echo
    door: asyncio.Event | None = None
    open_with: Exception | None = None
    refuse_after: int | None = None
    refuse_with: Exception = field(default_factory=lambda: ValueError("canary"))
    exchanges: list[FakeExchange] = field(default_factory=list)
    refused: list[Exception] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    waiting: int = 0
    answering: int = 0
    cancelled: int = 0

    async def open(self, head: Head, *, source: str) -> FakeExchange:
        if self.door is not None:
            self.waiting += 1
            await self.door.wait()
        if self.open_with is not None:
            raise self.open_with
        self.sources.append(source)
        self.exchanges.append(FakeExchange(head, self))
        return self.exchanges[-1]

    def refusal(self, error: Exception, head: Head | None) -> Answer:
        self.refused.append(error)
        status = {"unknown": 404, "too_large": 413, "overloaded": 503}
        code = error.kind.value if isinstance(error, Fault) else "internal"
        return Answer(status.get(code, 500), (("content-type", "text/plain"),), code.encode())

    def broken_stream(self, error: Exception) -> bytes:
        self.refused.append(error)
        return BROKEN


def streaming(
    *events: bytes,
    failure: Exception | None = None,
    headers: tuple[tuple[str, str], ...] = (("content-type", "text/event-stream"),),
) -> Callable[[FakeExchange], Coroutine[Any, Any, Answer]]:
    async def stream() -> Events:
        for event in events:
            yield event
        if failure is not None:
            raise failure

    async def answer(exchange: FakeExchange) -> Answer:
        return Answer(200, headers, stream())

    return answer


@dataclass
class Clock:
    """A clock that a test sets."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Serving:
    """A gateway that serves."""

    address: Address
    gateway: Gateway
    ring: KeyRing
    clock: Clock
    metrics: Registry

    @property
    def config(self) -> KeyConfig:
        return self.ring.current(self.clock.now).keys[0].key.config

    def refused(self, reason: str) -> float:
        return self.metrics.registry.get_sample_value(f"{PREFIX}_envelopes_refused_total", {"reason": reason}) or 0.0


def statement(configs: Sequence[KeyConfig], live: Sequence[KeyConfig], not_after: int) -> StatementBytes:
    encoded = [config.encode() for config in (*configs, *live)]
    return StatementBytes(b"".join(encoded) + not_after.to_bytes(8, "big"))


def ring(clock: Clock | None = None, *, max_enc: int = 1000, kems: Sequence[Kem] = tuple(Kem)) -> KeyRing:
    now = (clock or Clock()).now
    return KeyRing(statement, lifetime_s=1000, overlap_s=100, now=now, kems=kems, max_enc=max_enc)


@asynccontextmanager
async def serving(
    application: FakeApplication,
    *,
    pace: UploadPace | None = None,
    heartbeat_s: float = 15.0,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    max_enc: int = 1000,
    max_arriving: int = 100,
    kems: Sequence[Kem] = tuple(Kem),
    receipt_key: ReceiptKey | None = None,
    monotonic: Clock | None = None,
) -> AsyncIterator[Serving]:
    """Serve `application`; afterwards every exchange must have been closed exactly once."""
    clock, metrics = Clock(), Registry(PREFIX)
    keys = ring(clock, max_enc=max_enc, kems=kems)
    gateway = Gateway(
        keys,
        application,
        GatewayMetrics(metrics),
        receipt_key=receipt_key,
        max_request_bytes=max_request_bytes,
        max_chunk_bytes=MAX_CHUNK_BYTES,
        max_arriving=max_arriving,
        pace=pace or UploadPace(),
        heartbeat_s=heartbeat_s,
        clock=clock,
        monotonic=monotonic or Clock(),
    )

    async def get_keys(_: web.Request) -> web.Response:
        return gateway.get_keys()

    app = web.Application()
    app.router.add_post("/ohttp/{digest:[0-9a-f]{32}}", gateway.post)
    app.router.add_post("/.well-known/ohttp-gateway", gateway.post)
    app.router.add_get("/.well-known/ohttp-gateway", get_keys)
    async with listening(app, [Address("127.0.0.1", 0)], error_response=outer_error) as (address, *_):
        yield Serving(address, gateway, keys, clock, metrics)
    assert [exchange.closed for exchange in application.exchanges] == [1] * len(application.exchanges)
