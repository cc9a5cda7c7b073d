"""OpenAI's Python SDK, sync and async, in a live session of the shipped programs."""

from __future__ import annotations

import base64
import wave
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.realtime import (
    ConversationItemInputAudioTranscriptionCompletedEvent,
    RealtimeErrorEvent,
    RealtimeServerEvent,
)

from tests.clients.conftest import ALIAS
from tests.e2e.processes import RECORDING, SAID

pytestmark = pytest.mark.slow

QUERY = {"intent": "transcription"}
PIECE_FRAMES = 1_600
RATE_HZ = 16_000


def session(**heard: object) -> Any:
    # The SDK's types know 24 kHz only; what it sends is not checked.
    format_ = {"type": "audio/pcm", "rate": RATE_HZ}
    return {
        "type": "transcription",
        "audio": {"input": {"format": format_, "transcription": {"model": "nano"}} | heard},
    }


def pieces(silence_s: float = 0.0) -> Iterator[str]:
    with wave.open(str(RECORDING), "rb") as file:
        assert file.getframerate() == RATE_HZ
        while piece := file.readframes(PIECE_FRAMES):
            yield base64.b64encode(piece).decode()
    yield base64.b64encode(bytes(round(silence_s * RATE_HZ) * 2)).decode()


def text_of(event: RealtimeServerEvent) -> str | None:
    """The final text, if this event has it. An error fails the test."""
    assert not isinstance(event, RealtimeErrorEvent), event
    return event.transcript if isinstance(event, ConversationItemInputAudioTranscriptionCompletedEvent) else None


# The SDK enters what websockets makes by hand, of which the newest warns.
@pytest.mark.filterwarnings("ignore:connect.* must be used as a context manager:DeprecationWarning")
@pytest.mark.behaviour(49)
def test_what_is_committed_becomes_text(client: openai.OpenAI) -> None:
    with client.realtime.connect(extra_query=QUERY) as connection:
        connection.session.update(session=session(turn_detection=None))
        for piece in pieces():
            connection.input_audio_buffer.append(audio=piece)
        connection.input_audio_buffer.commit()
        assert next(text for text in map(text_of, connection) if text is not None) == SAID


@pytest.mark.behaviour(49)
async def test_a_turn_that_ends_in_silence_becomes_text(async_client: openai.AsyncOpenAI) -> None:
    async with async_client.realtime.connect(extra_query=QUERY) as connection:
        await connection.session.update(session=session())
        for piece in pieces(silence_s=1.0):
            await connection.input_audio_buffer.append(audio=piece)
        seen, texts = [], []
        async for event in connection:
            seen.append(event.type)
            if (text := text_of(event)) is not None:
                texts.append(text)
                break
    assert texts == [SAID]
    assert seen[:2] == ["session.created", "session.updated"]
    assert [kind for kind in seen if kind.startswith("input_audio_buffer.")] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
    ]


async def test_an_app_may_have_a_secret_in_place_of_the_key(base_url: str, async_client: openai.AsyncOpenAI) -> None:
    asked: Any = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
    made = await async_client.realtime.client_secrets.create(session=asked)
    async with (
        openai.AsyncOpenAI(base_url=base_url, api_key=made.value, max_retries=0) as app,
        app.realtime.connect(extra_query=QUERY) as connection,
    ):
        await connection.session.update(session=session())
        for piece in pieces():
            await connection.input_audio_buffer.append(audio=piece)
        await connection.input_audio_buffer.commit()
        async for event in connection:
            if (text := text_of(event)) is not None:
                assert text == SAID
                break


async def test_a_session_of_a_model_that_is_not_served_is_an_error(async_client: openai.AsyncOpenAI) -> None:
    async with async_client.realtime.connect(model="absent", extra_query=QUERY) as connection:
        event = await connection.recv()
    assert isinstance(event, RealtimeErrorEvent)
    assert event.error.code == "model_not_found"


async def test_a_session_may_name_the_model_by_its_alias(async_client: openai.AsyncOpenAI) -> None:
    async with async_client.realtime.connect(model=ALIAS, extra_query=QUERY) as connection:
        assert (await connection.recv()).type == "session.created"
