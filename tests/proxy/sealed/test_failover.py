"""A request that one engine did not take, or whose key it did not hold, where there is another engine."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from attestation.statement import Statement, parse_statement
from core.channel.bhttp import RequestHead
from core.channel.keyconfig import KeyConfig
from core.program.http.client import open_session
from proxy.engines.lease import EngineId, Lease, Way
from proxy.errors import ErrorCode, ProxyError
from proxy.sealed.failover import MAX_LOST
from proxy.sealed.relay import Relay
from proxy.sealed.spool import Allowance, RetainedBody
from proxy.telemetry import Telemetry
from tests.proxy.fake_engine import (
    JSON_HEADERS,
    TRANSCRIPT,
    FakeEngine,
    Reply,
    Script,
    aborted_stream,
    outer,
    transcript,
)
from tests.waiting import GIVE_UP_S, until

HEAD = RequestHead("POST", "https", "sottovoce.invalid", "/v1/audio/transcriptions")
AUDIO = bytes(range(256)) * 1000


@dataclass
class FakeLease:
    """What one of two engines would prove."""

    of: TwoEngines
    engine: EngineId

    @property
    def _engine(self) -> FakeEngine:
        return self.of.engines[self.engine]

    @property
    def way(self) -> Way:
        return Way(self._engine.url)

    @property
    def key(self) -> KeyConfig:
        return self._engine.key.config

    @property
    def live_key(self) -> KeyConfig | None:
        return None

    @property
    def stands(self) -> bool:
        return True

    @property
    def has_spare(self) -> bool:
        return len(self.of.engines) > 1

    @contextmanager
    def carried(self) -> Iterator[None]:
        self.of.carrying[self.engine] += 1
        yield
        self.of.carrying[self.engine] -= 1

    @property
    def statement(self) -> Statement:
        return parse_statement(self._engine.statement())

    @property
    def statement_sha256(self) -> str:
        return hashlib.sha256(self._engine.statement()).hexdigest()

    def accepted(self) -> None:
        self.of.told.append(("accepted", self.engine))

    def answered(self, after_s: float) -> None:
        self.of.told.append(("answered", self.engine))

    async def mismatched(self, *, live: bool = False, avoiding: frozenset[EngineId] = frozenset()) -> Lease:
        self.of.told.append(("mismatched", self.engine))
        return self

    def failed(self, retry_after_s: float | None) -> None:
        self.of.told.append(("failed", self.engine))
        self.of.waits_s.append(retry_after_s)


@dataclass
class TwoEngines:
    """Leases the first engine that is not to be avoided, or else one that is back."""

    engines: list[FakeEngine]
    back: tuple[EngineId, ...] = ()
    told: list[tuple[str, int]] = field(default_factory=list)
    waits_s: list[float | None] = field(default_factory=list)
    carrying: Counter[int] = field(default_factory=Counter)

    async def lease(self, *, avoiding: frozenset[EngineId] = frozenset(), issuer: bytes | None = None) -> Lease:
        for number in range(len(self.engines)):
            if EngineId(number) not in avoiding:
                return FakeLease(self, EngineId(number))
        for engine in self.back:
            return FakeLease(self, engine)
        raise ProxyError(ErrorCode.ENGINE_UNAVAILABLE, retry_after_s=9.0)


@dataclass
class World:
    engines: TwoEngines
    relay: Relay
    telemetry: Telemetry

    async def ask(self) -> bytes:
        pieces = [AUDIO[:1000], AUDIO[1000:]]

        async def source() -> bytes:
            return pieces.pop(0) if pieces else b""

        with RetainedBody(source, Allowance()) as body:
            async with self.relay.answering(await self.engines.lease(), HEAD, body) as answer:
                if isinstance(answer.content, bytes):
                    return answer.content
                return b"".join([piece async for piece in answer.content])

    async def code(self) -> ErrorCode:
        with pytest.raises(ProxyError) as caught:
            await self.ask()
        return caught.value.code

    def retries(self, reason: str) -> float | None:
        return self.telemetry.registry.get_sample_value("sottovoce_proxy_retries_total", {"reason": reason})


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        engines = TwoEngines([await stack.enter_async_context(FakeEngine().running()) for _ in range(2)])
        session = open_session(tls=None, loopback_only=True, connect_timeout_s=GIVE_UP_S, idle_timeout_s=GIVE_UP_S)
        await stack.enter_async_context(session)
        telemetry = Telemetry()
        yield World(engines, Relay(session, engines, telemetry, idle_timeout_s=GIVE_UP_S), telemetry)


def _drop(engine: FakeEngine) -> None:
    engine.drop_connections = True


def _busy(engine: FakeEngine) -> None:
    engine.scripts.append(outer(503))


def _refuse_the_port(engine: FakeEngine) -> None:
    engine.url = "http://127.0.0.1:9"


@pytest.mark.parametrize("fail", [_drop, _busy, _refuse_the_port])
async def test_what_one_engine_did_not_take_the_other_gets_whole(
    world: World, fail: Callable[[FakeEngine], None]
) -> None:
    first, second = world.engines.engines
    fail(first)
    assert TRANSCRIPT.encode() in await world.ask()
    assert bytes(second.received[0].content) == AUDIO
    assert world.engines.told[0] == ("failed", 0)
    assert set(world.engines.told[1:]) == {("accepted", 1), ("answered", 1)}
    assert not +world.engines.carrying
    assert world.retries("engine") == 1


async def test_an_engine_that_is_back_gets_what_it_lost_once_more(world: World) -> None:
    first, second = world.engines.engines
    _busy(first)
    _drop(second)
    world.engines.back = (EngineId(0),)
    assert TRANSCRIPT.encode() in await world.ask()
    assert bytes(first.received[-1].content) == AUDIO
    assert [told for told in world.engines.told if told[0] == "failed"] == [("failed", 0), ("failed", 1)]


async def test_engines_that_come_back_again_and_again_get_it_no_third_time(world: World) -> None:
    for engine in world.engines.engines:
        _drop(engine)
    world.engines.back = (EngineId(0),)
    assert await world.code() is ErrorCode.ENGINE_UNAVAILABLE
    assert [told for told in world.engines.told if told[0] == "failed"] == [("failed", n) for n in (0, 1, 0)]
    assert not +world.engines.carrying


async def test_when_no_engine_took_it_the_app_is_told_when_to_come_back(world: World) -> None:
    for engine in world.engines.engines:
        _busy(engine)
    with pytest.raises(ProxyError) as caught:
        await world.ask()
    assert (caught.value.code, caught.value.retry_after_s) == (ErrorCode.ENGINE_UNAVAILABLE, 9.0)
    assert world.engines.told == [("failed", 0), ("failed", 1)]


async def test_the_other_engine_may_have_changed_its_key_too(world: World) -> None:
    first, second = world.engines.engines
    first.scripts.extend([outer(422), outer(503)])
    second.scripts.append(outer(422))
    assert TRANSCRIPT.encode() in await world.ask()
    assert [told for told in world.engines.told if told[0] not in ("accepted", "answered")] == [
        ("mismatched", 0),
        ("failed", 0),
        ("mismatched", 1),
    ]


async def _cut_before_the_head(reply: Reply) -> web.StreamResponse:
    await reply.start()
    await reply.heartbeat()
    return reply.abort()


async def _cut_in_the_middle(reply: Reply) -> web.StreamResponse:
    await reply.head()
    await reply.content(b'{"text":"the quick')
    return reply.abort()


async def _garbage(reply: Reply) -> web.StreamResponse:
    await reply.start()
    await reply.raw(bytes([20]) + bytes(100))
    return await reply.cut()


async def _too_short(reply: Reply) -> web.StreamResponse:
    await reply.head()
    return await reply.cut()


LOST = {
    "cut before the head": Script(play=_cut_before_the_head),
    "cut in the middle": Script(play=_cut_in_the_middle),
    "without an end": Script(play=_too_short),
    "garbage": Script(play=_garbage),
    "in the clear": outer(200),
    "bad request": outer(400),
    "not found": outer(404),
    "internal": outer(500),
}


@pytest.mark.parametrize("script", LOST.values(), ids=LOST.keys())
async def test_as_long_as_nothing_reached_the_app_the_other_engine_answers(world: World, script: Script) -> None:
    first, second = world.engines.engines
    first.scripts.append(script)
    assert await world.ask() == b'{"text": "the quick brown fox"}'
    assert bytes(second.received[0].content) == AUDIO
    assert ("failed", 0) in world.engines.told
    assert world.retries("lost") == 1 or world.retries("refused") == 1


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (Script(play=_cut_in_the_middle), ErrorCode.STREAM_TRUNCATED),
        (Script(play=_garbage), ErrorCode.UPSTREAM_PROTOCOL_ERROR),
        (outer(400), ErrorCode.UPSTREAM_PROTOCOL_ERROR),
    ],
)
async def test_when_every_engine_fails_alike_the_app_is_told_how(world: World, script: Script, code: ErrorCode) -> None:
    for engine in world.engines.engines:
        engine.scripts.append(script)
    assert await world.code() is code


async def test_no_more_than_three_engines_may_work_on_what_each_of_them_loses(world: World) -> None:
    async with FakeEngine().running() as third, FakeEngine().running() as fourth:
        world.engines.engines += [third, fourth]
        for engine in world.engines.engines[:3]:
            engine.scripts.append(Script(play=_cut_in_the_middle))
        assert await world.code() is ErrorCode.STREAM_TRUNCATED
        assert fourth.received == []
    assert MAX_LOST + 1 == 3


async def _says_503(reply: Reply) -> web.StreamResponse:
    await reply.head(503, (*JSON_HEADERS, ("retry-after", "7")))
    await reply.content(b'{"error":{"code":"overloaded"}}')
    return await reply.end()


async def test_where_an_engine_is_busy_another_answers(world: World) -> None:
    first, second = world.engines.engines
    first.scripts.append(Script(early=_says_503))
    assert TRANSCRIPT.encode() in await world.ask()
    assert bytes(second.received[0].content) == AUDIO
    assert (world.engines.waits_s, world.retries("busy")) == ([7.0], 1)


async def test_where_all_are_busy_the_app_gets_the_answer_of_the_last(world: World) -> None:
    for engine in world.engines.engines:
        engine.scripts.append(Script(early=_says_503))
    assert await world.ask() == b'{"error":{"code":"overloaded"}}'


async def test_after_the_head_of_a_stream_opened_nothing_is_sent_elsewhere(world: World) -> None:
    first, second = world.engines.engines
    first.scripts.append(Script(play=aborted_stream))
    assert await world.code() is ErrorCode.STREAM_TRUNCATED
    assert second.received == []


async def test_where_there_is_one_engine_its_upload_is_kept_no_longer_than_until_it_answers() -> None:
    kept: list[bool] = []

    async def look(reply: Reply) -> web.StreamResponse:
        await reply.start()
        await until(lambda: not bodies[0].can_replay or len(engines.engines) > 1)
        kept.append(bodies[0].can_replay)
        return await transcript(reply)

    bodies: list[RetainedBody] = []
    pieces = [AUDIO]

    async def source() -> bytes:
        return pieces.pop(0) if pieces else b""

    session = open_session(tls=None, loopback_only=True, connect_timeout_s=GIVE_UP_S, idle_timeout_s=GIVE_UP_S)
    async with FakeEngine().running() as engine, session:
        engine.scripts.append(Script(play=look))
        engines = TwoEngines([engine])
        with RetainedBody(source, Allowance()) as body:
            bodies.append(body)
            relay = Relay(session, engines, Telemetry(), idle_timeout_s=GIVE_UP_S)
            async with relay.answering(await engines.lease(), HEAD, body) as answer:
                assert answer.status == 200
    assert kept == [False]
