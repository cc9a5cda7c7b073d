"""What is asked of vLLM's transcription routes, and what do their answers mean? Bytes and values, no I/O.

A clip goes out as a WAV file of at most `MAX_WAV_BYTES`, below the mebibyte from which vLLM's form parser writes parts
to a temporary file. Answers: `vllm/entrypoints/speech_to_text/transcription/protocol.py`, and for the languages
`engine.backends.vllm.inside.rules`.
"""

from __future__ import annotations

import io
import json
import math
import re
import wave
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from core.errors import BackendError
from core.media.types import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from core.transcript.types import Segment
from engine.backends.vllm.inside.prompt import Wanted
from engine.speech.fallback import compression_ratio, finite
from engine.speech.observer import Sample
from engine.telemetry import MODEL_SERVER_SERIES
from engine.types import MAX_CLIP_BYTES, Clip, ClipTranscript, DecodingOptions

MAX_WAV_BYTES = MAX_CLIP_BYTES + 44

FRAMES_PER_S = 100
"""vLLM counts a clip's spectrogram frames among its prompt tokens."""

OPENING_TOKENS = 4
"""`<|startoftranscript|>`, language, task and `<|notimestamps|>`, which are no part of a caller's prompt either."""

MAX_LINE_BYTES = 1 << 16
"""An event is a token's text and some hundred bytes around it."""

PROBABILITY_ONE_S = 20.0
"""The time that stands for a probability of one in a report of languages."""

REPORTED = re.compile(r"\s*<\|([a-z]+)\|>\s*")
NO_SPEECH = frozenset({"nospeech", "nocaptions"})

Json: TypeAlias = dict[str, Any]


def to_wav(clip: Clip) -> bytes:
    """A clip as a WAV file. Raises BackendError for one that is too long."""
    if len(clip.pcm) > MAX_CLIP_BYTES:
        raise BackendError("a clip is longer than vLLM may hear at once")
    file = io.BytesIO()
    with wave.open(file, "wb") as output:
        output.setnchannels(1)
        output.setsampwidth(BYTES_PER_SAMPLE)
        output.setframerate(SAMPLE_RATE_HZ)
        output.writeframes(clip.pcm)
    return file.getvalue()


def form_fields(options: DecodingOptions) -> dict[str, str]:
    """The fields that all requests for text share.

    Word times and log probabilities of tokens are not to be had of vLLM's routes; they are left out of the answer.
    """
    fields = {"language": options.language, "temperature": str(options.temperature)}
    if options.prompt:
        fields["prompt"] = options.prompt
    if options.max_tokens is not None:
        fields["max_completion_tokens"] = str(options.max_tokens)
    # `seed` and `top_k` are whole numbers, and vLLM takes "3.0" for none.
    sampling = {
        name: str(int(value)) if value == int(value) else str(value) for name, value in options.sampling.items()
    }
    return fields | sampling


def timestamp_fields(options: DecodingOptions) -> dict[str, str]:
    """The fields of a request for segments with times."""
    return form_fields(options) | {"response_format": "verbose_json", "hotwords": Wanted.TIMESTAMPS.value}


def text_fields(options: DecodingOptions) -> dict[str, str]:
    """The fields of a request for text alone."""
    return form_fields(options) | {"response_format": "json"}


def stream_fields(options: DecodingOptions) -> dict[str, str]:
    """The fields of a request for text as it is made."""
    return text_fields(options) | {"stream": "true", "stream_include_usage": "true"}


LANGUAGES_FIELDS: Mapping[str, str] = {
    # Without a language vLLM would first detect one itself, with a pass of the encoder that we would not learn from.
    "language": "en",
    "temperature": "0",
    "response_format": "verbose_json",
    "hotwords": Wanted.LANGUAGES.value,
}


def transcript_from_verbose(answer: Json, clip: Clip) -> ClipTranscript | None:
    """Read a `verbose_json` answer; None if vLLM cut it into no segments at all, and so dropped what text there was.

    With our decoding rules silence is one segment without text. Raises KeyError, TypeError or ValueError.
    """
    listed = answer["segments"]
    if not listed:
        return None
    segments = tuple(segment for segment in (_segment(one, clip) for one in listed) if segment.text.strip())
    return ClipTranscript(
        text="".join(segment.text for segment in segments),
        segments=segments,
        output_tokens=sum(len(segment.tokens) for segment in segments),
    )


def transcript_from_text(text: str, clip: Clip, *, output_tokens: int = 0, prompt_tokens: int = 0) -> ClipTranscript:
    """One segment over the whole clip, for text without times."""
    whole = Segment(start_s=0.0, end_s=clip.duration_s, text=text, compression_ratio=compression_ratio(text))
    segments = (whole,) if text.strip() else ()
    return ClipTranscript(text, segments, output_tokens=output_tokens, prompt_tokens=prompt_tokens)


@dataclass(frozen=True, slots=True)
class Report:
    """What a clip sounds like. languages: the probabilities of the likeliest. no_speech: that there is none."""

    languages: Mapping[str, float]
    no_speech: float


def report_from_verbose(answer: Json) -> Report:
    """Read a report of languages and silence.

    Raises KeyError, TypeError or ValueError if the answer is none, as one of a vLLM without our plugin.
    """
    reported: dict[str, float] = {}
    for segment in answer["segments"] or ():
        named = REPORTED.fullmatch(segment["text"])
        if named is None and segment["text"].strip():
            raise ValueError("text in place of a report")
        if named is not None:
            reported[named[1]] = min(float(segment["end"]) / PROBABILITY_ONE_S, 1.0)
    languages = {name: probability for name, probability in reported.items() if name not in NO_SPEECH}
    no_speech = sum(reported[name] for name in NO_SPEECH & reported.keys())
    if not languages:
        raise ValueError("a report without a language")
    return Report(languages, no_speech)


def _segment(fields: Json, clip: Clip) -> Segment:
    start_s = min(max(float(fields["start"]), 0.0), clip.duration_s)
    text = str(fields["text"])
    return Segment(
        start_s=start_s,
        end_s=max(min(float(fields["end"]), clip.duration_s), start_s),
        text=text,
        tokens=tuple(int(token) for token in fields["tokens"]),
        temperature=float(fields["temperature"]),
        avg_logprob=finite(float(fields["avg_logprob"]), -100.0),
        compression_ratio=compression_ratio(text),
    )


class StreamReader:
    """Reads the events of a streamed answer, in whatever pieces its bytes arrive.

    complete: whether the stream has said that it is.
    """

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._rest = b""
        self._pieces: list[str] = []
        self._output_tokens = 0
        self._prompt_tokens = 0
        self.complete = False

    def feed(self, data: bytes) -> list[str]:
        """Read the lines that `data` completes and return the pieces of text in them.

        Raises BackendError if vLLM reports a failure; AttributeError, KeyError, TypeError or ValueError for what is no
        event.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ValueError("no event is so long")
        return [piece for piece in map(self._read, lines) if piece]

    def _read(self, line: bytes) -> str:
        name, _, value = line.strip().partition(b":")
        if name != b"data":
            return ""
        if value.strip() == b"[DONE]":
            self.complete = True
            return ""
        event = json.loads(value)
        if "error" in event:
            raise BackendError("vLLM failed in the middle of a clip")
        if usage := event.get("usage"):
            self._output_tokens = int(usage["completion_tokens"])
            self._prompt_tokens = int(usage["prompt_tokens"])
        piece = "".join(str(choice["delta"].get("content") or "") for choice in event["choices"])
        self._pieces.append(piece)
        return piece

    def transcript(self) -> ClipTranscript:
        """The whole, without times of its parts."""
        opening = math.ceil(self._clip.duration_s * FRAMES_PER_S) + OPENING_TOKENS
        return transcript_from_text(
            "".join(self._pieces),
            self._clip,
            output_tokens=self._output_tokens,
            prompt_tokens=max(self._prompt_tokens - opening, 0),
        )


SERIES = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+-?\d+)?")
REASON = re.compile(r'finished_reason="(\w+)"')


def samples_from_exposition(text: str) -> Iterator[Sample]:
    """Read the published series from vLLM's `/metrics`, summed over all labels but the reason."""
    totals: dict[tuple[str, str], float] = {}
    for line in text.splitlines():
        found = SERIES.fullmatch(line)
        if found is None or found["name"] not in MODEL_SERVER_SERIES:
            continue
        reason = REASON.search(found["labels"] or "")
        key = (found["name"], reason[1] if reason else "")
        totals[key] = totals.get(key, 0.0) + finite(float(found["value"]), 0.0)
    return (Sample(name, value, reason) for (name, reason), value in totals.items())
