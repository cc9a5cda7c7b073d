"""From an app through the proxy and the sealed channel to a session that hears it: only ears and model are fakes."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engine.access.api_keys import ApiKey, ApiKeys, digest, encode_keys
from engine.app import EngineParts, running_engine
from engine.backends.choose import Backend
from proxy.app import running_proxy
from proxy.engines.pool import Pool
from proxy.sender import ProxyParts
from tests.beats import Hurried
from tests.e2e.conftest import engine_settings, proxy_settings
from tests.engine.fakes import FakeDecoder, FakeTranscriber
from tests.engine.realtime.live import PREFIX, FakeEars, silence, speech
from tests.waiting import until

SECRET = "sk-sv-one"
KEY = "openai-insecure-api-key."


@dataclass(slots=True)
class Service:
    url: str
    http: aiohttp.ClientSession
    ears: FakeEars
    pool: Pool

    def connect(self, key: str = SECRET, *protocols: str, query: str = "intent=transcription") -> Any:
        headers = {} if protocols else {"Authorization": f"Bearer {key}"}
        return self.http.ws_connect(f"{self.url}/v1/realtime?{query}", protocols=protocols, headers=headers)


@asynccontextmanager
async def service(directory: Path, engines: int = 1, **limits: int) -> AsyncIterator[Service]:
    keys, ears = directory / "keys.toml", FakeEars()
    key = ApiKey("one", digest(SECRET), **dict[str, Any](limits))
    keys.write_bytes(encode_keys(ApiKeys(keys=(key,))))
    transcriber = FakeTranscriber(script=lambda clip, _: " hello there")
    parts = EngineParts(backend=Backend(transcriber), decoder=FakeDecoder(), ears=ears, metronome=Hurried)
    async with AsyncExitStack() as stack:
        settings = engine_settings(directory, api_keys=keys)
        running = [await stack.enter_async_context(running_engine(settings, parts)) for _ in range(engines)]
        urls = ",".join(f"http://{engine.address}" for engine in running)
        proxy = await stack.enter_async_context(running_proxy(proxy_settings(urls), ProxyParts(metronome=Hurried)))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Service(f"http://{proxy.addresses[0]}", http, ears, proxy.service.sender.engines)


async def say(socket: aiohttp.ClientWebSocketResponse, audio: bytes) -> None:
    for start in range(0, len(audio), 2_400):
        piece = base64.b64encode(audio[start : start + 2_400]).decode()
        await socket.send_json({"type": "input_audio_buffer.append", "audio": piece})


async def told(socket: aiohttp.ClientWebSocketResponse, last: str) -> list[dict[str, Any]]:
    """The events up to the first of that type."""
    events = [await socket.receive_json()]
    while events[-1]["type"] != last:
        events.append(await socket.receive_json())
    return events


async def closing(socket: aiohttp.ClientWebSocketResponse) -> tuple[list[str], int | None]:
    """The codes of the errors that still come, and the close code."""
    codes = []
    while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
        codes.append(json.loads(message.data)["error"]["code"])
    return codes, socket.close_code


async def test_what_is_said_becomes_text(tmp_path: Path) -> None:
    async with service(tmp_path) as house, house.connect() as socket:
        (created,) = await told(socket, "session.created")
        assert created["session"]["audio"]["input"]["transcription"]["model"] == "nano"
        heard = {"transcription": {"language": "en", "delay": "xhigh"}}
        await socket.send_json(
            {"type": "session.update", "session": {"type": "transcription", "audio": {"input": heard}}}
        )
        await told(socket, "session.updated")
        await say(socket, speech(0.96) + silence(0.64))
        events = await told(socket, f"{PREFIX}.completed")
        assert [event["type"].rpartition(".")[2] for event in events] == [
            *("speech_started", "speech_stopped", "committed", "added", "done", "delta", "completed"),
        ]
        assert events[-1]["transcript"] == "hello there"
    await until(lambda: house.ears.open == 0)


@pytest.mark.behaviour(7)
async def test_an_app_without_a_key_is_heard_with_a_secret(tmp_path: Path) -> None:
    async with service(tmp_path) as house:
        asked = {"session": {"type": "transcription", "audio": {"input": {"turn_detection": None}}}}
        headers = {"Authorization": f"Bearer {SECRET}"}
        async with house.http.post(f"{house.url}/v1/realtime/client_secrets", json=asked, headers=headers) as answer:
            assert answer.status == 200
            secret = (await answer.json())["value"]
        async with house.connect("", "realtime", f"{KEY}{secret}") as socket:
            assert socket.protocol == "realtime"
            (created,) = await told(socket, "session.created")
            assert created["session"]["audio"]["input"]["turn_detection"] is None
            await say(socket, speech(0.96))
            await socket.send_json({"type": "input_audio_buffer.commit"})
            events = await told(socket, f"{PREFIX}.completed")
    assert events[-1]["usage"] == {"type": "duration", "seconds": 0.96}


@pytest.mark.parametrize("key", ["sk-sv-none", "ek_none"])
@pytest.mark.behaviour(9)
async def test_a_wrong_key_is_told_in_the_session(tmp_path: Path, key: str) -> None:
    async with service(tmp_path) as house, house.connect(key) as socket:
        assert await closing(socket) == (["invalid_api_key"], 3000)


@pytest.mark.behaviour(6)
async def test_an_unknown_model_is_told_in_the_session(tmp_path: Path) -> None:
    async with service(tmp_path) as house, house.connect(query="intent=transcription&model=nobody") as socket:
        assert await closing(socket) == (["model_not_found"], 4000)


@pytest.mark.behaviour(43)
async def test_one_session_too_many_is_told_in_the_session(tmp_path: Path) -> None:
    async with service(tmp_path, live_sessions=1) as house, house.connect() as first:
        await told(first, "session.created")
        async with house.connect() as second:
            assert await closing(second) == (["rate_limit_exceeded"], 4000)


@pytest.mark.behaviour(43)
async def test_a_used_up_day_is_told_in_the_session(tmp_path: Path) -> None:
    async with service(tmp_path, audio_seconds_per_day=1) as house, house.connect() as socket:
        await told(socket, "session.created")
        await say(socket, silence(1.6))
        assert await closing(socket) == (["insufficient_quota"], 4000)


@pytest.mark.behaviour(38)
async def test_a_binary_frame_is_one_error_and_the_session_lives(tmp_path: Path) -> None:
    async with service(tmp_path) as house, house.connect() as socket:
        await told(socket, "session.created")
        await socket.send_bytes(b"audio?")
        await socket.send_str("{")
        await socket.send_json({"type": "input_audio_buffer.append", "audio": "%%"})
        errors = [await socket.receive_json() for _ in range(3)]
        assert [event["error"]["code"] for event in errors] == ["invalid_json", "invalid_json", "invalid_value"]
        await socket.send_json({"type": "input_audio_buffer.clear"})
        await told(socket, "input_audio_buffer.cleared")


async def test_a_client_secret_opens_sessions_at_the_engine_that_issued_it_and_at_no_other(tmp_path: Path) -> None:
    async with service(tmp_path, engines=3) as house:
        await until(lambda: len(house.pool.held) == 3)
        headers = {"Authorization": f"Bearer {SECRET}"}
        for issuer in house.pool.members:
            for member in house.pool.members:
                member.health.in_flight = 0 if member is issuer else 1000
            async with house.http.post(f"{house.url}/v1/realtime/client_secrets", json={}, headers=headers) as answer:
                secret = (await answer.json())["value"]
            for member in house.pool.members:
                member.health.in_flight = 1000 if member is issuer else 0
            async with house.connect(secret, query="") as socket:
                await told(socket, "session.created")
                assert issuer.health.in_flight == 1001
