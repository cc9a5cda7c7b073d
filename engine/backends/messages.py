"""What do the engine and a speech worker of its own say to each other?

One stream socket. A message is JSON, then the PCM of a clip if it brings one; nothing that could name code to run::

    4 bytes JSON length, big-endian | 4 bytes PCM length | JSON object | PCM

    engine:  {"kind": "load", "models": {id: path}, ...}                   once, first
             {"kind": "languages" | "transcribe" | "stream", "id": n, "model": id, "options": {...}} + PCM
             {"kind": "align", "id": n, "model": id, "options": {...}, "transcript": {...}} + PCM
             {"kind": "cancel", "id": n}                                   may cross the answer
    worker:  {"kind": "ready"}                                             once, when every model is loaded
             {"kind": "delta", "id": n, "text": ...}                       any number, only for "stream"
             {"kind": "languages" | "transcript" | "failed" | "cancelled", "id": n, ...}   one of these ends a call

The end of the stream is the end of the peer.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from enum import StrEnum
from typing import Any, TypeAlias

from engine.types import (
    BYTES_PER_SAMPLE,
    MAX_CLIP_S,
    SAMPLE_RATE_HZ,
    ClipTranscript,
    DecodingOptions,
    Segment,
    Task,
    TokenLogprob,
    Word,
)

PREFIX = struct.Struct("!II")
MAX_JSON_BYTES = 1 << 20
MAX_PCM_BYTES = int(MAX_CLIP_S * SAMPLE_RATE_HZ) * BYTES_PER_SAMPLE

Fields: TypeAlias = dict[str, Any]


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


def encode(kind: Kind, fields: Mapping[str, object], pcm: bytes = b"") -> bytes:
    """Write one message. Raises ValueError if it is longer than a peer accepts, or holds a number JSON has not."""
    text = json.dumps({"kind": kind, **fields}, allow_nan=False).encode()
    _check_lengths(len(text), len(pcm))
    return b"".join((PREFIX.pack(len(text), len(pcm)), text, pcm))


def decode_prefix(prefix: bytes) -> tuple[int, int]:
    """Read how many bytes of JSON and of PCM follow. Raises ValueError if they are more than a message may have."""
    json_bytes, pcm_bytes = PREFIX.unpack(prefix)
    _check_lengths(json_bytes, pcm_bytes)
    return json_bytes, pcm_bytes


def decode_fields(text: bytes) -> Fields:
    """Read the JSON of a message. Raises ValueError."""
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("a message must be a JSON object")  # noqa: TRY004  one error for all that is no message
    fields["kind"] = Kind(str(fields.get("kind")))
    return fields


def _check_lengths(json_bytes: int, pcm_bytes: int) -> None:
    if json_bytes > MAX_JSON_BYTES or pcm_bytes > MAX_PCM_BYTES:
        raise ValueError("a message is too long")


class MessageBuffer:
    """Puts a worker's messages together from the pieces in which they arrive; they bring no PCM."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Fields]:
        """Yield the messages that `data` completes. Raises ValueError for anything that is not a message."""
        self._bytes += data
        while len(self._bytes) >= PREFIX.size:
            json_bytes, pcm_bytes = decode_prefix(bytes(self._bytes[: PREFIX.size]))
            if pcm_bytes:
                raise ValueError("a worker sends no audio")
            end = PREFIX.size + json_bytes
            if len(self._bytes) < end:
                return
            text = bytes(self._bytes[PREFIX.size : end])
            del self._bytes[:end]
            yield decode_fields(text)


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


def finite(value: float, otherwise: float) -> float:
    """Return a number that JSON has: models do answer NaN and infinity."""
    return value if math.isfinite(value) else otherwise
