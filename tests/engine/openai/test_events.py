"""Server-sent events, byte for byte and through the SDK's own decoder."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder
from openai.types.audio import TranscriptionTextDeltaEvent, TranscriptionTextDoneEvent

from engine.errors import ErrorCode, RequestError
from engine.openai.events import DONE, KEEP_ALIVE, EventStream, error_event, event_stream
from engine.types import Task, TextDelta, TokenLogprob, TranscriptionRequest
from tests.engine.openai.forms import SPOKEN, transcription

OPENAI = TranscriptionRequest(model="m", stream=True)
VLLM = TranscriptionRequest(model="m", stream=True, vllm_stream_shape=True)
VLLM_USAGE = TranscriptionRequest(model="m", stream=True, vllm_stream_shape=True, stream_include_usage=True)
BROKEN = RequestError(ErrorCode.BACKEND_UNAVAILABLE)


def stream(request: TranscriptionRequest) -> EventStream:
    return event_stream(request, request_id="r1", created=7)


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
    events = stream(TranscriptionRequest(model="m", stream=True, logprobs=True))
    [data] = decoded(events.delta(TextDelta("I", (TokenLogprob("I", -0.5),))))
    delta = TranscriptionTextDeltaEvent.model_validate_json(data, strict=True)
    assert delta.logprobs is not None
    assert (delta.logprobs[0].token, delta.logprobs[0].logprob, delta.logprobs[0].bytes) == ("I", -0.5, [73])
    done = TranscriptionTextDoneEvent.model_validate_json(decoded(events.done(SPOKEN))[0], strict=True)
    assert done.logprobs is not None
    assert done.logprobs[0].token == " Hé"


def test_the_end_byte_for_byte() -> None:
    assert stream(OPENAI).done(SPOKEN) == (
        b'data: {"type":"transcript.text.done","text":"Hello there. Good bye.","usage":{"type":"tokens",'
        b'"input_tokens":434,"input_token_details":{"text_tokens":10,"audio_tokens":424},"output_tokens":7,'
        b'"total_tokens":441}}\n\ndata: [DONE]\n\n'
    )


def test_the_end_is_what_the_sdk_expects() -> None:
    data, mark = decoded(stream(OPENAI).done(SPOKEN))
    done = TranscriptionTextDoneEvent.model_validate_json(data, strict=True)
    assert done.usage is not None
    assert done.usage.total_tokens == 441
    assert mark == "[DONE]"


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
    request = TranscriptionRequest(model="m", task=Task.TRANSLATE, stream=True, vllm_stream_shape=True)
    [data] = decoded(stream(request).delta(TextDelta("a")))
    assert json.loads(data)["id"] == "translate-r1"
    assert json.loads(data)["object"] == "translation.chunk"


@pytest.mark.parametrize("request_", [OPENAI, VLLM])
@given(texts=st.lists(st.text() | st.sampled_from(["\u2028", "\u2029", "\x85", "\r\n\n", "data: [DONE]"]), max_size=5))
def test_no_text_breaks_out_of_its_event(request_: TranscriptionRequest, texts: list[str]) -> None:
    texts = ["Begin", *(text for text in texts if text)]
    events = stream(request_)
    sent = b"".join(events.delta(TextDelta(text)) for text in texts)
    assert len(sent.decode().splitlines()) == 2 * len(texts), "one line and one blank for every reader"
    bodies = [json.loads(data) for data in decoded(sent)]
    got = [body["delta"] if "delta" in body else body["choices"][0]["delta"]["content"] for body in bodies]
    assert got == texts
    ended = events.done(transcription(text="".join(texts)))
    assert ended.endswith(DONE)
    assert len(ended.decode().splitlines()) == 4
