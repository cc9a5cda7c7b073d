"""Server-sent events, byte for byte and through the SDK's own decoder."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder
from openai.types.audio import TranscriptionTextDeltaEvent, TranscriptionTextDoneEvent

from core.transcript.types import Task, TokenLogprob
from engine.openai.errors import ErrorCode
from engine.openai.events import DONE, KEEP_ALIVE, EventStream, error_event, event_stream
from engine.openai.rendering import Rendering
from engine.types import Hearing, TextDelta
from tests.engine.openai.forms import SPOKEN, fault, transcription

OPENAI = Rendering(stream=True)
VLLM = Rendering(stream=True, vllm_stream_shape=True)
VLLM_USAGE = Rendering(stream=True, vllm_stream_shape=True, stream_include_usage=True)
BROKEN = fault(ErrorCode.BACKEND_UNAVAILABLE)


def stream(rendering: Rendering, task: Task = Task.TRANSCRIBE) -> EventStream:
    return event_stream(Hearing(model="m", task=task), rendering, request_id="r1", created=7)


def decoded(data: bytes) -> list[str]:
    return [event.data for event in SSEDecoder().iter_bytes(iter([data]))]


def test_a_delta_byte_for_byte() -> None:
    assert stream(OPENAI).delta(TextDelta("Zoë")) == 'data: {"type":"transcript.text.delta","delta":"Zoë"}\n\n'.encode()


def test_deltas_start_without_a_space_and_empty_ones_are_not_sent() -> None:
    events = stream(OPENAI)
    sent = b"".join(events.delta(TextDelta(text)) for text in ("", " ", " Hello", "", " there."))
    deltas = [json.loads(data)["delta"] for data in decoded(sent)]
    assert deltas == ["Hello", " there."]
    assert stream(VLLM).delta(TextDelta("")) == b""


def test_logprobs_come_with_each_delta_and_at_the_end_when_asked_for() -> None:
    events = stream(Rendering(stream=True, logprobs=True))
    [data] = decoded(events.delta(TextDelta("I", (TokenLogprob("I", -0.5),))))
    delta = TranscriptionTextDeltaEvent.model_validate_json(data, strict=True)
    assert delta.logprobs is not None
    assert (delta.logprobs[0].token, delta.logprobs[0].logprob, delta.logprobs[0].bytes) == ("I", -0.5, [73])
    done = TranscriptionTextDoneEvent.model_validate_json(decoded(events.done(SPOKEN))[0], strict=True)
    assert done.logprobs is not None
    assert done.logprobs[0].token == " Hé"


def test_the_end_byte_for_byte() -> None:
    assert stream(OPENAI).done(SPOKEN) == (
        b'data: {"type":"transcript.text.done","text":"Hello there. Good bye.","languages":[{"code":"en"}],'
        b'"usage":{"type":"tokens","input_tokens":434,"input_token_details":{"text_tokens":10,"audio_tokens":424},"output_tokens":7,'
        b'"total_tokens":441}}\n\ndata: [DONE]\n\n'
    )


def test_the_end_is_what_the_sdk_expects() -> None:
    data, mark = decoded(stream(OPENAI).done(SPOKEN))
    done = TranscriptionTextDoneEvent.model_validate_json(data, strict=True)
    assert done.usage is not None
    assert done.usage.total_tokens == 441
    assert mark == "[DONE]"


@pytest.mark.parametrize(("text", "languages"), [(" Hi.", ["en"]), (" ", [])])
def test_the_end_tells_the_language_where_something_was_said(text: str, languages: list[str]) -> None:
    data = decoded(stream(OPENAI).done(transcription(text=text)))[0]
    done = TranscriptionTextDoneEvent.model_validate_json(data, strict=True)
    assert [language.code for language in done.languages or ()] == languages
    assert done.languages is not None


def test_the_end_of_a_translation_and_of_vllms_stream_tell_no_language() -> None:
    for end in (
        stream(OPENAI, Task.TRANSLATE).done(transcription(task=Task.TRANSLATE)),
        stream(VLLM_USAGE).done(SPOKEN),
    ):
        assert b"languages" not in end


def test_an_error_ends_a_stream_without_its_mark() -> None:
    assert error_event(BROKEN) == (
        b'data: {"error":{"message":"The speech backend is not available. Please try again.","type":"server_error",'
        b'"param":null,"code":"backend_unavailable"}}\n\n'
    )


def test_a_keep_alive_is_a_comment_that_readers_skip() -> None:
    assert KEEP_ALIVE == b": keep-alive\n\n"
    assert decoded(KEEP_ALIVE + DONE) == ["[DONE]"]


HEAD = b'data: {"id":"transcribe-r1","object":"transcription.chunk","created":7,"model":"m","choices":'


def test_vllms_chunks_byte_for_byte() -> None:
    assert stream(VLLM).delta(TextDelta(" hi")) == HEAD + b'[{"delta":{"content":" hi"}}]}\n\n'
    last = HEAD + b'[{"delta":{"content":""},"finish_reason":"stop","stop_reason":null}]}\n\n'
    usage = HEAD + b'[],"usage":{"prompt_tokens":434,"total_tokens":441,"completion_tokens":7}}\n\n'
    assert stream(VLLM).done(SPOKEN) == last + DONE
    assert stream(VLLM_USAGE).done(SPOKEN) == last + usage + DONE


def test_vllms_chunks_of_a_translation() -> None:
    [data] = decoded(stream(VLLM, Task.TRANSLATE).delta(TextDelta("a")))
    assert json.loads(data)["id"] == "translate-r1"
    assert json.loads(data)["object"] == "translation.chunk"


@pytest.mark.parametrize("rendering", [OPENAI, VLLM], ids=["openai", "vllm"])
@given(texts=st.lists(st.text() | st.sampled_from(["\u2028", "\u2029", "\x85", "\r\n\n", "data: [DONE]"]), max_size=5))
def test_no_text_breaks_out_of_its_event(rendering: Rendering, texts: list[str]) -> None:
    texts = ["Begin", *(text for text in texts if text)]
    events = stream(rendering)
    sent = b"".join(events.delta(TextDelta(text)) for text in texts)
    assert len(sent.decode().splitlines()) == 2 * len(texts), "one line and one blank for every reader"
    bodies = [json.loads(data) for data in decoded(sent)]
    got = [body["delta"] if "delta" in body else body["choices"][0]["delta"]["content"] for body in bodies]
    assert got == texts
    ended = events.done(transcription(text="".join(texts)))
    assert ended.endswith(DONE)
    assert len(ended.decode().splitlines()) == 4
