"""How is a summary asked for, and told? JSON of ours, for no API that others have has such a thing.

::

    POST /v1/summaries
    {"text": "..."}  or  {"segments": [{"text": "...", "speaker": "A"}, ...]}, and of these what is wanted:
    "model": "NAME", "language": "en", "max_words": 150, "max_topics": 8

    {"object": "summary", "model": "NAME", "summary": "...", "topics": ["...", ...],
     "usage": {"input_tokens": 900, "output_tokens": 120}}

language: of what is written; without it, that of the transcript. Of `max_words` and `max_topics` one may be 0: then
`summary` is null, or `topics` empty. Unknown members are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field, TypeAdapter

from core.program import strictjson
from core.program.validation import STRICT, validate
from core.transcript.faults import LANGUAGE, MODEL, TRANSCRIPT, Fault, FaultKind, option
from core.transcript.languages import code_of
from engine.summaries.types import DEFAULT_TOPICS, DEFAULT_WORDS, MAX_TOPICS, MAX_WORDS, Summary, Turn, Wish

PATH: Final = "/v1/summaries"
CONTENT_TYPE: Final = "application/json"
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
MAX_COMMAS: Final = 400_000
"""A long recording has as many, between its segments and in its text."""
MAX_SPEAKER_CHARS: Final = 256

RULE: Final = (
    "a JSON object with `text`, or with `segments`, a list of objects with `text` and perhaps `speaker`; besides it "
    "may have `model`, `language`, `max_words` and `max_topics`"
)
WORDS_RULE: Final = f"a whole number from 0 to {MAX_WORDS}"
TOPICS_RULE: Final = f"a whole number from 0 to {MAX_TOPICS}, and not 0 together with `max_words`"
WORDS: Final = option("max_words")
TOPICS: Final = option("max_topics")


@dataclass(frozen=True, slots=True)
class _Segment:
    __pydantic_config__ = STRICT

    text: str
    speaker: Annotated[str, Field(max_length=MAX_SPEAKER_CHARS)] | None = None


@dataclass(frozen=True, slots=True)
class _Body:
    __pydantic_config__ = STRICT

    text: str | None = None
    segments: tuple[_Segment, ...] | None = None
    model: str | None = None
    language: str | None = None
    max_words: int = DEFAULT_WORDS
    max_topics: int = DEFAULT_TOPICS


_BODY: Final = TypeAdapter(_Body)


def check_content_type(content_type: str | None, content_encoding: str | None) -> None:
    """Raises Fault."""
    if (content_type or "").partition(";")[0].strip().lower() != CONTENT_TYPE or content_encoding is not None:
        raise Fault(FaultKind.MEDIA_TYPE, TRANSCRIPT)


def parse(data: bytes, model: str) -> Wish:
    """What is asked of the one model that there is. Raises Fault."""
    try:
        body = validate(_BODY, strictjson.loads(data, max_bytes=MAX_BODY_BYTES, max_commas=MAX_COMMAS))
    except ValueError:
        raise Fault(FaultKind.MALFORMED, TRANSCRIPT) from None
    if body.model not in (None, model):
        raise Fault(FaultKind.UNKNOWN, MODEL)
    if not 0 <= body.max_words <= MAX_WORDS:
        raise Fault(FaultKind.INVALID, WORDS)
    if not 0 <= body.max_topics <= MAX_TOPICS or not (body.max_words or body.max_topics):
        raise Fault(FaultKind.INVALID, TOPICS)
    language = None if body.language is None else code_of(body.language)
    if language is None and body.language is not None:
        raise Fault(FaultKind.INVALID, LANGUAGE)
    return Wish(_turns(body), language, body.max_words, body.max_topics)


def render(summary: Summary, model: str) -> bytes:
    body = {
        "object": "summary",
        "model": model,
        "summary": summary.text,
        "topics": list(summary.topics),
        "usage": {"input_tokens": summary.input_tokens, "output_tokens": summary.output_tokens},
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _turns(body: _Body) -> tuple[Turn, ...]:
    if (body.text is None) == (body.segments is None):
        raise Fault(FaultKind.MALFORMED, TRANSCRIPT)
    segments = (_Segment(body.text),) if body.text is not None else body.segments or ()
    turns = tuple(_joined([segment for segment in segments if segment.text.strip()]))
    if not turns:
        raise Fault(FaultKind.MISSING, TRANSCRIPT)
    return turns


def _joined(segments: Sequence[_Segment]) -> Iterator[Turn]:
    """One turn for all segments of one speaker that follow each other."""
    said: list[str] = []
    for index, segment in enumerate(segments):
        said.append(segment.text.strip())
        if index + 1 == len(segments) or segments[index + 1].speaker != segment.speaker:
            yield Turn(" ".join(said), segment.speaker or None)
            said = []
