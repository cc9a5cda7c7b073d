"""What was said, when, and by which words. Times are seconds from the start of the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from operator import mul


class Task(StrEnum):
    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    start_s: float
    end_s: float
    probability: float | None = None
    speaker: int | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Voice:
    """What a voice is like, as a model says: numbers of length 1 that are near to those of the same person.

    It is biometric, and shown nowhere. same: how alike two of the same person are, at least. model: whose numbers they
    are, its kind and the digest of its files; those of another model say nothing beside them.
    """

    values: tuple[float, ...] = field(repr=False)
    same: float
    model: str

    def likeness(self, other: Voice) -> float:
        """From -1 to 1, the cosine of both. Raises ValueError for voices of two models."""
        if self.model != other.model:
            raise ValueError("voices of two models are not compared")
        return sum(map(mul, self.values, other.values), 0.0)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Somebody who speaks, counted from 0 as they begin to. name: as the caller knows them; None for a stranger.

    voice: where it was asked for and is known.
    """

    name: str | None = None
    speaking_s: float = 0.0
    voice: Voice | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A timed piece of text, with the figures by which Whisper's decoder is judged.

    tokens: of the model that wrote it. avg_logprob: over those. compression_ratio: length of the text over its length
    when compressed; a loop compresses well. no_speech_prob: 0 to 1. speaker: an index into the transcript's speakers.
    """

    start_s: float
    end_s: float
    text: str
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 1.0
    no_speech_prob: float = 0.0
    words: tuple[Word, ...] = ()
    speaker: int | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """The text of a whole file; segment order is time order.

    language: Whisper code of the language spoken.
    speakers: nobody where they were not told apart.
    input_text_tokens, input_audio_tokens, output_tokens: what it cost; 50 audio tokens a second.
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
    speakers: tuple[Speaker, ...] = ()
