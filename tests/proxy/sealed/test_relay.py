"""Through real sockets: an app, the proxy, and an engine that does as the script says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import LogCapture

from core.channel.ohttp import REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE, RequestSealer
from core.channel.padding import padme
from proxy.app import RunningProxy
from proxy.engines.verifier import AttestedEngine
from proxy.errors import ErrorCode, ProxyError
from proxy.local import endpoints
from proxy.sealed import relay
from tests.proxy.conftest import StartProxy, url_of
from tests.proxy.fake_engine import (
    DELTA,
    DONE,
    DONE_EVENT,
    JSON_HEADERS,
    SSE_HEADERS,
    TRANSCRIPT,
    FakeEngine,
    Reply,
    Script,
    aborted_stream,
    cut_stream,
    event_stream,
    half_a_stream,
    outer,
    transcript,
)
from tests.proxy.raw import asking, left_of
from tests.waiting import time_passes, until, until_settled

PATH = "/v1/audio/transcriptions"
AUDIO = bytes(range(256)) * 1000
OUTER_HEADERS = (
    ("User-Agent", "sottovoce"),
    ("Content-Type", "message/ohttp-chunked-req"),
    ("Accept", "message/ohttp-chunked-res"),
    ("Incremental", "?1"),
    ("Transfer-Encoding", "chunked"),
)


async def post(app: aiohttp.ClientSession, data: Any = AUDIO, **options: Any) -> tuple[int, Any, dict[str, str]]:
    """Status, JSON and headers of an answer."""
    async with app.post(PATH, data=data, **options) as response:
        return response.status, json.loads(await response.read()), dict(response.headers)


async def code_of(app: aiohttp.ClientSession, data: Any = AUDIO, **options: Any) -> tuple[int, str, str | None]:
    """Status, error code and `x-should-retry` of an answer."""
    status, body, headers = await post(app, data, **options)
    return status, body["error"]["code"], headers.get("x-should-retry")


def metric(proxy: RunningProxy, name: str, **labels: str) -> float:
    return proxy.service.sender.telemetry.registry.get_sample_value(f"sottovoce_proxy_{name}", labels) or 0.0


async def test_a_request_arrives_sealed_and_its_answer_comes_back(
    app: aiohttp.ClientSession, engine: FakeEngine
) -> None:
    status, body, headers = await post(app)
    assert (status, body) == (200, {"text": TRANSCRIPT})
    assert headers["Content-Length"] == str(len(json.dumps(body)))
    (received,) = engine.received
    assert received.complete
    assert bytes(received.content) == AUDIO
    assert received.head is not None
    assert (received.head.method, received.head.path) == ("POST", PATH)


async def test_the_outside_of_every_request_is_the_same(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    await post(app, headers={"Cookie": "a=b", "X-Forwarded-For": "10.1.2.3", "Accept-Language": "de"})
    async with app.get("/v1/models/canary?x=1", headers={"Authorization": "Bearer canary"}):
        pass
    host = engine.url.removeprefix("http://")
    for received in engine.received:
        assert received.outer_headers == (("Host", host), *OUTER_HEADERS)
        assert received.outer_path == f"/ohttp/{engine.key.config.path_digest}"


async def test_lengths_are_padded_and_chunks_are_full(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    async def dribble() -> AsyncIterator[bytes]:
        for start in range(0, len(AUDIO), 1000):
            yield AUDIO[start : start + 1000]

    await post(app, dribble())
    (received,) = engine.received
    assert bytes(received.content) == AUDIO
    assert set(received.chunks[:-1]) == {16_384}
    assert received.plain_bytes == padme(received.plain_bytes)


async def test_only_the_allow_list_goes_inside(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    sent = {"Cookie": "a=b", "X-Forwarded-For": "10.1.2.3", "Idempotency-Key": "k1", "X-Stainless-Retry-Count": "0"}
    await post(app, headers=sent | {"X-Stainless-OS": "Linux", "Authorization": "Bearer app"})
    head = engine.received[0].head
    assert head is not None
    assert head.authority == "sottovoce.invalid"
    assert {name for name, _ in head.headers} == {
        "content-type", "content-length", "accept", "authorization", "idempotency-key", "x-request-id",
        "x-stainless-retry-count",
    }  # fmt: skip
    assert engine.received[0].header("authorization") == "Bearer app"


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH"])
async def test_any_method_and_target_below_v1_is_the_engines_to_answer(
    app: aiohttp.ClientSession, engine: FakeEngine, method: str
) -> None:
    async with app.request(method, "/v1/some%2Fthing?a=%20b") as response:
        assert response.status == 200
    head = engine.received[0].head
    assert head is not None
    assert (head.method, head.path) == (method, "/v1/some%2Fthing?a=%20b")


async def test_the_engines_errors_and_named_headers_pass_and_no_others(
    app: aiohttp.ClientSession, engine: FakeEngine
) -> None:
    async def busy(reply: Reply) -> web.StreamResponse:
        named = (("retry-after", "7"), ("x-ratelimit-remaining-requests", "0"), ("x-request-id", "engine-1"))
        await reply.head(429, JSON_HEADERS + named + (("set-cookie", "canary=1"), ("server", "canary")))
        await reply.content(b'{"error":{"code":"rate_limit_exceeded"}}')
        return await reply.end()

    engine.scripts.append(Script(play=busy))
    status, body, headers = await post(app)
    assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert set(headers) == {
        "Content-Type", "Content-Length", "Retry-After", "x-ratelimit-remaining-requests", "X-Request-ID", "Server",
        "Date",
    }  # fmt: skip
    assert headers["Server"] == "sottovoce"
    assert headers["X-Request-ID"] == "engine-1"


async def test_heartbeats_are_dropped(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    async def slowly(reply: Reply) -> web.StreamResponse:
        for _ in range(3):
            await reply.heartbeat()
        return await transcript(reply)

    engine.scripts.append(Script(play=slowly))
    assert (await post(app))[:2] == (200, {"text": TRANSCRIPT})


async def test_a_sealed_refusal_before_the_upload_ended_is_delivered_at_once(
    app: aiohttp.ClientSession, engine: FakeEngine
) -> None:
    answered = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield AUDIO
        await answered.wait()

    async def refuse(reply: Reply) -> web.StreamResponse:
        await reply.head(401)
        await reply.content(b'{"error":{"code":"invalid_api_key"}}')
        return await reply.end()

    engine.scripts.append(Script(early=refuse))
    assert (await code_of(app, endless()))[:2] == (401, "invalid_api_key")
    answered.set()
    assert not engine.received[0].complete


# What answers outside of the envelope


PLAINTEXT = {
    "json": {"Content-Type": "application/json"},
    "events": {"Content-Type": "text/event-stream"},
    "the request's type": {"Content-Type": REQUEST_MEDIA_TYPE},
    "the right type": {"Content-Type": RESPONSE_MEDIA_TYPE},
    "the right type, compressed": {"Content-Type": RESPONSE_MEDIA_TYPE, "Content-Encoding": "gzip"},
    "a marker": {"Content-Type": "application/json", "Sottovoce-Encrypted": "false"},
}


@pytest.mark.parametrize("headers", PLAINTEXT.values(), ids=PLAINTEXT)
async def test_plaintext_never_reaches_the_app(
    app: aiohttp.ClientSession, engine: FakeEngine, headers: dict[str, str]
) -> None:
    body = b'{"text":"clear text canary"}' * 10
    engine.scripts.append(Script(outer=lambda: web.Response(body=body, headers=headers | {"X-Canary": "canary"})))
    async with app.post(PATH, data=AUDIO) as response:
        assert response.status == 502
        assert "canary" not in await response.text() + repr(response.headers)


@pytest.mark.parametrize(
    ("script", "expected", "retry_after"),
    [
        (outer(400), (502, "upstream_protocol_error", "false"), None),
        (outer(401), (502, "upstream_protocol_error", "false"), None),
        (outer(404), (502, "upstream_protocol_error", "false"), None),
        (outer(413), (502, "upstream_protocol_error", "false"), None),
        (outer(500), (502, "upstream_protocol_error", "false"), None),
        (outer(302, Location="http://127.0.0.1:1/"), (502, "upstream_protocol_error", "false"), None),
        (outer(204), (502, "upstream_protocol_error", "false"), None),
        (outer(429), (503, "engine_unavailable", None), "5"),
        (outer(502), (503, "engine_unavailable", None), "5"),
        (outer(503, **{"Retry-After": "7"}), (503, "engine_unavailable", None), "7"),
        (outer(503, **{"Retry-After": "86400"}), (503, "engine_unavailable", None), "60"),
        (outer(503, **{"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}), (503, "engine_unavailable", None), "5"),
    ],
)
async def test_what_comes_in_the_clear_decides_only_which_error_is_ours(
    app: aiohttp.ClientSession,
    engine: FakeEngine,
    script: Script,
    expected: tuple[int, str, str | None],
    retry_after: str | None,
) -> None:
    engine.scripts.append(script)
    async with app.post(PATH, data=AUDIO) as response:
        text = await response.text()
        assert (response.status, json.loads(text)["error"]["code"], response.headers.get("x-should-retry")) == expected
        assert response.headers.get("Retry-After") == retry_after
        assert "canary" not in text
    assert len(engine.received) == 1


async def test_without_incremental_forwarding_it_is_tried_once_without_the_header(
    app: aiohttp.ClientSession, engine: FakeEngine, proxy: RunningProxy
) -> None:
    engine.scripts.append(outer(501))
    assert (await post(app))[:2] == (200, {"text": TRANSCRIPT})
    first, second = engine.received
    assert ("Incremental", "?1") in first.outer_headers
    assert second.outer_headers == tuple(field for field in first.outer_headers if field[0] != "Incremental")
    assert bytes(second.content) == AUDIO
    assert metric(proxy, "retries_total", reason="not_incremental") == 1


async def test_the_second_attempt_is_not_sealed_to_a_key_that_was_dropped_meanwhile(
    app: aiohttp.ClientSession, engine: FakeEngine, proxy: RunningProxy
) -> None:
    await post(app)
    held = proxy.trust.held
    assert held is not None

    async def dropped() -> AttestedEngine:
        if len(engine.received) < 2:
            return held
        raise ProxyError(ErrorCode.ATTESTATION_REFUSED)

    engine.scripts.append(outer(501))
    proxy.trust.engine = dropped  # type: ignore[method-assign]
    assert (await code_of(app))[:2] == (502, "attestation_refused")
    assert len(engine.received) == 2


async def test_a_second_501_is_final(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    engine.scripts.extend([outer(501), outer(501)])
    assert await code_of(app) == (502, "upstream_protocol_error", "false")
    assert len(engine.received) == 2


# 422: the key does not fit


async def test_a_new_key_is_verified_and_the_same_body_sealed_to_it(
    app: aiohttp.ClientSession, engine: FakeEngine, proxy: RunningProxy
) -> None:
    await post(app)
    old, attestations = engine.key.config, engine.attestations
    engine.rotate()
    assert (await post(app))[:2] == (200, {"text": TRANSCRIPT})
    _, refused, accepted = engine.received
    assert refused.outer_path == f"/ohttp/{old.path_digest}"
    assert accepted.outer_path == f"/ohttp/{engine.key.config.path_digest}"
    assert bytes(accepted.content) == AUDIO
    assert engine.attestations == attestations + 1
    assert metric(proxy, "retries_total", reason="new_key") == 1
    assert metric(proxy, "key_mismatches_total") == 1


async def test_what_was_received_is_replayed_and_what_still_arrives_follows(
    app: aiohttp.ClientSession, engine: FakeEngine
) -> None:
    await post(app)
    engine.rotate()

    async def halves() -> AsyncIterator[bytes]:
        yield AUDIO
        await until(lambda: len(engine.received) >= 3)  # the retry is under way, and holds the first half only
        yield AUDIO[::-1]

    assert (await post(app, halves()))[:2] == (200, {"text": TRANSCRIPT})
    assert bytes(engine.received[2].content) == AUDIO + AUDIO[::-1]


async def test_under_the_same_key_nothing_is_sent_again(
    app: aiohttp.ClientSession, engine: FakeEngine, proxy: RunningProxy
) -> None:
    await post(app)
    engine.refuse_key = True
    assert await code_of(app) == (502, "upstream_key_mismatch", "false")
    assert len(engine.received) == 2
    assert not proxy.trust.is_ready
    assert (await code_of(app))[:2] == (503, "no_attested_engine")
    assert len(engine.received) == 2


async def test_it_is_sealed_again_only_once(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    await post(app)
    engine.rotate()
    engine.scripts.extend([outer(422), outer(422)])
    assert await code_of(app) == (502, "upstream_key_mismatch", "false")
    assert len(engine.received) == 3


async def test_an_engine_that_no_longer_satisfies_the_policy_gets_no_second_body(
    app: aiohttp.ClientSession, engine: FakeEngine
) -> None:
    await post(app)
    engine.rotate()
    engine.config_changes["log_level"] = "debug"
    assert await code_of(app) == (502, "attestation_refused", "false")
    assert len(engine.received) == 2


async def test_a_hundred_forged_mismatches_ask_the_engine_once(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    await post(app)
    engine.default = outer(422)
    codes = await asyncio.gather(*(code_of(app, b"x") for _ in range(100)))
    assert {code for _, code, _ in codes} <= {"upstream_key_mismatch", "no_attested_engine"}
    assert engine.attestations == 2


# Broken answers


async def cut_json(reply: Reply) -> web.StreamResponse:
    await reply.head()
    await reply.content(b'{"text":"half of it"}')
    return await reply.cut()


async def aborted_json(reply: Reply) -> web.StreamResponse:
    await reply.head()
    await reply.content(b'{"text":"half of it"}')
    return reply.abort()


async def cut_before_the_head(reply: Reply) -> web.StreamResponse:
    await reply.start()
    return await reply.cut()


@pytest.mark.parametrize("play", [cut_json, aborted_json, cut_before_the_head])
async def test_a_truncated_answer_is_an_error_and_nothing_of_it_leaves(
    app: aiohttp.ClientSession, engine: FakeEngine, proxy: RunningProxy, play: Any
) -> None:
    engine.scripts.append(Script(play=play))
    async with app.post(PATH, data=AUDIO) as response:
        text = await response.text()
        assert (response.status, json.loads(text)["error"]["code"]) == (502, "stream_truncated")
        assert "half" not in text
    assert metric(proxy, "truncated_answers_total") == 1


async def test_an_altered_answer_is_an_error(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    async def altered(reply: Reply) -> web.StreamResponse:
        await reply.head()
        await reply.raw(b"\x20" + bytes(32))
        return await reply.end()

    engine.scripts.append(Script(play=altered))
    assert await code_of(app) == (502, "upstream_protocol_error", "false")


async def test_the_answer_to_another_request_does_not_open(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    recorded: list[bytes] = []

    async def record(reply: Reply) -> web.StreamResponse:
        send = reply.raw

        async def raw(data: bytes) -> None:
            recorded.append(data)
            await send(data)

        reply.raw = raw  # type: ignore[method-assign]
        return await transcript(reply)

    async def replay(reply: Reply) -> web.StreamResponse:
        await reply.start()
        for data in recorded:
            await reply.raw(data)
        return await reply.cut()

    engine.scripts.extend([Script(play=record), Script(play=replay)])
    assert (await post(app))[0] == 200
    assert await code_of(app) == (502, "upstream_protocol_error", "false")


async def test_an_answer_without_bounds_is_refused(
    app: aiohttp.ClientSession, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MAX_ANSWER_BYTES", 10)
    assert await code_of(app) == (502, "upstream_protocol_error", "false")


async def test_when_sealing_fails_not_a_byte_of_plaintext_leaves(
    app: aiohttp.ClientSession, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise RuntimeError("the sealer is broken")

    monkeypatch.setattr(RequestSealer, "seal", fail)
    assert await code_of(app) == (500, "internal_error", "false")
    assert all(received.head is None and not received.content for received in engine.received)


# Streams


async def test_events_flow_one_by_one_and_without_filler(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    seen = asyncio.Event()

    async def play(reply: Reply) -> web.StreamResponse:
        await reply.head(200, SSE_HEADERS)
        await reply.event(DELTA)
        await seen.wait()
        for event in (b": keep-alive\n\n", DONE_EVENT, DONE):
            await reply.event(event)
        return await reply.end()

    engine.scripts.append(Script(play=play))
    async with app.post(PATH, data=AUDIO) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert "Content-Length" not in response.headers
        assert await response.content.readexactly(len(DELTA)) == DELTA
        seen.set()
        assert await response.read() == b": keep-alive\n\n" + DONE_EVENT + DONE


@pytest.mark.parametrize("play", [cut_stream, aborted_stream])
async def test_a_truncated_stream_ends_in_an_error_event_without_done(
    app: aiohttp.ClientSession, engine: FakeEngine, proxy: RunningProxy, play: Any
) -> None:
    engine.scripts.append(Script(play=play))
    async with app.post(PATH, data=AUDIO) as response:
        body = await response.read()
    assert body.startswith(DELTA)
    name, data = body[len(DELTA) :].rstrip(b"\n").split(b"\n")
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: "))["error"]["code"] == "stream_truncated"
    assert b"[DONE]" not in body
    assert b"never se" not in body
    assert metric(proxy, "truncated_answers_total") == 1
    assert metric(proxy, "errors_total", code="stream_truncated") == 1


async def test_a_stream_that_takes_too_long_ends_in_an_error_event(start_proxy: StartProxy, engine: FakeEngine) -> None:
    async def hang(reply: Reply) -> web.StreamResponse:
        await half_a_stream(reply)
        await asyncio.Event().wait()
        raise AssertionError

    limits = {"idle_timeout_s": 100, "overall_timeout_s": 30}
    async with start_proxy(**limits) as proxy, aiohttp.ClientSession(url_of(proxy)) as app:
        engine.scripts.append(Script(play=hang))
        async with app.post(PATH, data=AUDIO) as response:
            assert await response.content.readexactly(len(DELTA)) == DELTA
            time_passes(30)
            body = await response.read()
    assert b'"code": "timeout"' in body


async def test_a_whole_stream_ends_in_done(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    engine.scripts.append(Script(play=event_stream))
    async with app.post(PATH, data=AUDIO) as response:
        assert await response.read() == DELTA + DONE_EVENT + DONE


# Leaving, and waiting


async def test_an_app_that_leaves_cancels_the_work_at_once(
    proxy: RunningProxy, app: aiohttp.ClientSession, engine: FakeEngine
) -> None:
    working = asyncio.Event()

    async def work(reply: Reply) -> web.StreamResponse:
        await reply.heartbeat()
        working.set()
        await asyncio.Event().wait()
        raise AssertionError

    engine.scripts.append(Script(play=work))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(post(app))
        await working.wait()
        task.cancel()
    await engine.cancelled.wait()
    await until(lambda: metric(proxy, "requests_in_flight") == 0)


async def test_an_app_that_leaves_during_its_upload_cancels_it(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield AUDIO
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(post(app, endless()))
        await until(lambda: engine.received and engine.received[0].content)
        task.cancel()
    await engine.cancelled.wait()


async def hang(_: Reply) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("limits", [{"idle_timeout_s": 100}, {"idle_timeout_s": 200, "overall_timeout_s": 100}])
async def test_an_engine_that_hangs_is_given_up(
    start_proxy: StartProxy, engine: FakeEngine, limits: dict[str, float]
) -> None:
    async with (
        start_proxy(**limits) as proxy,
        aiohttp.ClientSession(url_of(proxy)) as app,
        asyncio.TaskGroup() as group,
    ):
        engine.scripts.append(Script(play=hang))
        asking = group.create_task(code_of(app))
        await until(lambda: engine.received and engine.received[0].complete)
        time_passes(90)
        await until_settled()
        assert not asking.done()
        time_passes(10)
        assert await asking == (504, "timeout", "false")


async def test_an_app_that_stops_sending_is_given_up(start_proxy: StartProxy, engine: FakeEngine) -> None:
    async def stall() -> AsyncIterator[bytes]:
        yield AUDIO
        await asyncio.Event().wait()

    async with (
        start_proxy(idle_timeout_s=30) as proxy,
        aiohttp.ClientSession(url_of(proxy)) as app,
        asyncio.TaskGroup() as group,
    ):
        asking = group.create_task(code_of(app, stall()))
        await until(lambda: engine.received and engine.received[0].content)
        await until_settled()
        time_passes(30)
        assert await asking == (408, "upload_timeout", "false")


@dataclass
class Pouring:
    """Answers that no buffer holds. taken: pieces that somebody has taken."""

    taken: int = 0

    async def flood(self, reply: Reply) -> web.StreamResponse:
        """Events without end."""
        await reply.head(200, SSE_HEADERS)
        while True:
            await reply.event(b"data: " + b"a" * PIECE_BYTES + b"\n\n")
            self.taken += 1

    async def large(self, reply: Reply) -> web.StreamResponse:
        """A whole answer."""
        await reply.head()
        for _ in range(LARGE_BYTES // PIECE_BYTES):
            await reply.content(bytes(PIECE_BYTES))
            self.taken += 1
        return await reply.end()


PIECE_BYTES, LARGE_BYTES = 200_000, 16_000_000
REQUEST = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx".encode()
STALL = {"idle_timeout_s": 30}
OVERALL = {"idle_timeout_s": 100, "overall_timeout_s": 30}


@pytest.mark.parametrize(("limits", "counted"), [(STALL, 0), (OVERALL, 1)], ids=["stall", "overall"])
@pytest.mark.parametrize("play", ["flood", "large"])
async def test_an_app_that_does_not_read_is_cut_off(
    start_proxy: StartProxy,
    engine: FakeEngine,
    log: LogCapture,
    *,
    play: str,
    limits: dict[str, float],
    counted: int,
) -> None:
    pouring = Pouring()
    async with start_proxy(**limits) as proxy:
        engine.scripts.append(Script(play=getattr(pouring, play)))
        async with asking(proxy.addresses[0], REQUEST) as connection:
            await until(lambda: pouring.taken)
            await until_settled(lambda: pouring.taken)
            assert metric(proxy, "requests_in_flight") == 1
            time_passes(30)
            await until(lambda: metric(proxy, "requests_in_flight") == 0)
            if play == "flood":
                await engine.cancelled.wait()
            received = await left_of(connection)
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert not received.endswith(b"0\r\n\r\n")
        assert len(received) < LARGE_BYTES
        assert metric(proxy, "errors_total", code="timeout") == counted
        assert ("app_does_not_read" in {entry["event"] for entry in log.entries}) is (limits is STALL)
        assert metric(proxy, "requests_total", status="200") == 0


async def test_an_app_that_does_not_read_what_the_proxy_itself_says_is_cut_off(
    start_proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "attestation_report", lambda *_, **__: {"state": "a" * LARGE_BYTES})
    request = b"GET /attestation HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    async with start_proxy(**STALL) as proxy, asking(proxy.addresses[0], request) as connection:
        await until(lambda: metric(proxy, "requests_in_flight") == 1)
        await until_settled()
        time_passes(30)
        await until(lambda: metric(proxy, "requests_in_flight") == 0)
        assert len(await left_of(connection)) < LARGE_BYTES


async def test_an_app_that_reads_slowly_gets_its_whole_answer(start_proxy: StartProxy, engine: FakeEngine) -> None:
    loop, pouring, reached = asyncio.get_running_loop(), Pouring(), 0
    async with start_proxy(idle_timeout_s=30) as proxy:
        engine.scripts.append(Script(play=pouring.large))
        async with asking(proxy.addresses[0], REQUEST, buffer_bytes=65_536) as connection:
            received = bytearray()
            while data := await loop.sock_recv(connection, 65_536):
                received += data
                if pouring.taken >= reached + 8:
                    reached = pouring.taken
                    time_passes(10)
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert f"Content-Length: {LARGE_BYTES}".encode() in head
    assert len(body) == LARGE_BYTES
    assert reached > 8 * 4, "it took longer than the app may be silent"


async def test_an_upload_that_is_slow_but_steady_is_answered(start_proxy: StartProxy, engine: FakeEngine) -> None:
    async def dribble() -> AsyncIterator[bytes]:
        for _ in range(15):
            yield AUDIO[:20_000]
            await until(lambda: engine.received)
            await until_settled(lambda: len(engine.received[0].content))
            time_passes(10)

    async with start_proxy(idle_timeout_s=30) as proxy, aiohttp.ClientSession(url_of(proxy)) as app:
        assert (await post(app, dribble()))[:2] == (200, {"text": TRANSCRIPT})
    assert len(engine.received[0].content) == 300_000


async def test_an_engine_that_shows_that_it_works_is_waited_for(start_proxy: StartProxy, engine: FakeEngine) -> None:
    async def slowly(reply: Reply) -> web.StreamResponse:
        for _ in range(15):
            await reply.heartbeat()
            await until_settled()
            time_passes(10)
        return await transcript(reply)

    async with start_proxy(idle_timeout_s=30) as proxy, aiohttp.ClientSession(url_of(proxy)) as app:
        engine.scripts.append(Script(play=slowly))
        assert (await post(app))[:2] == (200, {"text": TRANSCRIPT})


async def test_an_engine_that_cannot_be_reached_is_told_as_that(start_proxy: StartProxy, engine: FakeEngine) -> None:
    async with start_proxy() as proxy, aiohttp.ClientSession(url_of(proxy)) as app:
        assert (await post(app))[0] == 200
        engine.drop_connections = True
        assert await code_of(app) == (503, "engine_unavailable", None)


# Keys of the API, and sizes


async def test_a_configured_api_key_replaces_the_apps_own(
    start_proxy: StartProxy, engine: FakeEngine, secret_file: Any
) -> None:
    async with start_proxy(api_key=secret_file("k3y")) as proxy, aiohttp.ClientSession(url_of(proxy)) as app:
        await post(app, headers={"Authorization": "Bearer of-the-app"})
    assert engine.received[0].header("authorization") == "Bearer k3y"


async def test_more_than_the_limit_is_refused_by_count(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    async def too_much() -> AsyncIterator[bytes]:
        for _ in range(32):
            yield bytes(65_536)

    status, body, _ = await post(app, too_much())
    assert (status, body["error"]["code"]) == (413, "file_too_large")
    assert "(2000000)" in body["error"]["message"]
    assert not any(received.complete for received in engine.received)


async def test_more_than_the_limit_is_refused_by_its_length(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    assert await code_of(app, BytesIO(bytes(2_000_001))) == (413, "file_too_large", "false")
    assert engine.received == []


async def test_exactly_the_limit_is_sent(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    assert (await post(app, BytesIO(bytes(2_000_000))))[0] == 200
    assert len(engine.received[0].content) == 2_000_000


async def test_a_content_encoding_is_refused(app: aiohttp.ClientSession, engine: FakeEngine) -> None:
    answer = await code_of(app, headers={"Content-Encoding": "gzip"})
    assert answer == (415, "unsupported_content_encoding", "false")
    assert engine.received == []
