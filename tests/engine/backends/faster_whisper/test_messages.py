from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.transcript.types import Segment, Task, TokenLogprob, Word
from engine.backends.faster_whisper.messages import (
    FRAMING,
    MAX_JSON_BYTES,
    Kind,
    decode_fields,
    encode,
    options_from_fields,
    options_to_fields,
    transcript_from_fields,
    transcript_to_fields,
)
from engine.backends.framing import PREFIX, Fields, MessageBuffer
from engine.speech.fallback import finite
from engine.types import MAX_CLIP_BYTES, ClipTranscript, DecodingOptions

numbers = st.floats(allow_nan=False, allow_infinity=False)
words = st.builds(Word, st.text(), numbers, numbers, st.none() | numbers)
segments = st.builds(
    Segment, numbers, numbers, st.text(), st.tuples(st.integers()), numbers, numbers, numbers, numbers, st.tuples(words)
)
transcripts = st.builds(
    ClipTranscript,
    st.text(),
    st.tuples(segments),
    st.integers(),
    st.integers(),
    st.tuples(st.builds(TokenLogprob, st.text(), numbers)),
)
options = st.builds(
    DecodingOptions,
    st.text(),
    st.sampled_from(Task),
    st.none() | st.text(),
    numbers,
    st.none() | st.integers(),
    st.dictionaries(st.text(), numbers),
)


def through_json(fields: Fields) -> Fields:
    decoded: Fields = json.loads(json.dumps(fields))
    return decoded


@given(transcripts)
def test_a_transcript_survives_the_journey(transcript: ClipTranscript) -> None:
    assert transcript_from_fields(through_json(transcript_to_fields(transcript))) == transcript


@given(options)
def test_decoding_options_survive_the_journey(sent: DecodingOptions) -> None:
    assert options_from_fields(through_json(options_to_fields(sent))) == sent


@given(st.lists(st.text(), max_size=4), st.integers(1, 40))
def test_messages_arrive_however_they_are_chunked(texts: list[str], size: int) -> None:
    stream = b"".join(encode(Kind.DELTA, {"id": 1, "text": text}) for text in texts)
    buffer = MessageBuffer(FRAMING)
    arrived = [
        message for start in range(0, len(stream), size) for message in buffer.feed(stream[start : start + size])
    ]
    assert arrived == [{"kind": Kind.DELTA, "id": 1, "text": text} for text in texts]


def test_a_truncated_message_does_not_arrive() -> None:
    message = encode(Kind.READY, {})
    for end in range(len(message)):
        assert list(MessageBuffer(FRAMING).feed(message[:end])) == []


@pytest.mark.parametrize("prefix", [PREFIX.pack(MAX_JSON_BYTES + 1, 0), PREFIX.pack(0, MAX_CLIP_BYTES + 1)])
def test_a_message_that_is_too_long_is_refused_before_it_arrives(prefix: bytes) -> None:
    with pytest.raises(ValueError, match="too long"):
        list(MessageBuffer(FRAMING).feed(prefix))


def test_a_message_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(ValueError, match="too long"):
        encode(Kind.TRANSCRIBE, {}, bytes(MAX_CLIP_BYTES + 1))


def test_audio_from_a_worker_is_refused() -> None:
    with pytest.raises(ValueError, match="audio"):
        list(MessageBuffer(FRAMING).feed(encode(Kind.DELTA, {}, b"pcm")))


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"kind":"run"}', b'{"kind":7}', b"\xff", b'{"kind":"ready"'])
def test_what_is_no_message_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  the words are those of json
        decode_fields(text)


@pytest.mark.parametrize("missing", ["text", "segments", "output_tokens", "prompt_tokens", "logprobs"])
def test_a_transcript_with_a_missing_part_is_refused(missing: str) -> None:
    fields = transcript_to_fields(ClipTranscript("a", (), 1))
    del fields[missing]
    with pytest.raises(KeyError):
        transcript_from_fields(fields)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_has_not_are_replaced(value: float) -> None:
    assert finite(value, -1.0) == -1.0
    assert finite(0.5, -1.0) == 0.5
