"""The engine's vocabulary: what is asked of it, what it hears, what it answers.

Times are seconds from the start of the file. Audio is 16 kHz mono, signed 16-bit little-endian PCM everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

SAMPLE_RATE_HZ = 16_000
BYTES_PER_SAMPLE = 2
WINDOW_SAMPLES = 512
"""One voice activity decision covers this many samples: 32 ms, the step of the Silero model."""

MAX_CLIP_S = 30.0
"""Whisper hears at most this much at once."""

MAX_SILENCE_DURATION_MS = 2_000
"""Longer silence inside a clip invites Whisper to invent text for it."""

MAX_PREFIX_PADDING_MS = MAX_SILENCE_DURATION_MS // 2
"""More padding, on both sides of the speech, would bring long silence back into the clip."""

MAX_FILE_BYTES = 26_214_400
"""OpenAI's limit on the file part: 25 MiB exactly are accepted, one byte more is not."""


class Task(StrEnum):
    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


class ResponseFormat(StrEnum):
    JSON = "json"
    TEXT = "text"
    SRT = "srt"
    VERBOSE_JSON = "verbose_json"
    VTT = "vtt"


class Granularity(StrEnum):
    SEGMENT = "segment"
    WORD = "word"


@dataclass(frozen=True, slots=True)
class VoiceActivity:
    """How a file is cut at pauses (OpenAI's `chunking_strategy` of type `server_vad`).

    silence_duration_ms: up to `MAX_SILENCE_DURATION_MS`. prefix_padding_ms: up to `MAX_PREFIX_PADDING_MS`.
    """

    threshold: float = 0.5
    silence_duration_ms: int = 200
    prefix_padding_ms: int = 300


@dataclass(frozen=True, slots=True)
class RawSamples:
    """What the bytes of a file without a container are: interleaved signed 16-bit samples."""

    rate_hz: int
    channels: int = 1
    big_endian: bool = False

    @property
    def frame_bytes(self) -> int:
        """One sample of every channel."""
        return BYTES_PER_SAMPLE * self.channels


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """A request for text, its fields checked; the audio travels beside it.

    model: the id of a served model, aliases resolved.
    language: Whisper code such as `en` or `yue`; None lets the engine detect it, among `languages` if any.
    prompt: earlier text that sets the style, special tokens removed; backends keep its last 224 tokens.
    temperature: 0 runs the fallback ladder, anything else decodes once at that temperature.
    vllm_stream_shape: stream events in the shape vLLM's own server uses.
    sampling: further sampling parameters by their vLLM names, already checked.
    raw_samples: what the file is, if it was sent as samples without a container.
    """

    model: str
    task: Task = Task.TRANSCRIBE
    language: str | None = None
    languages: tuple[str, ...] = ()
    prompt: str | None = None
    response_format: ResponseFormat = ResponseFormat.JSON
    temperature: float = 0.0
    granularities: frozenset[Granularity] = frozenset({Granularity.SEGMENT})
    stream: bool = False
    vllm_stream_shape: bool = False
    stream_include_usage: bool = False
    logprobs: bool = False
    voice_activity: VoiceActivity | None = field(default_factory=VoiceActivity)
    max_completion_tokens: int | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    raw_samples: RawSamples | None = None


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """Some consecutive windows of decoded audio and, for each, how likely it holds speech.

    pcm: `len(speech) * WINDOW_SAMPLES` samples; the last block of a file may end in a shorter window.
    speech: one byte a window, 0 (silence) to 255 (certainly speech).
    """

    pcm: bytes
    speech: bytes


@dataclass(frozen=True, slots=True)
class Clip:
    """A stretch of a file that a backend hears at once; at most `MAX_CLIP_S` long.

    speech: how likely each of its windows holds speech, as in `AudioBlock`; nothing where that is not known.
    """

    start_s: float
    pcm: bytes
    speech: bytes = b""

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / (BYTES_PER_SAMPLE * SAMPLE_RATE_HZ)


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    start_s: float
    end_s: float
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A timed piece of text, with the figures that OpenAI's `verbose_json` reports for it."""

    start_s: float
    end_s: float
    text: str
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 1.0
    no_speech_prob: float = 0.0
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """What a backend needs to know to turn one clip into text, at one temperature."""

    language: str
    task: Task = Task.TRANSCRIBE
    prompt: str | None = None
    temperature: float = 0.0
    word_timestamps: bool = False
    logprobs: bool = False
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
class Transcription:
    """The text of a whole file. Times count from the start of the file; segment order is time order.

    language: Whisper code of the language spoken.
    input_text_tokens, input_audio_tokens, output_tokens: for `usage`; 50 audio tokens a second.
    """

    task: Task
    language: str
    duration_s: float
    text: str
    segments: tuple[Segment, ...]
    input_text_tokens: int = 0
    input_audio_tokens: int = 0
    output_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of a transcript while it is being made; the deltas joined are the text."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestAllowance:
    """What a key has left of its rate limit.

    limit: requests a minute. remaining: requests that would be taken at once. reset_s: until all are there again.
    """

    limit: int
    remaining: int
    reset_s: float
