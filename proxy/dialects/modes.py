"""How is a transcript shaped? In Privocio's output modes, for all APIs: raw, clean and agent. Rules alone, no model.

raw
    the text as it was heard.
clean
    without the fillers of its language, without a function word that is said twice in a row, one space between words,
    and a new paragraph where nobody spoke for 1.5 s. No other word is touched; a filler's full stop stays.
agent
    one JSON object, as short as it can be, with `text` beside what a program needs::

        {"v": 1, "lang": "en", "dur": 2.5, "text": "...", "segs": [[0.0, 1.2, "..."], ...]}

    v: of this form. dur and the two numbers of a segment: seconds, from and to. A fourth member of a segment is the
    speaker, counted from 0, where speakers were told apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Any, Final

from core.transcript.types import Segment, Transcript

Json = Mapping[str, Any]

PARAGRAPH_PAUSE_S: Final = 1.5


class Mode(StrEnum):
    RAW = "raw"
    CLEAN = "clean"
    AGENT = "agent"


FILLERS: Final[Mapping[str, frozenset[str]]] = {
    "de": frozenset({"äh", "ähm", "öh", "öhm", "hm", "hmm", "mhm"}),
    "en": frozenset({"er", "erm", "hm", "hmm", "mm", "uh", "uhh", "uhm", "um", "umm"}),
    "es": frozenset({"eh", "ehm", "em", "hm", "hmm"}),
    "fr": frozenset({"euh", "heu", "hm", "hmm"}),
    "it": frozenset({"eh", "ehm", "hm", "hmm", "mh"}),
    "nl": frozenset({"eh", "ehm", "euh", "hm", "hmm", "uh", "uhm"}),
    "pt": frozenset({"hm", "hmm", "hum"}),
}
"""Sounds that are no words of the language. Others keep all that was heard."""

FUNCTION_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "de": frozenset({"ich", "wir", "und", "aber", "der", "das", "ein", "eine", "in", "zu", "mit", "von"}),
    "en": frozenset(
        {"a", "an", "and", "at", "but", "i", "in", "is", "it", "my", "of", "or", "the", "to", "we", "with"}
    ),
    "es": frozenset({"de", "el", "en", "la", "los", "o", "que", "un", "una", "y", "yo"}),
    "fr": frozenset({"de", "des", "et", "je", "la", "le", "les", "on", "ou", "un", "une"}),
}
"""Words that nobody means twice in a row; "had had" and "five five" stay."""

_EDGES: Final = re.compile(r"^\W+|\W+$")
_END: Final = re.compile(r"[.!?\u3002\uff01\uff1f]+[\"')\]]*\Z")


def cleaned(transcript: Transcript) -> Transcript:
    """Its text and its segments as `clean` has them; words stay as they were heard."""
    said = ((segment, clean_text(segment.text, transcript.language)) for segment in transcript.segments)
    segments = tuple(replace(segment, text=text) for segment, text in said if text)
    return replace(transcript, text=clean(transcript), segments=segments)


def shaped(transcript: Transcript, mode: Mode) -> Json:
    """The answer's body."""
    if mode is Mode.AGENT:
        return agent(transcript)
    segments = list(segments_of(transcript.segments, transcript.language, mode))
    text = clean(transcript) if mode is Mode.CLEAN else transcript.text
    duration_s = round(transcript.duration_s, 3)
    return {"text": text, "language": transcript.language, "duration": duration_s, "segments": segments}


def segments_of(segments: Iterable[Segment], language: str, mode: Mode, *, first: int = 0) -> Iterator[Json]:
    """Those in which something is left. first: the number of the first."""
    for segment in segments:
        text = clean_text(segment.text, language) if mode is Mode.CLEAN else segment.text.strip()
        if text:
            yield {"id": first, "start": round(segment.start_s, 3), "end": round(segment.end_s, 3), "text": text}
            first += 1


def agent(transcript: Transcript) -> Json:
    return {
        "v": 1,
        "lang": transcript.language,
        "dur": round(transcript.duration_s, 2),
        "text": transcript.text,
        "segs": [
            [
                round(segment.start_s, 2),
                round(segment.end_s, 2),
                segment.text.strip(),
                *([] if segment.speaker is None else [segment.speaker]),
            ]
            for segment in transcript.segments
        ],
    }


def clean(transcript: Transcript) -> str:
    """The text in paragraphs."""
    if not transcript.segments:
        return clean_text(transcript.text, transcript.language)
    paragraphs = [" ".join(segment.text.strip() for segment in said) for said in _paragraphs(transcript.segments)]
    cleaned = (clean_text(paragraph, transcript.language) for paragraph in paragraphs)
    return "\n\n".join(filter(None, cleaned))


def _paragraphs(segments: Iterable[Segment]) -> Iterator[list[Segment]]:
    said: list[Segment] = []
    for segment in segments:
        if said and segment.start_s - said[-1].end_s >= PARAGRAPH_PAUSE_S:
            yield said
            said = []
        said.append(segment)
    if said:
        yield said


def clean_text(text: str, language: str) -> str:
    """Without fillers, words said twice and needless spaces. language: Whisper's code."""
    fillers, twice = FILLERS.get(language, frozenset()), FUNCTION_WORDS.get(language, frozenset())
    kept: list[str] = []
    for token in text.split():
        word = _bare(token)
        if word in fillers:
            end = _END.search(token)
            if end and kept and not _END.search(kept[-1]):
                kept[-1] = kept[-1].rstrip(",;") + end[0]
        elif kept and word in twice and kept[-1].lower() == word:
            kept[-1] += token[len(word) :] if token.lower().startswith(word) else ""
        else:
            kept.append(token)
    return " ".join(kept)


def _bare(token: str) -> str:
    return _EDGES.sub("", token).lower()
