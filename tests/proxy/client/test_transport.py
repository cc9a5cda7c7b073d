"""An application's own HTTP client, with engines behind it and no proxy beside it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import httpx
import httpx2
import openai
import pytest
from aiohttp import web
from structlog.testing import LogCapture

from proxy.settings import ProxySettings
from sottovoce.transport import AsyncSottovoceTransport, EngineOptions, SottovoceTransport, StartError
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
    cut_stream,
    event_stream,
    half_a_stream,
    outer,
)
from tests.waiting import time_passes, until, until_settled

T = TypeVar("T")

URL = "http://sottovoce/v1/audio/transcriptions"
WAV = ("meeting.wav", b"RIFF" + bytes(200_000), "audio/wav")
pytestmark = pytest.mark.usefixtures("logging_as_it_was")
LIBRARIES = pytest.mark.parametrize("http", [httpx2, httpx], ids=["httpx2", "httpx"])


@pytest.fixture
def transport(engine: FakeEngine, policy: Path) -> Iterator[SottovoceTransport]:
    with SottovoceTransport(engine=engine.url, policy=policy) as transport:
        yield transport


@pytest.fixture
async def async_transport(engine: FakeEngine, policy: Path) -> AsyncIterator[AsyncSottovoceTransport]:
    async with AsyncSottovoceTransport(engine=engine.url, policy=policy) as transport:
        yield transport


def sdk(transport: SottovoceTransport, http: ModuleType = httpx2, **options: Any) -> openai.OpenAI:
    client = http.Client(transport=transport)
    return openai.OpenAI(base_url="http://sottovoce/v1", api_key="sk-app", http_client=client, **options)


def async_sdk(transport: AsyncSottovoceTransport, http: ModuleType = httpx2, **options: Any) -> openai.AsyncOpenAI:
    client = http.AsyncClient(transport=transport)
    return openai.AsyncOpenAI(base_url="http://sottovoce/v1", api_key="sk-app", http_client=client, **options)


async def beside(work: Callable[[], T]) -> T:
    """Do what blocks while this loop serves the engine."""
    return await asyncio.to_thread(work)


# OpenAI's SDK


@LIBRARIES
async def test_a_transcription(transport: SottovoceTransport, engine: FakeEngine, http: ModuleType) -> None:
    client = sdk(transport, http)
    answer = await beside(lambda: client.audio.transcriptions.create(model="whisper-1", file=WAV, language="en"))
    assert answer.text == TRANSCRIPT
    (received,) = engine.received
    assert received.header("authorization") == "Bearer sk-app"
    assert received.header("user-agent") is None
    assert b"meeting.wav" in received.content
    assert WAV[1] in received.content


@LIBRARIES
async def test_an_asynchronous_transcription(
    async_transport: AsyncSottovoceTransport, engine: FakeEngine, http: ModuleType
) -> None:
    client = async_sdk(async_transport, http)
    answer = await client.audio.transcriptions.create(model="whisper-1", file=WAV, language="en")
    assert answer.text == TRANSCRIPT
    assert WAV[1] in engine.received[0].content


@LIBRARIES
async def test_a_stream(transport: SottovoceTransport, engine: FakeEngine, http: ModuleType) -> None:
    engine.scripts.append(Script(play=event_stream))

    def types() -> list[str]:
        return [e.type for e in sdk(transport, http).audio.transcriptions.create(model="m", file=WAV, stream=True)]

    assert await beside(types) == ["transcript.text.delta", "transcript.text.done"]


@LIBRARIES
async def test_an_asynchronous_stream(
    async_transport: AsyncSottovoceTransport, engine: FakeEngine, http: ModuleType
) -> None:
    engine.scripts.append(Script(play=event_stream))
    client = async_sdk(async_transport, http)
    stream = await client.audio.transcriptions.create(model="m", file=WAV, stream=True)
    assert [event.type async for event in stream] == ["transcript.text.delta", "transcript.text.done"]


async def test_a_truncated_stream_raises(async_transport: AsyncSottovoceTransport, engine: FakeEngine) -> None:
    engine.scripts.append(Script(play=cut_stream))
    stream = await async_sdk(async_transport).audio.transcriptions.create(model="m", file=WAV, stream=True)
    with pytest.raises(openai.APIError) as caught:
        _ = [event async for event in stream]
    assert caught.value.code == "stream_truncated"


async def test_an_engine_that_is_refused_gets_nothing(
    transport: SottovoceTransport, async_transport: AsyncSottovoceTransport, engine: FakeEngine
) -> None:
    engine.config_changes["log_level"] = "debug"
    with pytest.raises(openai.InternalServerError) as caught:
        await async_sdk(async_transport).audio.transcriptions.create(model="m", file=WAV)
    assert (caught.value.status_code, caught.value.code) == (502, "attestation_refused")
    with pytest.raises(openai.InternalServerError) as caught:
        await beside(lambda: sdk(transport).audio.transcriptions.create(model="m", file=WAV))
    assert (caught.value.status_code, caught.value.code) == (502, "attestation_refused")
    assert engine.received == []
    report = await async_transport.attestation()
    assert report["state"] == "refused"
    assert [check["name"] for check in report["last_attempt"]["checks"] if check["status"] == "fail"] == ["log level"]
    assert (await beside(transport.attestation))["state"] == "refused"


async def test_an_engine_that_is_busy_is_tried_again(transport: SottovoceTransport, engine: FakeEngine) -> None:
    engine.scripts.append(outer(503, **{"Retry-After": "0"}))
    answer = await beside(lambda: sdk(transport).audio.transcriptions.create(model="m", file=WAV))
    assert answer.text == TRANSCRIPT
    assert [received.header("x-stainless-retry-count") for received in engine.received if received.head] == ["1"]


async def test_what_was_verified_can_be_read(transport: SottovoceTransport, engine: FakeEngine) -> None:
    await beside(lambda: sdk(transport).audio.transcriptions.create(model="m", file=WAV))
    report = await beside(transport.attestation)
    assert (report["state"], report["insecure"]) == ("attested", True)
    assert report["engine"]["keys_sha256"] == [engine.key.config.digest.hex()]


# What goes in and what comes out


async def test_a_request_is_sealed_as_the_proxy_seals_it(transport: SottovoceTransport, engine: FakeEngine) -> None:
    headers = {"Authorization": "Bearer b", "Cookie": "a=b", "X-Request-Id": "mine", "Accept": "a/b"}
    with httpx2.Client(transport=transport, headers=headers) as client:
        response = await beside(lambda: client.post(f"{URL}?a=%20b", content=b"audio"))
    assert (response.status_code, response.json()) == (200, {"text": TRANSCRIPT})
    assert response.headers["x-request-id"] == "mine"
    (received,) = engine.received
    assert received.head is not None
    assert (received.head.method, received.head.path) == ("POST", "/v1/audio/transcriptions?a=%20b")
    assert received.head.authority == "sottovoce.invalid"
    assert {name for name, _ in received.head.headers} == {"content-length", "accept", "authorization", "x-request-id"}
    host = engine.url.removeprefix("http://")
    assert received.outer_headers[0] == ("Host", host)
    assert not {"cookie", "authorization"} & {name.lower() for name, _ in received.outer_headers}


async def test_what_the_engine_says_passes_the_same_allow_list(
    transport: SottovoceTransport, engine: FakeEngine
) -> None:
    async def limited(reply: Reply) -> web.StreamResponse:
        await reply.head(429, (*JSON_HEADERS, ("x-ratelimit-remaining-requests", "0"), ("set-cookie", "canary=1")))
        await reply.content(b'{"error":{"code":"rate_limit_exceeded"}}')
        return await reply.end()

    engine.scripts.append(Script(play=limited))
    with httpx2.Client(transport=transport) as client:
        response = await beside(lambda: client.get("http://sottovoce/v1/models"))
    assert response.status_code == 429
    assert set(response.headers) == {
        "content-type", "content-length", "x-ratelimit-remaining-requests", "x-request-id",
    }  # fmt: skip


async def test_a_body_without_a_length_is_sent_as_it_comes(transport: SottovoceTransport, engine: FakeEngine) -> None:
    threads: set[int] = set()

    def pieces() -> Iterator[bytes]:
        for number in range(50):
            threads.add(threading.get_ident())
            yield b"" if number % 3 else bytes([number]) * 1000

    def post() -> tuple[int, int]:
        with httpx2.Client(transport=transport) as client:
            return client.post(URL, content=pieces()).status_code, threading.get_ident()

    status, thread = await beside(post)
    assert status == 200
    assert threads == {thread}
    assert bytes(engine.received[0].content) == b"".join(bytes([number]) * 1000 for number in range(0, 50, 3))


async def test_a_body_of_another_length_than_it_says_is_refused(
    transport: SottovoceTransport, engine: FakeEngine
) -> None:
    with httpx2.Client(transport=transport) as client:
        headers = {"Content-Length": "7"}
        response = await beside(lambda: client.post(URL, content=iter([b"short"]), headers=headers))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")
    assert not any(received.complete for received in engine.received)


async def test_what_reading_the_body_raises_reaches_the_caller(
    transport: SottovoceTransport, async_transport: AsyncSottovoceTransport, engine: FakeEngine
) -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(100_000)
        raise LookupError("the recording is gone")

    async def broken_too() -> AsyncIterator[bytes]:
        yield bytes(100_000)
        raise LookupError("the recording is gone")

    with httpx2.Client(transport=transport) as client, pytest.raises(LookupError, match="the recording is gone"):
        await beside(lambda: client.post(URL, content=broken()))
    async with httpx2.AsyncClient(transport=async_transport) as async_client:
        with pytest.raises(LookupError, match="the recording is gone"):
            await async_client.post(URL, content=broken_too())
    assert not any(received.complete for received in engine.received)


@pytest.mark.parametrize("path", ["/", "/attestation", "/v1", "/v2/models"])
async def test_nothing_else_is_served(transport: SottovoceTransport, engine: FakeEngine, path: str) -> None:
    with httpx2.Client(transport=transport) as client:
        response = await beside(lambda: client.get(f"http://sottovoce{path}"))
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    assert response.headers["x-request-id"]
    assert engine.received == []


async def test_more_than_the_limit_is_refused_before_a_byte_is_read(
    transport: SottovoceTransport, engine: FakeEngine
) -> None:
    def unread() -> Iterator[bytes]:
        yield from (pytest.fail("the body was read") for _ in range(1))

    with httpx2.Client(transport=transport) as client:
        headers = {"Content-Length": "2000001"}
        response = await beside(lambda: client.post(URL, content=unread(), headers=headers))
    assert response.status_code == 413
    assert "(2000000)" in response.json()["error"]["message"]


async def test_events_come_one_by_one_and_a_stream_that_takes_too_long_ends_in_an_error(
    engine: FakeEngine, policy: Path
) -> None:
    seen = asyncio.Event()

    async def play(reply: Reply) -> web.StreamResponse:
        await reply.head(200, SSE_HEADERS)
        await reply.event(DELTA)
        await seen.wait()
        await half_a_stream_goes_on(reply)
        await asyncio.Event().wait()
        raise AssertionError

    async def half_a_stream_goes_on(reply: Reply) -> None:
        await reply.event(DONE_EVENT)

    engine.scripts.append(Script(play=play))
    async with (
        AsyncSottovoceTransport(engine.url, policy, idle_timeout_s=100, overall_timeout_s=30) as transport,
        httpx2.AsyncClient(transport=transport) as client,
        client.stream("POST", URL, content=b"audio") as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        pieces = response.aiter_raw()
        assert await anext(pieces) == DELTA
        seen.set()
        assert await anext(pieces) == DONE_EVENT
        time_passes(30)
        last = b"".join([piece async for piece in pieces])
    assert json.loads(last.partition(b"data: ")[2])["error"]["code"] == "timeout"


async def test_a_whole_stream_ends_in_done(transport: SottovoceTransport, engine: FakeEngine) -> None:
    engine.scripts.append(Script(play=event_stream))

    def read() -> bytes:
        with httpx2.Client(transport=transport) as client:
            return client.post(URL, content=b"audio").content

    assert await beside(read) == DELTA + DONE_EVENT + DONE


# Many at once, leaving, waiting, closing


async def test_threads_share_a_transport(transport: SottovoceTransport, engine: FakeEngine) -> None:
    def ask(number: int) -> str:
        return sdk(transport).audio.transcriptions.create(model=f"model-{number}", file=WAV).text

    def ask_all() -> list[str]:
        with ThreadPoolExecutor(16) as threads:
            return list(threads.map(ask, range(32)))

    assert await beside(ask_all) == [TRANSCRIPT] * 32
    assert engine.attestations == 1
    bodies = [bytes(received.content) for received in engine.received]
    assert all(sum(f"model-{number}\r\n".encode() in body for body in bodies) == 1 for number in range(32))


async def test_tasks_share_a_transport(async_transport: AsyncSottovoceTransport, engine: FakeEngine) -> None:
    client = async_sdk(async_transport)
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(client.audio.transcriptions.create(model=f"m-{number}", file=WAV)) for number in range(32)
        ]
    assert {task.result().text for task in asked} == {TRANSCRIPT}
    assert engine.attestations == 1


async def hang(_: Reply) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_caller_who_is_cancelled_cancels_the_work(
    async_transport: AsyncSottovoceTransport, engine: FakeEngine
) -> None:
    engine.scripts.append(Script(play=hang))
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(async_sdk(async_transport).audio.transcriptions.create(model="m", file=WAV))
        await until(lambda: engine.received and engine.received[0].complete)
        asked.cancel()
    await engine.cancelled.wait()
    assert (await async_sdk(async_transport).audio.transcriptions.create(model="m", file=WAV)).text == TRANSCRIPT


async def half(reply: Reply) -> web.StreamResponse:
    await half_a_stream(reply)
    return await hang(reply)


async def test_who_stops_reading_a_stream_cancels_the_work(
    transport: SottovoceTransport, async_transport: AsyncSottovoceTransport, engine: FakeEngine
) -> None:
    def read_a_little() -> None:
        with httpx2.Client(transport=transport) as client, client.stream("POST", URL, content=b"x") as response:
            assert next(response.iter_raw()) == DELTA

    engine.scripts.append(Script(play=half))
    await beside(read_a_little)
    await engine.cancelled.wait()
    engine.cancelled.clear()
    engine.scripts.append(Script(play=half))
    async with (
        httpx2.AsyncClient(transport=async_transport) as client,
        client.stream("POST", URL, content=b"x") as response,
    ):
        assert await anext(response.aiter_raw()) == DELTA
    await engine.cancelled.wait()


async def test_nobody_reads_ahead_of_the_caller(async_transport: AsyncSottovoceTransport, engine: FakeEngine) -> None:
    written = 0

    async def flood(reply: Reply) -> web.StreamResponse:
        nonlocal written
        await reply.head(200, SSE_HEADERS)
        while True:
            await reply.event(b"data: " + b"a" * 200_000 + b"\n\n")
            written += 1

    engine.scripts.append(Script(play=flood))
    async with (
        httpx2.AsyncClient(transport=async_transport) as client,
        client.stream("POST", URL, content=b"x") as response,
    ):
        pieces = response.aiter_raw()
        await anext(pieces)
        await until_settled(lambda: written)  # it waits for us
        reached = written
        assert reached < 200
        for _ in range(reached):
            await anext(pieces)
        await until(lambda: written > reached)


@LIBRARIES
async def test_an_engine_that_is_silent_is_waited_for_as_long_as_the_client_says(
    transport: SottovoceTransport, async_transport: AsyncSottovoceTransport, engine: FakeEngine, http: ModuleType
) -> None:
    engine.default = Script(play=hang)
    limits = http.Timeout(10.0, read=0.2)
    with http.Client(transport=transport, timeout=limits) as client, pytest.raises(http.ReadTimeout):
        await beside(lambda: client.post(URL, content=b"x"))
    await engine.cancelled.wait()
    engine.cancelled.clear()
    async with http.AsyncClient(transport=async_transport, timeout=limits) as async_client:
        with pytest.raises(http.ReadTimeout):
            await async_client.post(URL, content=b"x")
    await engine.cancelled.wait()


@LIBRARIES
async def test_a_stream_that_falls_silent_too(
    transport: SottovoceTransport, async_transport: AsyncSottovoceTransport, engine: FakeEngine, http: ModuleType
) -> None:
    engine.default = Script(play=half)
    limits = http.Timeout(10.0, read=0.3)
    with http.Client(transport=transport, timeout=limits) as client, pytest.raises(http.ReadTimeout):
        await beside(lambda: client.post(URL, content=b"x"))
    async with http.AsyncClient(transport=async_transport, timeout=limits) as async_client:
        with pytest.raises(http.ReadTimeout):
            await async_client.post(URL, content=b"x")


@LIBRARIES
@pytest.mark.parametrize("play", [hang, half], ids=["before the answer", "within it"])
async def test_closing_ends_what_is_under_way(engine: FakeEngine, policy: Path, http: ModuleType, play: Any) -> None:
    transport = SottovoceTransport(engine.url, policy)
    engine.scripts.append(Script(play=play))
    async with asyncio.TaskGroup() as group:
        client = http.Client(transport=transport, timeout=None)
        asked = group.create_task(beside(lambda: _failure(lambda: client.post(URL, content=b"x"))))
        await until(lambda: engine.received and engine.received[0].complete)
        await beside(transport.close)
    assert isinstance(asked.result(), http.ReadError)
    await engine.cancelled.wait()
    assert not [thread for thread in threading.enumerate() if thread.name == "sottovoce"]


def _failure(work: Callable[[], object]) -> Exception | None:
    try:
        work()
    except Exception as exc:  # noqa: BLE001 - whatever it is
        return exc
    return None


@LIBRARIES
@pytest.mark.parametrize("play", [hang, half], ids=["before the answer", "within it"])
async def test_closing_ends_what_is_under_way_on_the_same_loop(
    engine: FakeEngine, policy: Path, http: ModuleType, play: Any
) -> None:
    transport = AsyncSottovoceTransport(engine.url, policy)
    engine.scripts.append(Script(play=play))
    client = http.AsyncClient(transport=transport, timeout=None)
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(_async_failure(client.post(URL, content=b"x")))
        await until(lambda: engine.received and engine.received[0].complete)
        await transport.aclose()
    assert isinstance(asked.result(), http.ReadError)
    await engine.cancelled.wait()


async def _async_failure(work: Any) -> Exception | None:
    try:
        await work
    except Exception as exc:  # noqa: BLE001 - whatever it is
        return exc
    return None


async def test_after_closing_nothing_is_sent(engine: FakeEngine, policy: Path) -> None:
    transport, async_transport = SottovoceTransport(engine.url, policy), AsyncSottovoceTransport(engine.url, policy)
    for _ in range(2):
        transport.close()
        await async_transport.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await beside(lambda: httpx2.Client(transport=transport).get(URL))
    with pytest.raises(RuntimeError, match="closed"):
        await httpx2.AsyncClient(transport=async_transport).get(URL)
    assert engine.attestations == 0


def test_a_transport_stays_on_the_loop_where_it_began(policy: Path) -> None:
    transport = AsyncSottovoceTransport("http://127.0.0.1:9", policy)
    release = threading.Event()

    async def begin(begun: threading.Event) -> None:
        with contextlib.suppress(Exception):
            await httpx2.AsyncClient(transport=transport).get(URL)
        begun.set()
        await asyncio.to_thread(release.wait)
        await transport.aclose()

    begun = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(begin(begun)))
    thread.start()
    begun.wait()
    try:
        with pytest.raises(RuntimeError, match="another event loop"):
            asyncio.run(httpx2.AsyncClient(transport=transport).get(URL))
    finally:
        release.set()
        thread.join()


# What it is told


def test_what_does_not_fit_is_refused_at_once(policy: Path, tmp_path: Path) -> None:
    for kind in (SottovoceTransport, AsyncSottovoceTransport):
        with pytest.raises(ValueError, match="an engine's URL"):
            kind("http://engine:8800?", policy)
        with pytest.raises(ValueError, match="no such file"):
            kind("http://127.0.0.1:9", tmp_path / "none.toml")
        with pytest.raises(StartError, match="insecure-remote-engine"):
            kind("http://192.0.2.1:9", policy)
        with pytest.raises(TypeError, match="'listen'"):
            kind("http://127.0.0.1:9", policy, listen=("127.0.0.1:1",))  # type: ignore[call-arg]


def test_every_option_is_a_setting_of_the_proxy() -> None:
    assert set(EngineOptions.__annotations__) < set(ProxySettings.model_fields)


def test_the_environment_does_not_loosen_what_the_code_says(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOTTOVOCE_INSECURE_REMOTE_ENGINE", "true")
    with pytest.raises(StartError):
        SottovoceTransport("http://192.0.2.1:9", policy)


async def test_what_cannot_be_opened_is_told_to_every_caller(policy: Path, tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    with SottovoceTransport("http://127.0.0.1:9", policy, ca_file=junk) as transport:
        for _ in range(2):
            with pytest.raises(StartError, match="--ca-file"):
                await beside(lambda: httpx2.Client(transport=transport).get(URL))
    async with AsyncSottovoceTransport("http://127.0.0.1:9", policy, ca_file=junk) as async_transport:
        for _ in range(2):
            with pytest.raises(StartError, match="--ca-file"):
                await httpx2.AsyncClient(transport=async_transport).get(URL)


async def test_nothing_of_a_request_is_logged(
    transport: SottovoceTransport, engine: FakeEngine, log: LogCapture
) -> None:
    engine.scripts.extend([outer(500), Script(play=cut_stream)])
    headers = {"Authorization": "Bearer canary"}
    with httpx2.Client(transport=transport, headers=headers) as client:
        for _ in range(3):
            await beside(lambda: client.post(f"{URL}?canary", content=b"canary" * 1000))
    assert {"insecure_policy", "answer_truncated"} <= {entry["event"] for entry in log.entries}
    assert "canary" not in repr(log.entries)
