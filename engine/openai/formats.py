"""How a transcription is written down: the response formats, as OpenAI's whisper-1 prints them.

::

    json          {"text":"Hi.","languages":[{"code":"en"}],"usage":{"type":"duration","seconds":9}}
    text          Hi. LF
    verbose_json  {"task","language","language_code","duration","text","segments"?,"words"?,"usage"}
    diarized_json {"task","duration","text","segments":[{"type","id","start","end","text","speaker"}],"usage"}
    srt, vtt      `core.transcript.captions`

Sources: OpenAI's API reference and its recorded answers; `diarized_json` as its gpt-4o-transcribe-diarize has it.
`language_code` is an extension, and so are `speaker` in the lists of `verbose_json`, for whoever asks to `diarize`, and
`speaker_embeddings` beside `segments`, for whoever asks to include it.
A translation has no `usage` and no `languages`, as at OpenAI; by the names of OpenAI's models `usage` is in tokens
where it was there, and `languages` are told where they were (`engine.openai.names`). All times are rounded to
milliseconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from core.transcript import captions
from core.transcript.captions import milliseconds
from core.transcript.labels import speaker_labels
from core.transcript.languages import name_of
from core.transcript.types import Segment, Task, TokenLogprob, Transcript, Word
from engine.openai.rendering import Granularity, Rendering, ResponseFormat

_LOWEST_LOGPROB: Final = -9999.0
"""What OpenAI prints for minus infinity, which JSON cannot."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A body and its media type."""

    body: bytes
    content_type: str


def render(transcription: Transcript, rendering: Rendering) -> Rendered:
    """Write `transcription` in the format that `rendering` asks for."""
    content_type, write = _WRITERS[rendering.response_format]
    return Rendered(write(transcription, rendering), content_type)


def json_bytes(value: Mapping[str, object]) -> bytes:
    """Compact UTF-8 JSON; half of a surrogate pair, which a backend may cut from a token, becomes `?`."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def logprob_objects(logprobs: Iterable[TokenLogprob]) -> list[dict[str, object]]:
    """OpenAI's `logprobs`: each token with its log probability and its bytes."""
    return [
        {"token": item.token, "logprob": _finite(item.logprob), "bytes": list(item.token.encode(errors="replace"))}
        for item in logprobs
    ]


def language_objects(transcription: Transcript) -> dict[str, object]:
    """OpenAI's `languages` as its gpt-transcribe tells them, for an answer in json and the end of a stream.

    Empty where nothing was said. A translation has none.
    """
    if transcription.task is Task.TRANSLATE:
        return {}
    return {"languages": [{"code": transcription.language}] if transcription.text.strip() else []}


def _json(transcription: Transcript, rendering: Rendering) -> bytes:
    body: dict[str, object] = {"text": transcription.text.strip()}
    if rendering.languages:
        body |= language_objects(transcription)
    if rendering.logprobs:
        body["logprobs"] = logprob_objects(transcription.logprobs)
    return json_bytes(body | _usage(transcription, rendering))


def _text(transcription: Transcript, _: Rendering) -> bytes:
    return _encode(transcription.text.strip() + "\n")


def _verbose_json(transcription: Transcript, rendering: Rendering) -> bytes:
    language = "en" if transcription.task is Task.TRANSLATE else transcription.language
    body: dict[str, object] = {
        "task": transcription.task.value,
        "language": name_of(language),
        "language_code": language,
        "duration": _seconds(transcription.duration_s),
        "text": transcription.text.strip(),
    }
    labels = speaker_labels(transcription.speakers) if rendering.speakers else []
    segments = [segment for segment in transcription.segments if segment.text.strip()]
    if Granularity.SEGMENT in rendering.granularities:
        body["segments"] = [
            _segment_object(i, segment) | _who(segment.speaker, labels) for i, segment in enumerate(segments)
        ]
    if Granularity.WORD in rendering.granularities:
        words = [word for segment in segments for word in segment.words if word.text.strip()]
        body["words"] = [_word_object(word) | _who(word.speaker, labels) for word in words]
    return json_bytes(body | voice_objects(transcription, rendering) | _usage(transcription, rendering))


def _diarized_json(transcription: Transcript, rendering: Rendering) -> bytes:
    body = {
        "task": transcription.task.value,
        "duration": _seconds(transcription.duration_s),
        "text": transcription.text.strip(),
        "segments": diarized_segments(transcription),
    }
    return json_bytes(body | voice_objects(transcription, rendering) | _usage(transcription, rendering))


def diarized_segments(transcription: Transcript) -> list[dict[str, object]]:
    """OpenAI's `segments` with their speakers; each is an event of a stream too."""
    labels = speaker_labels(transcription.speakers)
    segments = [segment for segment in transcription.segments if segment.text.strip()]
    return [
        {
            "type": "transcript.text.segment",
            "id": f"seg_{number:03d}",
            "start": _seconds(segment.start_s),
            "end": _seconds(segment.end_s),
            "text": segment.text.strip(),
        }
        | _who(segment.speaker, labels)
        for number, segment in enumerate(segments, 1)
    ]


def voice_objects(transcription: Transcript, rendering: Rendering) -> dict[str, object]:
    """`speaker_embeddings`, an extension: who speaks and what each voice is like, for whoever asked for it."""
    if not rendering.voices:
        return {}
    labels = speaker_labels(transcription.speakers)
    entries = [
        {
            "speaker": label,
            "known": speaker.name is not None,
            "seconds": _seconds(speaker.speaking_s),
            "embedding": None if speaker.voice is None else list(speaker.voice.values),
            "model": None if speaker.voice is None else speaker.voice.model,
            "same": None if speaker.voice is None else speaker.voice.same,
        }
        for label, speaker in zip(labels, transcription.speakers, strict=True)
    ]
    return {"speaker_embeddings": entries}


def _who(speaker: int | None, labels: Sequence[str]) -> dict[str, object]:
    return {"speaker": labels[speaker]} if labels and speaker is not None else {}


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


def token_usage(transcription: Transcript) -> dict[str, object]:
    """OpenAI's `usage` in tokens."""
    text_tokens, audio_tokens = transcription.input_text_tokens, transcription.input_audio_tokens
    input_tokens = text_tokens + audio_tokens
    return {
        "type": "tokens",
        "input_tokens": input_tokens,
        "input_token_details": {"text_tokens": text_tokens, "audio_tokens": audio_tokens},
        "output_tokens": transcription.output_tokens,
        "total_tokens": input_tokens + transcription.output_tokens,
    }


def _usage(transcription: Transcript, rendering: Rendering) -> dict[str, object]:
    if transcription.task is Task.TRANSLATE:
        return {}
    if rendering.usage_in_tokens:
        return {"usage": token_usage(transcription)}
    # From the rounded duration, so that 9.0000001 s of a decoder's clock do not cost a tenth second.
    return {"usage": {"type": "duration", "seconds": -(-milliseconds(transcription.duration_s) // 1000)}}


def _srt(transcription: Transcript, _: Rendering) -> bytes:
    return _encode(captions.srt(transcription.segments))


def _vtt(transcription: Transcript, _: Rendering) -> bytes:
    return _encode(captions.vtt(transcription.segments))


def _seconds(seconds: float) -> float:
    return milliseconds(seconds) / 1000


def _finite(value: float) -> float:
    return 0.0 if math.isnan(value) else min(max(float(value), _LOWEST_LOGPROB), -_LOWEST_LOGPROB)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "replace")


_Writer = Callable[[Transcript, Rendering], bytes]

_WRITERS: Final[Mapping[ResponseFormat, tuple[str, _Writer]]] = {
    ResponseFormat.JSON: ("application/json", _json),
    ResponseFormat.TEXT: ("text/plain; charset=utf-8", _text),
    ResponseFormat.SRT: ("text/plain; charset=utf-8", _srt),
    ResponseFormat.VERBOSE_JSON: ("application/json", _verbose_json),
    ResponseFormat.VTT: ("text/vtt; charset=utf-8", _vtt),
    ResponseFormat.DIARIZED_JSON: ("application/json", _diarized_json),
}
"""One row for every response format."""
