"""The engine's vocabulary beside `core.transcript` and `core.media`: what is asked of it, and how a clip is heard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count

from core.media.types import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ, RawSamples
from core.transcript.types import Segment, Task, TokenLogprob

MAX_CLIP_S = 30.0
"""Whisper hears at most this much at once."""

MAX_CLIP_BYTES = int(MAX_CLIP_S * SAMPLE_RATE_HZ) * BYTES_PER_SAMPLE

MAX_SILENCE_DURATION_MS = 2_000
"""A longer silence is no pause between two sentences of a clip."""

MAX_PREFIX_PADDING_MS = MAX_SILENCE_DURATION_MS // 2
"""More padding, on both sides of the speech, would bring back a silence of that length."""


class OpenAIName(StrEnum):
    """The models of OpenAI's whose names clients have hard-coded; how each answered: `engine.openai.names`."""

    WHISPER_1 = "whisper-1"
    GPT_4O = "gpt-4o-transcribe"
    GPT_4O_MINI = "gpt-4o-mini-transcribe"
    GPT_4O_DIARIZE = "gpt-4o-transcribe-diarize"
    GPT = "gpt-transcribe"


class Detail(StrEnum):
    """What a second look may add to a transcript."""

    WORDS = "words"
    """The times of words."""
    LOGPROBS = "logprobs"
    """How likely each token is."""


@dataclass(frozen=True, slots=True)
class VoiceActivity:
    """How a file is cut at pauses (OpenAI's `chunking_strategy` of type `server_vad`).

    silence_duration_ms: up to `MAX_SILENCE_DURATION_MS`. prefix_padding_ms: up to `MAX_PREFIX_PADDING_MS`.
    """

    threshold: float = 0.5
    silence_duration_ms: int = 200
    prefix_padding_ms: int = 300


MAX_SPEAKERS = 20
"""More are not told apart: what would be counted as further people is noise, echo and one person's moods."""


@dataclass(frozen=True, slots=True)
class KnownSpeaker:
    """Somebody whom the caller can name. recording: a file of any accepted format in which they alone speak."""

    name: str
    recording: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SpeakerWish:
    """That speakers are told apart. least, most: how many there are, as far as the caller knows.

    voices: whether it is told what the voice of each is like.
    """

    least: int = 1
    most: int = MAX_SPEAKERS
    known: tuple[KnownSpeaker, ...] = ()
    voices: bool = False


@dataclass(frozen=True, slots=True)
class Hearing:
    """What a file is to be heard for, whatever API asked; the audio travels beside it.

    model: the id of a served model, aliases resolved.
    language: Whisper code such as `en` or `yue`; None lets the engine detect it, among `languages` if any.
    prompt: earlier text that sets the style, special tokens removed; backends keep its last 224 tokens.
    temperature: 0 runs the fallback ladder, anything else decodes once at that temperature.
    details: what is wanted beside the text.
    max_tokens: of each clip. sampling: further sampling parameters by their vLLM names, already checked.
    raw_samples: what the file is, if it was sent as samples without a container.
    speakers: None where nobody asks who speaks.
    """

    model: str
    task: Task = Task.TRANSCRIBE
    language: str | None = None
    languages: tuple[str, ...] = ()
    prompt: str | None = None
    temperature: float = 0.0
    details: frozenset[Detail] = frozenset()
    voice_activity: VoiceActivity | None = field(default_factory=VoiceActivity)
    max_tokens: int | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    raw_samples: RawSamples | None = None
    speakers: SpeakerWish | None = None


@dataclass(frozen=True, slots=True)
class Clip:
    """A stretch of a file that a backend hears at once; at most `MAX_CLIP_S` long.

    speech: how likely each of its windows holds speech, as in `AudioBlock`; nothing where that is not known.
    number: by which a backend knows it again; another file's clip has another, whatever is heard in it.
    """

    start_s: float
    pcm: bytes
    speech: bytes = b""
    number: int = field(default_factory=count(1).__next__, compare=False, repr=False)

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / (BYTES_PER_SAMPLE * SAMPLE_RATE_HZ)


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """What a backend needs to know to turn one clip into text, at one temperature."""

    language: str
    task: Task = Task.TRANSCRIBE
    prompt: str | None = None
    temperature: float = 0.0
    max_tokens: int | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClipTranscript:
    """What a backend heard in one clip. Times count from the start of the clip."""

    text: str
    segments: tuple[Segment, ...]
    output_tokens: int
    prompt_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of a transcript while it is being made; the deltas joined are the text."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
