"""What do the engine and a speech worker of its own say to each other?

One stream socket, on which messages stand as `engine.backends.framing` says; the PCM is that of a clip::

    engine:  {"kind": "load", "models": {id: path}, ...}                   once, first
             {"kind": "languages" | "transcribe" | "stream", "id": n, "model": id, "options": {...}} + PCM
             {"kind": "align", "id": n, "model": id, "options": {...}, "transcript": {...}, "wanted": [...]} + PCM
             {"kind": "cancel", "id": n}                                   may cross the answer
    worker:  {"kind": "ready"}                                             once, when every model is loaded
             {"kind": "delta", "id": n, "text": ...}                       any number, only for "stream"
             {"kind": "languages" | "transcript" | "failed" | "cancelled", "id": n, ...}   one of these ends a call

The end of the stream is the end of the peer.
"""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum

from core.transcript.types import Segment, Task, TokenLogprob, Word
from engine.backends.framing import Fields, Framing
from engine.types import MAX_CLIP_BYTES, ClipTranscript, DecodingOptions

MAX_JSON_BYTES = 1 << 20


class Kind(StrEnum):
    """The kinds of messages."""

    LOAD = "load"
    READY = "ready"
    LANGUAGES = "languages"
    TRANSCRIBE = "transcribe"
    STREAM = "stream"
    ALIGN = "align"
    CANCEL = "cancel"
    DELTA = "delta"
    TRANSCRIPT = "transcript"
    FAILED = "failed"
    CANCELLED = "cancelled"


FRAMING = Framing(Kind, max_json_bytes=MAX_JSON_BYTES, max_pcm_bytes=MAX_CLIP_BYTES)
encode, decode_prefix, decode_fields = FRAMING.encode, FRAMING.decode_prefix, FRAMING.decode_fields


def options_to_fields(options: DecodingOptions) -> Fields:
    """Write decoding options as JSON fields."""
    return asdict(options) | {"sampling": dict(options.sampling)}


def options_from_fields(fields: Fields) -> DecodingOptions:
    """Read decoding options, which come from the engine."""
    return DecodingOptions(**fields | {"task": Task(fields["task"])})


def transcript_to_fields(transcript: ClipTranscript) -> Fields:
    """Write a transcript as JSON fields."""
    return asdict(transcript)


def transcript_from_fields(fields: Fields) -> ClipTranscript:
    """Read a transcript, which comes from a worker. Raises KeyError, TypeError or ValueError."""
    return ClipTranscript(
        text=str(fields["text"]),
        segments=tuple(_segment(segment) for segment in fields["segments"]),
        output_tokens=int(fields["output_tokens"]),
        prompt_tokens=int(fields["prompt_tokens"]),
        logprobs=tuple(TokenLogprob(str(one["token"]), float(one["logprob"])) for one in fields["logprobs"]),
    )


def languages_from_fields(fields: Fields) -> dict[str, float]:
    """Read the probability of each language. Raises KeyError, TypeError, ValueError or AttributeError."""
    return {str(language): float(probability) for language, probability in fields["probabilities"].items()}


def _segment(fields: Fields) -> Segment:
    return Segment(
        start_s=float(fields["start_s"]),
        end_s=float(fields["end_s"]),
        text=str(fields["text"]),
        tokens=tuple(int(token) for token in fields["tokens"]),
        temperature=float(fields["temperature"]),
        avg_logprob=float(fields["avg_logprob"]),
        compression_ratio=float(fields["compression_ratio"]),
        no_speech_prob=float(fields["no_speech_prob"]),
        words=tuple(_word(word) for word in fields["words"]),
    )


def _word(fields: Fields) -> Word:
    return Word(
        text=str(fields["text"]),
        start_s=float(fields["start_s"]),
        end_s=float(fields["end_s"]),
        probability=None if fields["probability"] is None else float(fields["probability"]),
    )
