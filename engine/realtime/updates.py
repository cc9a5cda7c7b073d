"""What may an app change of a session's settings? Two shapes of an update, one effect.

::

    session.update                 {"type":"transcription","audio":{"input":{"format","transcription",
                                    "noise_reduction","turn_detection"}},"include"}
    transcription_session.update   {"input_audio_format","input_audio_transcription","input_audio_noise_reduction",
                                    "turn_detection","include"}

What is not sent keeps its value, `null` sets back what it names, and members that no API defines are passed over. What
the model is asked for is read by the same rows as a form's fields (`engine.openai.fields`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any, Final, TypeAlias, TypeVar

from core.transcript.faults import Fault
from engine.openai.fields import parse_live
from engine.openai.models import ModelCatalogue
from engine.realtime.refusals import (
    OTHER_KIND_OF_SESSION,
    Refusal,
    invalid_type,
    invalid_value,
    missing,
    of_fault,
    unsupported_choice,
)
from engine.realtime.settings import (
    BETA_FORMATS,
    LOGPROBS,
    MAX_RATE_HZ,
    MIN_RATE_HZ,
    Delay,
    Eagerness,
    Encoding,
    InputFormat,
    NoiseReduction,
    SemanticVad,
    ServerVad,
    SessionSettings,
    Shape,
    Transcription,
    TurnDetection,
)

Members: TypeAlias = Mapping[str, Any]
"""A JSON object."""

E = TypeVar("E", bound=StrEnum)

MAX_SILENCE_MS: Final = 10_000
MAX_PREFIX_MS: Final = 5_000
MAX_WORDS: Final = 1_000
MAX_TEXT_CHARS: Final = 32_768


def updated(settings: SessionSettings, session: object, shape: Shape, models: ModelCatalogue) -> SessionSettings:
    """The settings after an update. session: of the event. Raises Refusal, and then nothing is changed."""
    reader = _Reader(models, settings)
    return (
        reader.flat(_object(session, "session")) if shape is Shape.BETA else reader.nested(_object(session, "session"))
    )


class _Reader:
    def __init__(self, models: ModelCatalogue, settings: SessionSettings) -> None:
        self._models = models
        self._old = settings
        self._inside = "session"

    def nested(self, session: Members) -> SessionSettings:
        kind = session.get("type")
        if kind is None:
            raise missing("session.type")
        if kind == "realtime":
            raise OTHER_KIND_OF_SESSION
        if kind != "transcription":
            raise unsupported_choice("session.type", ("transcription",))
        audio = _object(session.get("audio") or {}, "session.audio")
        given = _object(audio.get("input") or {}, "session.audio.input")
        self._inside = "session.audio.input"
        new = self._changed(given, _GA_NAMES)
        if "format" in given:
            new = replace(new, format=_format(given["format"], f"{self._inside}.format"))
        return self._asked(new, session)

    def flat(self, session: Members) -> SessionSettings:
        new = self._changed(session, _BETA_NAMES)
        if (name := session.get("input_audio_format")) is not None:
            if not isinstance(name, str) or name not in BETA_FORMATS:
                raise unsupported_choice("session.input_audio_format", tuple(BETA_FORMATS))
            encoding = BETA_FORMATS[name]
            new = replace(new, format=InputFormat(encoding, MAX_RATE_HZ if encoding is Encoding.PCM else MIN_RATE_HZ))
        return self._asked(new, session)

    def _changed(self, given: Members, names: Mapping[str, str]) -> SessionSettings:
        new = self._old
        transcription, reduction, detection = (names[name] for name in ("transcription", "noise_reduction", "turns"))
        if transcription in given:
            place = f"{self._inside}.{transcription}"
            new = replace(new, transcription=self._transcription(given[transcription], place))
        if reduction in given:
            new = replace(new, noise_reduction=_noise_reduction(given[reduction], f"{self._inside}.{reduction}"))
        if detection in given:
            new = replace(
                new,
                turn_detection=_turn_detection(
                    given[detection], self._old.turn_detection, f"{self._inside}.{detection}"
                ),
            )
        return new

    def _transcription(self, given: object, place: str) -> Transcription:
        if given is None:
            return Transcription(self._models.models[0].id)
        members, old = _object(given, place), self._old.transcription
        language = _text(members, "language", place, old.language)
        return Transcription(
            model=_text(members, "model", place, old.model) or self._models.models[0].id,
            language=None if language == "auto" else language or None,
            languages=_texts(members, "languages", place, old.languages),
            keywords=_texts(members, "keywords", place, old.keywords),
            prompt=_text(members, "prompt", place, old.prompt) or None,
            delay=_choice(members, "delay", place, old.delay, Delay),
        )

    def _asked(self, new: SessionSettings, session: Members) -> SessionSettings:
        """What the settings come to for the model, which may not know all of it."""
        logprobs = _logprobs(session["include"]) if "include" in session else new.logprobs
        place = "session.input_audio_transcription" if self._inside == "session" else f"{self._inside}.transcription"
        try:
            hearing = parse_live(new.transcription.fields(), self._models, logprobs=logprobs)
        except Fault as fault:
            raise _blamed(fault, place) from None
        return replace(new, logprobs=logprobs, hearing=hearing)


_GA_NAMES: Final = {"transcription": "transcription", "noise_reduction": "noise_reduction", "turns": "turn_detection"}
_BETA_NAMES: Final = {
    "transcription": "input_audio_transcription",
    "noise_reduction": "input_audio_noise_reduction",
    "turns": "turn_detection",
}


def _blamed(fault: Fault, place: str) -> Refusal:
    refusal = of_fault(fault, place)
    if refusal.param == f"{place}.include":
        refusal.param = "session.include"
    return refusal


def _object(value: object, place: str) -> Members:
    if not isinstance(value, dict):
        raise invalid_type(place, "an object")
    return value


def _text(members: Members, name: str, place: str, old: str | None) -> str | None:
    value = members.get(name, old)
    if value is not None and not isinstance(value, str):
        raise invalid_type(f"{place}.{name}", "a string")
    if value is not None and len(value) > MAX_TEXT_CHARS:
        raise invalid_value(f"{place}.{name}", f"at most {MAX_TEXT_CHARS} characters")
    return value


def _texts(members: Members, name: str, place: str, old: tuple[str, ...]) -> tuple[str, ...]:
    value = members.get(name, old)
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
        raise invalid_type(f"{place}.{name}", "an array of strings")
    if len(value) > MAX_WORDS or sum(map(len, value)) > MAX_TEXT_CHARS:
        raise invalid_value(f"{place}.{name}", f"at most {MAX_WORDS} strings of {MAX_TEXT_CHARS} characters together")
    return tuple(value)


def _choice(members: Members, name: str, place: str, old: E | None, kind: type[E]) -> E | None:
    value = members.get(name, old)
    if value is None:
        return None
    if not isinstance(value, str) or value not in tuple(kind):
        raise unsupported_choice(f"{place}.{name}", tuple(kind))
    return kind(value)


def _flag(members: Members, name: str, place: str, old: bool | None) -> bool | None:
    value = members.get(name, old)
    if value is not None and not isinstance(value, bool):
        raise invalid_type(f"{place}.{name}", "a boolean")
    return value


def _whole(members: Members, name: str, place: str, old: int | None, allowed: tuple[int, int]) -> int | None:
    low, high = allowed
    value = members.get(name, old)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid_type(f"{place}.{name}", "an integer")
    if not low <= value <= high:
        raise invalid_value(f"{place}.{name}", f"an integer from {low} to {high}")
    return value


def _format(given: object, place: str) -> InputFormat:
    if given is None:
        return InputFormat()
    members = _object(given, place)
    encoding = _choice(members, "type", place, None, Encoding)
    if encoding is None:
        raise missing(f"{place}.type")
    if encoding is not Encoding.PCM:
        _whole(members, "rate", place, MIN_RATE_HZ, (MIN_RATE_HZ, MIN_RATE_HZ))
        return InputFormat(encoding, MIN_RATE_HZ)
    rate_hz = _whole(members, "rate", place, MAX_RATE_HZ, (MIN_RATE_HZ, MAX_RATE_HZ))
    return InputFormat(encoding, rate_hz or MAX_RATE_HZ)


def _noise_reduction(given: object, place: str) -> NoiseReduction | None:
    if given is None:
        return None
    return _choice(_object(given, place), "type", place, None, NoiseReduction)


def _turn_detection(given: object, old: TurnDetection | None, place: str) -> TurnDetection | None:
    if given is None:
        return None
    members = _object(given, place)
    usual = "semantic_vad" if isinstance(old, SemanticVad) else "server_vad"
    match members.get("type", usual):
        case "server_vad":
            return _server_vad(members, old if isinstance(old, ServerVad) else ServerVad(), place)
        case "semantic_vad":
            vad = old if isinstance(old, SemanticVad) else SemanticVad()
            return SemanticVad(
                eagerness=_choice(members, "eagerness", place, vad.eagerness, Eagerness) or Eagerness.AUTO,
                create_response=_flag(members, "create_response", place, vad.create_response),
                interrupt_response=_flag(members, "interrupt_response", place, vad.interrupt_response),
            )
        case _:
            raise unsupported_choice(f"{place}.type", ("server_vad", "semantic_vad"))


def _server_vad(members: Members, old: ServerVad, place: str) -> ServerVad:
    usual = ServerVad()
    threshold = members.get("threshold", old.threshold)
    if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int | float)):
        raise invalid_type(f"{place}.threshold", "a number")
    if threshold is not None and not 0 <= threshold <= 1:
        raise invalid_value(f"{place}.threshold", "a number from 0 to 1")
    padding = _whole(members, "prefix_padding_ms", place, old.prefix_padding_ms, (0, MAX_PREFIX_MS))
    silence = _whole(members, "silence_duration_ms", place, old.silence_duration_ms, (0, MAX_SILENCE_MS))
    return ServerVad(
        threshold=usual.threshold if threshold is None else float(threshold),
        prefix_padding_ms=usual.prefix_padding_ms if padding is None else padding,
        silence_duration_ms=usual.silence_duration_ms if silence is None else silence,
        create_response=_flag(members, "create_response", place, old.create_response),
        interrupt_response=_flag(members, "interrupt_response", place, old.interrupt_response),
        idle_timeout_ms=_whole(members, "idle_timeout_ms", place, old.idle_timeout_ms, (5_000, 30_000)),
    )


def _logprobs(include: object) -> bool:
    if include is None:
        return False
    if not isinstance(include, list):
        raise invalid_type("session.include", "an array of strings")
    if any(value != LOGPROBS for value in include):
        raise unsupported_choice("session.include", (LOGPROBS,))
    return bool(include)
