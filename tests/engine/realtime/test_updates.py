"""What apps send to set a session up, and what the session then says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from engine.openai.models import ModelCatalogue
from engine.realtime.refusals import Refusal
from engine.realtime.settings import (
    INTERIM_INTERVAL_S,
    Delay,
    InputFormat,
    SemanticVad,
    SessionSettings,
    Shape,
    default_settings,
    session_object,
)
from engine.realtime.updates import updated
from tests.engine.realtime.live import CATALOGUE


def update(session: object, shape: Shape = Shape.GA, models: ModelCatalogue = CATALOGUE) -> SessionSettings:
    return updated(default_settings(models), session, shape, models)


def told(settings: SessionSettings) -> Any:
    return session_object(settings, Shape.GA, session_id="sess_1", expires_at=1)


def heard(**members: object) -> dict[str, object]:
    return {"type": "transcription", "audio": {"input": members}}


PCM = {"type": "audio/pcm", "rate": 24_000}

CLIENTS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "openai-agents": (
        heard(format=PCM, transcription={"model": "whisper-1"}, turn_detection={"type": "semantic_vad"}),
        {"turn_detection": {"type": "semantic_vad", "eagerness": "auto"}},
    ),
    "LiveKit": (
        heard(
            format=PCM,
            transcription={"model": "whisper-1", "prompt": "", "language": "en"},
            turn_detection={
                "type": "server_vad",
                "threshold": 0.5,
                "prefix_padding_ms": 600,
                "silence_duration_ms": 350,
            },
        ),
        {
            "turn_detection": {
                "type": "server_vad",
                "threshold": 0.5,
                "prefix_padding_ms": 600,
                "silence_duration_ms": 350,
            }
        },
    ),
    "Pipecat": (
        heard(format=PCM, transcription={"model": "whisper-1", "language": "en"}, turn_detection=None),
        {"turn_detection": None, "transcription": {"model": "whisper-1", "language": "en", "prompt": None}},
    ),
    "Vercel": (
        heard(format=PCM, transcription={"model": "whisper-1"}, turn_detection=None) | {"include": None},
        {"turn_detection": None},
    ),
    "OpenWhispr": (
        heard(
            format={"type": "audio/pcm", "rate": 16_000},
            transcription={"model": "whisper-1"},
            turn_detection={
                "type": "server_vad",
                "threshold": 0.6,
                "prefix_padding_ms": 500,
                "silence_duration_ms": 600,
            },
        ),
        {"format": {"type": "audio/pcm", "rate": 16_000}},
    ),
    "TypeWhisper": (
        heard(
            format=PCM,
            transcription={
                "model": "whisper-1",
                "languages": ["de", "en"],
                "keywords": ["Sottovoce"],
                "delay": "low",
            },
            noise_reduction={"type": "near_field"},
            turn_detection=None,
        ),
        {
            "noise_reduction": {"type": "near_field"},
            "transcription": {
                "model": "whisper-1",
                "language": None,
                "prompt": None,
                "languages": ["de", "en"],
                "keywords": ["Sottovoce"],
                "delay": "low",
            },
        },
    ),
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.behaviour(2)
def test_what_clients_send_is_in_force(client: str) -> None:
    sent, expected = CLIENTS[client]
    settings = update(sent)
    shown = told(settings)["audio"]["input"]
    assert {name: shown[name] for name in expected} == expected
    assert settings.hearing.model == "whisper"


@pytest.mark.behaviour(3)
def test_null_sets_back_and_nothing_keeps() -> None:
    first = update(
        heard(transcription={"language": "de", "prompt": "x", "keywords": ["y"]}, format={"type": "audio/pcmu"})
    )
    second = updated(first, heard(transcription={"language": None, "prompt": None}), Shape.GA, CATALOGUE)
    third = updated(second, heard(format=None, transcription=None), Shape.GA, CATALOGUE)
    assert (second.transcription.language, second.transcription.keywords) == (None, ("y",))
    assert second.format == InputFormat(second.format.encoding, 8_000)
    assert third == default_settings(CATALOGUE)


@pytest.mark.behaviour(3)
def test_one_number_of_voice_activity_keeps_the_others() -> None:
    first = update(heard(turn_detection={"type": "server_vad", "threshold": 0.7, "prefix_padding_ms": 100}))
    second = updated(first, heard(turn_detection={"silence_duration_ms": 900}), Shape.GA, CATALOGUE)
    shown = told(second)["audio"]["input"]["turn_detection"]
    assert (shown["threshold"], shown["prefix_padding_ms"], shown["silence_duration_ms"]) == (0.7, 100, 900)


def test_members_that_nobody_defines_are_passed_over() -> None:
    assert update(heard(turn_detection=None) | {"instructions": "x", "tools": []}).turn_detection is None


def test_log_probabilities_are_asked_for_by_name() -> None:
    asked = heard() | {"include": ["item.input_audio_transcription.logprobs"]}
    assert told(update(asked))["include"] == asked["include"]
    assert update(asked).interim_interval_s is None
    assert told(updated(update(asked), heard() | {"include": None}, Shape.GA, CATALOGUE))["include"] is None


@pytest.mark.parametrize("delay", Delay)
def test_a_delay_is_an_interval_between_looks(delay: Delay) -> None:
    assert update(heard(transcription={"delay": delay.value})).interim_interval_s == INTERIM_INTERVAL_S[delay]


def test_empty_and_automatic_languages_are_detected() -> None:
    for language in ("", "auto", None):
        assert update(heard(transcription={"language": language})).hearing.language is None


def test_eagerness_is_a_silence() -> None:
    lengths = [
        SemanticVad(eagerness).silence_duration_ms
        for eagerness in (SemanticVad().eagerness, *map(type(SemanticVad().eagerness), ("low", "medium", "high")))
    ]
    assert lengths == [500, 800, 500, 300]


DETECTION = "session.audio.input.turn_detection"
TRANSCRIPTION = "session.audio.input.transcription"

REFUSED = [
    (heard(turn_detection={"threshold": 1.1}), "invalid_value", f"{DETECTION}.threshold"),
    (heard(turn_detection={"threshold": -0.1}), "invalid_value", f"{DETECTION}.threshold"),
    (heard(turn_detection={"threshold": "0.5"}), "invalid_type", f"{DETECTION}.threshold"),
    (heard(turn_detection={"threshold": True}), "invalid_type", f"{DETECTION}.threshold"),
    (heard(turn_detection={"prefix_padding_ms": -1}), "invalid_value", f"{DETECTION}.prefix_padding_ms"),
    (heard(turn_detection={"prefix_padding_ms": 5_001}), "invalid_value", f"{DETECTION}.prefix_padding_ms"),
    (heard(turn_detection={"silence_duration_ms": 10_001}), "invalid_value", f"{DETECTION}.silence_duration_ms"),
    (heard(turn_detection={"silence_duration_ms": 1.5}), "invalid_type", f"{DETECTION}.silence_duration_ms"),
    (heard(turn_detection={"idle_timeout_ms": 4_999}), "invalid_value", f"{DETECTION}.idle_timeout_ms"),
    (heard(turn_detection={"create_response": 1}), "invalid_type", f"{DETECTION}.create_response"),
    (heard(turn_detection={"type": "psychic"}), "invalid_value", f"{DETECTION}.type"),
    (heard(turn_detection={"type": "semantic_vad", "eagerness": "very"}), "invalid_value", f"{DETECTION}.eagerness"),
    (heard(turn_detection="server_vad"), "invalid_type", DETECTION),
    (heard(transcription={"model": "nobody"}), "model_not_found", f"{TRANSCRIPTION}.model"),
    (heard(transcription={"model": 7}), "invalid_type", f"{TRANSCRIPTION}.model"),
    (heard(transcription={"language": "xx"}), "invalid_language", f"{TRANSCRIPTION}.language"),
    (heard(transcription={"model": "other", "language": "de"}), "invalid_language", f"{TRANSCRIPTION}.language"),
    (heard(transcription={"languages": ["de", "xx"]}), "invalid_language", f"{TRANSCRIPTION}.languages"),
    (heard(transcription={"languages": "de"}), "invalid_type", f"{TRANSCRIPTION}.languages"),
    (heard(transcription={"keywords": [1]}), "invalid_type", f"{TRANSCRIPTION}.keywords"),
    (heard(transcription={"keywords": ["x"] * 1_001}), "invalid_value", f"{TRANSCRIPTION}.keywords"),
    (heard(transcription={"prompt": "x" * 32_769}), "invalid_value", f"{TRANSCRIPTION}.prompt"),
    (heard(transcription={"delay": "never"}), "invalid_value", f"{TRANSCRIPTION}.delay"),
    (heard(format={"type": "audio/mp3"}), "invalid_value", "session.audio.input.format.type"),
    (heard(format={}), "missing_required_parameter", "session.audio.input.format.type"),
    (heard(format={"type": "audio/pcm", "rate": 48_000}), "invalid_value", "session.audio.input.format.rate"),
    (heard(format={"type": "audio/pcm", "rate": 7_999}), "invalid_value", "session.audio.input.format.rate"),
    (heard(format={"type": "audio/pcmu", "rate": 16_000}), "invalid_value", "session.audio.input.format.rate"),
    (heard(noise_reduction={"type": "none"}), "invalid_value", "session.audio.input.noise_reduction.type"),
    (heard() | {"include": ["everything"]}, "invalid_value", "session.include"),
    (heard() | {"include": "everything"}, "invalid_type", "session.include"),
    ({"type": "transcription", "audio": 7}, "invalid_type", "session.audio"),
]


@pytest.mark.parametrize(("session", "code", "param"), REFUSED)
@pytest.mark.behaviour(24)
def test_what_cannot_be_is_refused_by_its_place(session: dict[str, object], code: str, param: str) -> None:
    with pytest.raises(Refusal) as refused:
        update(session)
    assert (refused.value.code, refused.value.param) == (code, param)


BETA_REFUSED = [
    ({"input_audio_format": "mp3"}, "session.input_audio_format"),
    ({"input_audio_transcription": {"model": 7}}, "session.input_audio_transcription.model"),
    ({"input_audio_transcription": {"language": "xx"}}, "session.input_audio_transcription.language"),
    ({"turn_detection": {"threshold": 2}}, "session.turn_detection.threshold"),
]


@pytest.mark.parametrize(("session", "param"), BETA_REFUSED)
def test_in_the_older_shape_places_are_the_older_ones(session: dict[str, object], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        update(session, Shape.BETA)
    assert refused.value.param == param


@pytest.mark.parametrize(("name", "rate_hz"), [("pcm16", 24_000), ("g711_ulaw", 8_000), ("g711_alaw", 8_000)])
def test_the_older_shape_says_the_same(name: str, rate_hz: int) -> None:
    settings = update(
        {
            "input_audio_format": name,
            "input_audio_transcription": {"model": "whisper-1", "language": "de", "prompt": "x"},
            "input_audio_noise_reduction": {"type": "far_field"},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 700},
            "include": ["item.input_audio_transcription.logprobs"],
        },
        Shape.BETA,
    )
    assert settings.format.rate_hz == rate_hz
    assert settings.hearing.language == "de"
    shown = session_object(settings, Shape.BETA, session_id="sess_1", expires_at=1)
    assert shown["input_audio_format"] == name
    assert shown["input_audio_noise_reduction"] == {"type": "far_field"}
    assert shown["modalities"] == ["text"]
