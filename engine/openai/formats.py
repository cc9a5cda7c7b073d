"""How a transcription is written down: the five response formats, as OpenAI's whisper-1 prints them.

::

    json          {"text":"Hi.","usage":{"type":"duration","seconds":9}}
    text          Hi. LF
    verbose_json  {"task","language","language_code","duration","text","segments"?,"words"?,"usage"}
    srt           1 LF 00:00:00,000 --> 00:00:03,320 LF Hi. LF LF ...
    vtt           WEBVTT LF LF 00:00:00.000 --> 00:00:03.320 LF Hi. LF LF ...

Sources: OpenAI's API reference, its recorded answers, and WebVTT (W3C), section 4. `language_code` is an extension.
A translation has no `usage`, as at OpenAI. All times are rounded to milliseconds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from engine.openai.languages import name_of
from engine.types import (
    Granularity,
    ResponseFormat,
    Segment,
    Task,
    TokenLogprob,
    Transcription,
    TranscriptionRequest,
    Word,
)

_LOWEST_LOGPROB: Final = -9999.0
"""What OpenAI prints for minus infinity, which JSON cannot."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A body and its media type."""

    body: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class _Cue:
    """One line of a subtitle file; times in milliseconds, `start < end`."""

    start: int
    end: int
    text: str


def render(transcription: Transcription, request: TranscriptionRequest) -> Rendered:
    """Write `transcription` in the format that `request` asks for."""
    content_type, write = _WRITERS[request.response_format]
    return Rendered(write(transcription, request), content_type)


def json_bytes(value: Mapping[str, object]) -> bytes:
    """Compact UTF-8 JSON; half of a surrogate pair, which a backend may cut from a token, becomes `?`."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def logprob_objects(logprobs: Iterable[TokenLogprob]) -> list[dict[str, object]]:
    """OpenAI's `logprobs`: each token with its log probability and its bytes."""
    return [
        {"token": item.token, "logprob": _finite(item.logprob), "bytes": list(item.token.encode(errors="replace"))}
        for item in logprobs
    ]


def milliseconds(seconds: float) -> int:
    """The nearest millisecond, half up; times before the start, or that are no number, count as the start."""
    return max(0, math.floor(seconds * 1000 + 0.5)) if math.isfinite(seconds) else 0


def _json(transcription: Transcription, request: TranscriptionRequest) -> bytes:
    body: dict[str, object] = {"text": transcription.text.strip()}
    if request.logprobs:
        body["logprobs"] = logprob_objects(transcription.logprobs)
    return json_bytes(body | _usage(transcription))


def _text(transcription: Transcription, _: TranscriptionRequest) -> bytes:
    return _encode(transcription.text.strip() + "\n")


def _verbose_json(transcription: Transcription, request: TranscriptionRequest) -> bytes:
    language = "en" if transcription.task is Task.TRANSLATE else transcription.language
    body: dict[str, object] = {
        "task": transcription.task.value,
        "language": name_of(language),
        "language_code": language,
        "duration": _seconds(transcription.duration_s),
        "text": transcription.text.strip(),
    }
    segments = [segment for segment in transcription.segments if segment.text.strip()]
    if Granularity.SEGMENT in request.granularities:
        body["segments"] = [_segment_object(i, segment) for i, segment in enumerate(segments)]
    if Granularity.WORD in request.granularities:
        body["words"] = [_word_object(word) for segment in segments for word in segment.words if word.text.strip()]
    return json_bytes(body | _usage(transcription))


def _segment_object(index: int, segment: Segment) -> dict[str, object]:
    return {
        "id": index,
        "seek": milliseconds(segment.start_s) // 10,  # in frames of 10 ms
        "start": _seconds(segment.start_s),
        "end": _seconds(segment.end_s),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": _finite(segment.temperature),
        "avg_logprob": _finite(segment.avg_logprob),
        "compression_ratio": _finite(segment.compression_ratio),
        "no_speech_prob": _finite(segment.no_speech_prob),
    }


def _word_object(word: Word) -> dict[str, object]:
    return {"word": word.text.strip(), "start": _seconds(word.start_s), "end": _seconds(word.end_s)}


def _usage(transcription: Transcription) -> dict[str, object]:
    if transcription.task is Task.TRANSLATE:
        return {}
    # From the rounded duration, so that 9.0000001 s of a decoder's clock do not cost a tenth second.
    return {"usage": {"type": "duration", "seconds": -(-milliseconds(transcription.duration_s) // 1000)}}


def _srt(transcription: Transcription, _: TranscriptionRequest) -> bytes:
    blocks = (
        f"{number}\n{_timestamp(cue.start, ',')} --> {_timestamp(cue.end, ',')}\n{cue.text}\n\n"
        for number, cue in enumerate(_cues(transcription.segments), start=1)
    )
    return _encode("".join(blocks))


def _vtt(transcription: Transcription, _: TranscriptionRequest) -> bytes:
    blocks = (
        f"{_timestamp(cue.start, '.')} --> {_timestamp(cue.end, '.')}\n{_escaped(cue.text)}\n\n"
        for cue in _cues(transcription.segments)
    )
    return _encode("WEBVTT\n\n" + "".join(blocks))


def _cues(segments: Iterable[Segment]) -> Iterator[_Cue]:
    """The segments that say something, in order and without overlap: a cue ends where the next one starts.

    Every start is later than the one before, so that every cue lasts at least a millisecond and none is lost.
    """
    waiting: _Cue | None = None
    for segment in segments:
        text = _line(segment.text)
        if not text:
            continue
        start = milliseconds(segment.start_s)
        if waiting is not None:
            start = max(start, waiting.start + 1)
            yield _Cue(waiting.start, min(waiting.end, start), waiting.text)
        waiting = _Cue(start, max(milliseconds(segment.end_s), start + 1), text)
    if waiting is not None:
        yield waiting


# Line breaks, the blank line that would end a cue, and all other control characters of ASCII, Latin-1 and Unicode.
_BREAKS: Final = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+")
_ARROW: Final = re.compile(r"-{2,}>")


def _line(text: str) -> str:
    """`text` as one line that no subtitle reader takes for a line of times."""
    return _ARROW.sub("->", _BREAKS.sub(" ", text)).strip()


def _escaped(text: str) -> str:
    # WebVTT, section 4.2.2: `&` and `<` open a character reference and a tag.
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _timestamp(total: int, mark: str) -> str:
    """`total` milliseconds as `HH:MM:SS` and thousands behind `mark`; integers throughout, so 59.9996 carries."""
    seconds, thousandths = divmod(total, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{mark}{thousandths:03}"


def _seconds(seconds: float) -> float:
    return milliseconds(seconds) / 1000


def _finite(value: float) -> float:
    return 0.0 if math.isnan(value) else min(max(float(value), _LOWEST_LOGPROB), -_LOWEST_LOGPROB)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "replace")


_Writer = Callable[[Transcription, TranscriptionRequest], bytes]

_WRITERS: Final[Mapping[ResponseFormat, tuple[str, _Writer]]] = {
    ResponseFormat.JSON: ("application/json", _json),
    ResponseFormat.TEXT: ("text/plain; charset=utf-8", _text),
    ResponseFormat.SRT: ("text/plain; charset=utf-8", _srt),
    ResponseFormat.VERBOSE_JSON: ("application/json", _verbose_json),
    ResponseFormat.VTT: ("text/vtt; charset=utf-8", _vtt),
}
"""One row for every response format."""
