"""How does a live session hear?

OpenAI's `RealtimeTranscriptionSessionCreateRequestGA`, as values. They come by `engine.realtime.updates`; here is also
how they are told, in that shape and in the flat one that OpenAI gave up and older clients still speak.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from core.media.frames import Sound
from core.media.types import BYTES_PER_SAMPLE
from engine.openai.fields import parse_live
from engine.openai.models import ModelCatalogue
from engine.types import Hearing

LOGPROBS: Final = "item.input_audio_transcription.logprobs"

MIN_RATE_HZ: Final = 8_000
MAX_RATE_HZ: Final = 24_000


class Shape(StrEnum):
    """Which of the two shapes, and with it which names of events."""

    GA = "ga"
    BETA = "beta"


class Encoding(StrEnum):
    PCM = "audio/pcm"
    PCMU = "audio/pcmu"
    PCMA = "audio/pcma"


_SOUNDS: Final = {Encoding.PCM: Sound.PCM, Encoding.PCMU: Sound.PCMU, Encoding.PCMA: Sound.PCMA}
BETA_FORMATS: Final = {"pcm16": Encoding.PCM, "g711_ulaw": Encoding.PCMU, "g711_alaw": Encoding.PCMA}


@dataclass(frozen=True, slots=True)
class InputFormat:
    """What the app's audio is: one channel."""

    encoding: Encoding = Encoding.PCM
    rate_hz: int = MAX_RATE_HZ

    @property
    def sound(self) -> Sound:
        return _SOUNDS[self.encoding]

    @property
    def bytes_per_s(self) -> int:
        return self.rate_hz * (BYTES_PER_SAMPLE if self.encoding is Encoding.PCM else 1)


class Delay(StrEnum):
    """How soon text is wanted while somebody speaks."""

    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"


INTERIM_INTERVAL_S: Final[Mapping[Delay, float | None]] = {
    Delay.MINIMAL: 0.5,
    Delay.LOW: 0.75,
    Delay.MEDIUM: 1.0,
    Delay.HIGH: 2.0,
    Delay.XHIGH: None,
}
"""How much new speech there is between two looks at it; None for none before it is over."""


class Eagerness(StrEnum):
    AUTO = "auto"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class NoiseReduction(StrEnum):
    NEAR_FIELD = "near_field"
    FAR_FIELD = "far_field"


@dataclass(frozen=True, slots=True)
class ServerVad:
    """A turn ends with a silence. The members that are about answers are told as they were sent, and change nothing."""

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    create_response: bool | None = None
    interrupt_response: bool | None = None
    idle_timeout_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SemanticVad:
    """A turn ends when somebody seems to have finished: told here by a silence too, longer or shorter."""

    eagerness: Eagerness = Eagerness.AUTO
    create_response: bool | None = None
    interrupt_response: bool | None = None

    threshold: float = field(default=0.5, init=False)
    prefix_padding_ms: int = field(default=300, init=False)

    @property
    def silence_duration_ms(self) -> int:
        return {Eagerness.LOW: 800, Eagerness.HIGH: 300}.get(self.eagerness, 500)


TurnDetection: TypeAlias = ServerVad | SemanticVad


@dataclass(frozen=True, slots=True)
class Transcription:
    """What is asked of the model, as it was sent; `model` as the app calls it."""

    model: str
    language: str | None = None
    languages: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    prompt: str | None = None
    delay: Delay | None = None

    def fields(self) -> list[tuple[str, str]]:
        """The fields of a form that ask for the same."""
        singles = [("model", self.model), ("language", self.language or ""), ("prompt", self.prompt or "")]
        lists = [("languages[]", code) for code in self.languages] + [("keywords[]", word) for word in self.keywords]
        return singles + lists


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Checked. hearing: what the pipeline is asked for."""

    transcription: Transcription
    hearing: Hearing
    format: InputFormat = field(default_factory=InputFormat)
    noise_reduction: NoiseReduction | None = None
    turn_detection: TurnDetection | None = field(default_factory=ServerVad)
    logprobs: bool = False

    @property
    def interim_interval_s(self) -> float | None:
        """How often to look at what is being said; a log probability comes with a final text only."""
        return None if self.logprobs else INTERIM_INTERVAL_S[self.transcription.delay or Delay.MEDIUM]


def default_settings(models: ModelCatalogue, model: str | None = None) -> SessionSettings:
    """What a session begins with. model: the name of one; None for the first. Raises Fault(UNKNOWN)."""
    name = model or models.models[0].id
    transcription = Transcription(name)
    return SessionSettings(transcription, parse_live(transcription.fields(), models, logprobs=False))


# --- how they are told


def session_object(settings: SessionSettings, shape: Shape, *, session_id: str, expires_at: int) -> dict[str, object]:
    """The whole session, with the values in force."""
    include = [LOGPROBS] if settings.logprobs else None
    reduction = settings.noise_reduction and {"type": settings.noise_reduction.value}
    frame = {"object": "realtime.transcription_session", "id": session_id, "expires_at": expires_at}
    if shape is Shape.BETA:
        names = {encoding: name for name, encoding in BETA_FORMATS.items()}
        return {
            **frame,
            "modalities": ["text"],
            "input_audio_format": names[settings.format.encoding],
            "input_audio_transcription": _transcription_object(settings.transcription),
            "input_audio_noise_reduction": reduction,
            "turn_detection": _turn_detection_object(settings.turn_detection),
            "include": include,
        }
    heard = {
        "format": _format_object(settings.format),
        "transcription": _transcription_object(settings.transcription),
        "noise_reduction": reduction,
        "turn_detection": _turn_detection_object(settings.turn_detection),
    }
    return {"type": "transcription", **frame, "audio": {"input": heard}, "include": include}


def _format_object(form: InputFormat) -> dict[str, object]:
    rate: dict[str, object] = {"rate": form.rate_hz} if form.encoding is Encoding.PCM else {}
    return {"type": form.encoding.value, **rate}


def _transcription_object(transcription: Transcription) -> dict[str, object]:
    told: dict[str, object] = {
        "model": transcription.model,
        "language": transcription.language,
        "prompt": transcription.prompt,
    }
    more: dict[str, object] = {
        "languages": list(transcription.languages),
        "keywords": list(transcription.keywords),
        "delay": transcription.delay and transcription.delay.value,
    }
    return told | {name: value for name, value in more.items() if value}


def _turn_detection_object(detection: TurnDetection | None) -> dict[str, object] | None:
    if detection is None:
        return None
    answers = {"create_response": detection.create_response, "interrupt_response": detection.interrupt_response}
    told = {name: value for name, value in answers.items() if value is not None}
    if isinstance(detection, SemanticVad):
        return {"type": "semantic_vad", "eagerness": detection.eagerness.value, **told}
    idle = {} if detection.idle_timeout_ms is None else {"idle_timeout_ms": detection.idle_timeout_ms}
    return {
        "type": "server_vad",
        "threshold": detection.threshold,
        "prefix_padding_ms": detection.prefix_padding_ms,
        "silence_duration_ms": detection.silence_duration_ms,
        **told,
        **idle,
    }
