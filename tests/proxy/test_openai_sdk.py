"""OpenAI's own client in front of the proxy: what it sends is understood, and what it gets makes it act rightly."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest

from proxy.app import RunningProxy
from tests.proxy.conftest import url_of
from tests.proxy.fake_engine import FakeEngine, Reply, Script, cut_stream, event_stream, outer

WAV = ("meeting.wav", b"RIFF" + bytes(200_000), "audio/wav")


@pytest.fixture
async def client(proxy: RunningProxy) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url_of(proxy)}/v1", api_key="sk-app") as client:
        yield client


async def test_a_transcription(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    answer = await client.audio.transcriptions.create(model="whisper-1", file=WAV, language="en")
    assert answer.text == "the quick brown fox"
    (received,) = engine.received
    assert received.header("authorization") == "Bearer sk-app"
    assert b"meeting.wav" in received.content
    assert all(b"meeting" not in name.encode() + value.encode() for name, value in received.outer_headers)


async def test_a_stream(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.scripts.append(Script(play=event_stream))
    stream = await client.audio.transcriptions.create(model="whisper-1", file=WAV, stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]


async def test_a_truncated_stream_raises(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.scripts.append(Script(play=cut_stream))
    stream = await client.audio.transcriptions.create(model="whisper-1", file=WAV, stream=True)
    with pytest.raises(openai.APIError) as caught:
        _ = [event async for event in stream]
    assert caught.value.code == "stream_truncated"


async def test_models(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    async def models(reply: Reply) -> object:
        await reply.head()
        await reply.content(b'{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"o"}]}')
        return await reply.end()

    engine.scripts.append(Script(play=models))  # type: ignore[arg-type]
    assert [model.id async for model in client.models.list()] == ["m"]


async def test_a_protocol_error_is_not_sent_three_times(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.scripts.append(outer(500))
    with pytest.raises(openai.InternalServerError) as caught:
        await client.audio.transcriptions.create(model="whisper-1", file=WAV)
    assert caught.value.code == "upstream_protocol_error"
    assert caught.value.request_id
    assert len(engine.received) == 1


async def test_an_engine_that_is_busy_is_tried_again(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.scripts.append(outer(503, **{"Retry-After": "0"}))
    answer = await client.audio.transcriptions.create(model="whisper-1", file=WAV)
    assert answer.text == "the quick brown fox"
    assert [received.header("x-stainless-retry-count") for received in engine.received if received.head] == ["1"]
