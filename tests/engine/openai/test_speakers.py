"""What a form says of speakers, and how they are written down."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.audio import TranscriptionDiarized

from core.transcript.faults import Fault
from core.transcript.types import Segment, Speaker, Task, Transcript, Voice, Word
from engine.openai.errors import ErrorCode, code_of
from engine.openai.events import event_stream
from engine.openai.fields import ParsedRequest, parse_transcription, parse_translation
from engine.openai.formats import diarized_segments, render
from engine.openai.models import ModelCatalogue, ServedModel
from engine.openai.multipart import RECORDINGS, Limits
from engine.openai.rendering import Granularity, Rendering, ResponseFormat
from engine.openai.speakers import MAX_NAME_CHARS, REFERENCES
from engine.openai.subjects import param_of
from engine.speech.speakers import ToldBy
from engine.types import MAX_SPEAKERS, Detail, Hearing, KnownSpeaker, SpeakerWish
from tests.engine.openai.forms import CATALOGUE, CHANNELS, VOICES, body, field, file, form, read

DIARIZED = ("response_format", "diarized_json")
URL = "data:audio/wav;base64," + base64.b64encode(b"RIFF").decode()


def parsed(*pairs: tuple[str, str], models: ModelCatalogue = VOICES) -> ParsedRequest:
    return parse_transcription(form(*pairs), models)


def wish(*pairs: tuple[str, str], models: ModelCatalogue = VOICES) -> SpeakerWish | None:
    return parsed(*pairs, models=models).hearing.speakers


def refused(*pairs: tuple[str, str], models: ModelCatalogue = VOICES, translate: bool = False) -> tuple[str, str]:
    with pytest.raises(Fault) as caught:
        (parse_translation if translate else parse_transcription)(form(*pairs), models)
    return code_of(caught.value), param_of(caught.value) or ""


# --- what is asked for


def test_who_asks_for_diarized_json_asks_who_speaks_and_for_the_words_it_is_cut_by() -> None:
    hearing = parsed(DIARIZED).hearing
    assert (hearing.speakers, hearing.details) == (SpeakerWish(1, MAX_SPEAKERS, ()), frozenset({Detail.WORDS}))


def test_a_model_that_times_no_words_tells_speakers_of_whole_segments() -> None:
    plain = ModelCatalogue((ServedModel("plain", 0, details=frozenset(), speakers=ToldBy.VOICES),))
    assert parsed(DIARIZED, models=plain).hearing.details == frozenset()


def test_nobody_else_asks() -> None:
    for kind in ResponseFormat:
        if kind is not ResponseFormat.DIARIZED_JSON:
            assert wish(("response_format", kind.value)) is None
    assert parsed(("response_format", "verbose_json")).hearing.details == frozenset()


@pytest.mark.parametrize("name", ["diarize", "diarization", "speaker_labels"])
def test_speakers_may_be_asked_for_in_verbose_json(name: str) -> None:
    assert wish(("response_format", "verbose_json"), (name, "true")) == SpeakerWish()
    assert wish(("response_format", "verbose_json"), (name, "false")) is None
    assert refused((name, "true")) == (ErrorCode.INVALID_VALUE, "diarize")
    assert refused((name, "true"), ("response_format", "srt")) == (ErrorCode.INVALID_VALUE, "diarize")


@pytest.mark.parametrize(
    ("pairs", "bounds"),
    [
        ((("min_speakers", "2"),), (2, MAX_SPEAKERS)),
        ((("max_speakers", "3"),), (1, 3)),
        ((("min_speakers", "2"), ("max_speakers", "2")), (2, 2)),
        ((("num_speakers", "4"),), (4, 4)),
        ((("num_speakers", "0"), ("min_speakers", "0")), (1, MAX_SPEAKERS)),
    ],
)
def test_how_many_speakers_there_are_may_be_told(pairs: tuple[tuple[str, str], ...], bounds: tuple[int, int]) -> None:
    asked = wish(DIARIZED, *pairs)
    assert asked
    assert (asked.least, asked.most) == bounds


@pytest.mark.parametrize(
    "pairs", [(("min_speakers", "3"), ("max_speakers", "2")), (("min_speakers", "3"), ("num_speakers", "2"))][:1]
)
def test_fewer_than_the_least_are_refused(pairs: tuple[tuple[str, str], ...]) -> None:
    assert refused(DIARIZED, *pairs) == (ErrorCode.INVALID_VALUE, "min_speakers")


@pytest.mark.parametrize("chunking", [(), (("chunking_strategy", "auto"),)])
def test_a_chunking_strategy_may_be_sent_as_openai_asks_of_longer_audio(chunking: tuple[tuple[str, str], ...]) -> None:
    assert wish(DIARIZED, *chunking) == SpeakerWish()


def test_a_translation_does_not_tell_speakers_apart() -> None:
    assert refused(DIARIZED, translate=True) == (ErrorCode.UNSUPPORTED_VALUE, "response_format")
    verbose = ("response_format", "verbose_json")
    assert refused(verbose, ("diarize", "true"), translate=True) == (ErrorCode.UNSUPPORTED_VALUE, "diarize")


def test_without_anything_that_tells_speakers_apart_all_of_it_is_refused_by_name() -> None:
    assert refused(DIARIZED, models=CATALOGUE) == (ErrorCode.UNSUPPORTED_VALUE, "response_format")
    for name in ("diarize", "known_speaker_names[]", "known_speaker_references[]", "min_speakers"):
        param = name.removesuffix("[]")
        assert refused((name, "1"), models=CATALOGUE) == (ErrorCode.UNSUPPORTED_PARAMETER, param)


def test_channels_have_no_voices_that_could_be_known() -> None:
    assert wish(DIARIZED, models=CHANNELS) == SpeakerWish()
    for name in ("known_speaker_names", "known_speaker_references"):
        assert refused(DIARIZED, (f"{name}[]", "x"), models=CHANNELS) == (ErrorCode.UNSUPPORTED_PARAMETER, name)


def test_a_stream_of_vllms_shape_has_no_place_for_speakers() -> None:
    stream = ("stream", "true")
    assert refused(DIARIZED, stream, ("stream_include_usage", "true")) == (ErrorCode.UNSUPPORTED_VALUE, "stream")


EMBEDDINGS = ("include[]", "speaker_embeddings")
VERBOSE = ("response_format", "verbose_json")


@pytest.mark.parametrize("pairs", [(DIARIZED,), (VERBOSE, ("diarize", "true"))])
def test_voices_are_told_only_to_who_asks_for_them_by_name(pairs: tuple[tuple[str, str], ...]) -> None:
    asked = parsed(*pairs, EMBEDDINGS)
    assert (asked.hearing.speakers, asked.rendering.voices) == (SpeakerWish(voices=True), True)
    plain = parsed(*pairs)
    assert (plain.hearing.speakers, plain.rendering.voices) == (SpeakerWish(), False)


def test_voices_need_an_answer_with_speakers_and_an_engine_that_knows_voices() -> None:
    for pairs in ((), (VERBOSE,), (VERBOSE, ("diarize", "false")), (("response_format", "srt"),)):
        assert refused(*pairs, EMBEDDINGS) == (ErrorCode.UNSUPPORTED_VALUE, "include")
    assert refused(DIARIZED, EMBEDDINGS, models=CHANNELS) == (ErrorCode.UNSUPPORTED_VALUE, "include")
    assert refused(EMBEDDINGS, models=CATALOGUE) == (ErrorCode.UNSUPPORTED_VALUE, "include")
    assert refused(DIARIZED, EMBEDDINGS, models=CATALOGUE) == (ErrorCode.UNSUPPORTED_VALUE, "response_format")


# --- who is known


def known(*names: str, urls: int | None = None) -> list[tuple[str, str]]:
    pairs = [("known_speaker_names[]", name) for name in names]
    return [*pairs, *[("known_speaker_references[]", URL)] * (len(names) if urls is None else urls)]


def test_known_speakers_are_read_in_their_order() -> None:
    asked = wish(DIARIZED, *known("Zoë", "Ada", "Bo", "Cy", "Di"))
    assert asked
    assert asked.known == tuple(KnownSpeaker(name, b"RIFF") for name in ("Zoë", "Ada", "Bo", "Cy", "Di"))
    assert "RIFF" not in repr(asked)


@pytest.mark.parametrize(
    "pairs",
    [
        known("Ada", "Bo", urls=1),
        known("Ada", urls=2),
        known("Ada", urls=0),
        known(urls=1),
        known("Ada", "Ada"),
        known("A" * (MAX_NAME_CHARS + 1)),
        known("A\nB"),
        known("\x00"),
        known(*map(str, range(MAX_SPEAKERS + 1))),
    ],
    ids=range(9),
)
def test_names_that_are_not_as_many_as_recordings_or_odd_are_refused(pairs: list[tuple[str, str]]) -> None:
    assert refused(DIARIZED, *pairs) == (ErrorCode.INVALID_VALUE, "known_speaker_names")


def test_names_need_an_answer_that_has_a_place_for_them() -> None:
    assert refused(*known("Ada")) == (ErrorCode.INVALID_VALUE, "known_speaker_names")


@pytest.mark.parametrize(
    "url",
    [
        *("x", "https://example.com/a.wav", "data:audio/wav,RIFF", "data:audio/wav;base64,", "data:;base64,@@@@"),
        *("data:audio/wav;base64,UklG Rg==", "data:audio/wav;base64,UklGR", "Data:audio/wav;base64,UklGRg=="),
    ],
)
def test_a_reference_that_is_no_data_url_is_refused(url: str) -> None:
    pairs = [("known_speaker_names[]", "Ada"), ("known_speaker_references[]", url)]
    assert refused(DIARIZED, *pairs) == (ErrorCode.INVALID_VALUE, "known_speaker_references")


@given(st.binary(min_size=1))
def test_a_data_url_is_read_to_its_bytes(recording: bytes) -> None:
    url = "data:audio/mpeg;base64," + base64.b64encode(recording).decode()
    asked = wish(DIARIZED, ("known_speaker_names[]", "Ada"), ("known_speaker_references[]", url))
    assert asked
    assert asked.known == (KnownSpeaker("Ada", recording),)


def test_a_form_may_hold_longer_recordings_than_texts() -> None:
    assert REFERENCES.name == RECORDINGS
    long = "x" * (Limits().fields_bytes + 1)
    whole = read(body(file(), *[field("known_speaker_references[]", long)] * 3))
    assert len(whole.fields) == 3
    with pytest.raises(Fault):
        read(body(file(), field("known_speaker_references", "x" * (Limits().recording_bytes + 1))))
    with pytest.raises(Fault):
        read(body(file(), field("known_speaker_name", long)))


# --- how they are written down

CALL = Transcript(
    Task.TRANSCRIBE,
    "en",
    27.4,
    "Hello. Hi, it is Bo.",
    (
        Segment(0.0, 1.5, " Hello.", words=(Word(" Hello.", 0.0, 1.5, speaker=0),), speaker=0),
        Segment(1.5, 1.6, " ", speaker=0),
        Segment(2.0, 4.0, " Hi, it is Bo.", words=(Word(" Hi,", 2.0, 2.5, speaker=1),), speaker=1),
    ),
    speakers=(Speaker(), Speaker("Bo")),
)


def test_diarized_json_is_openais_to_the_letter() -> None:
    rendered = render(CALL, Rendering(ResponseFormat.DIARIZED_JSON, speakers=True))
    assert json.loads(rendered.body) == {
        "task": "transcribe",
        "duration": 27.4,
        "text": "Hello. Hi, it is Bo.",
        "segments": [
            {
                "type": "transcript.text.segment",
                "id": "seg_001",
                "start": 0.0,
                "end": 1.5,
                "text": "Hello.",
                "speaker": "A",
            },
            {
                "type": "transcript.text.segment",
                "id": "seg_002",
                "start": 2.0,
                "end": 4.0,
                "text": "Hi, it is Bo.",
                "speaker": "Bo",
            },
        ],
        "usage": {"type": "duration", "seconds": 28},
    }
    assert rendered.content_type == "application/json"
    assert TranscriptionDiarized.model_validate_json(rendered.body, strict=True).segments[1].speaker == "Bo"


def test_verbose_json_tells_speakers_only_to_who_asked() -> None:
    both = frozenset(Granularity)
    asked = json.loads(render(CALL, Rendering(ResponseFormat.VERBOSE_JSON, both, speakers=True)).body)
    assert [one["speaker"] for one in asked["segments"]] == ["A", "Bo"]
    assert [one["speaker"] for one in asked["words"]] == ["A", "Bo"]
    assert "speaker" not in render(CALL, Rendering(ResponseFormat.VERBOSE_JSON, both)).body.decode()


VOICE = Voice((0.6, 0.8), 0.7, "basic:ab")
HEARD = replace(CALL, speakers=(Speaker(None, 1.5, VOICE), Speaker("Bo", 2.0)))
ENTRIES = [
    {"speaker": "A", "known": False, "seconds": 1.5, "embedding": [0.6, 0.8], "model": "basic:ab", "same": 0.7},
    {"speaker": "Bo", "known": True, "seconds": 2.0, "embedding": None, "model": None, "same": None},
]


@pytest.mark.parametrize("kind", [ResponseFormat.DIARIZED_JSON, ResponseFormat.VERBOSE_JSON])
def test_each_speaker_has_one_embedding_in_an_answer_that_includes_them(kind: ResponseFormat) -> None:
    asked = Rendering(kind, speakers=True, voices=True)
    assert json.loads(render(HEARD, asked).body)["speaker_embeddings"] == ENTRIES
    assert json.loads(render(replace(HEARD, segments=(), speakers=()), asked).body)["speaker_embeddings"] == []
    assert b"embedding" not in render(HEARD, replace(asked, voices=False)).body


def test_a_stream_ends_with_the_embeddings_that_were_asked_for() -> None:
    asked = Rendering(ResponseFormat.DIARIZED_JSON, speakers=True, stream=True, voices=True)
    for rendering, told in ((asked, ENTRIES), (replace(asked, voices=False), None)):
        events = event_stream(Hearing("m"), rendering, request_id="r", created=0).done(HEARD).decode().split("\n\n")
        done = json.loads(events[-3].removeprefix("data: "))
        assert (done["type"], done.get("speaker_embeddings")) == ("transcript.text.done", told)


def test_a_stream_of_speakers_byte_for_byte() -> None:
    shape = event_stream(
        Hearing("m"), Rendering(ResponseFormat.DIARIZED_JSON, speakers=True), request_id="r", created=0
    )
    events = shape.done(replace(CALL, segments=CALL.segments[2:], speakers=(Speaker(), Speaker("Bo"))))
    lines = events.decode().split("\n\n")
    assert lines[:2] == [
        'data: {"type":"transcript.text.delta","delta":"Hi, it is Bo.","segment_id":"seg_001"}',
        "data: " + json.dumps(diarized_segments(CALL)[1] | {"id": "seg_001"}, separators=(",", ":")),
    ]
    assert json.loads(lines[2].removeprefix("data: "))["type"] == "transcript.text.done"
    assert lines[3:] == ["data: [DONE]", ""]
