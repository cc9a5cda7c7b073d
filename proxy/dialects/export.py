"""How is a transcript written as captions or as text? As Scriptivox's srt, vtt and text, with its knobs, for all APIs.

::

    srt    1 LF 00:00:00,500 --> 00:00:03,200 LF SPEAKER 1: Hello. LF LF ...
    vtt    WEBVTT LF LF 00:00:00.500 --> 00:00:03.200 LF <v SPEAKER 1>Hello.</v> LF LF ...
    text   SPEAKER 1: Hello. LF LF SPEAKER 2: Hi. LF          a paragraph per turn; with a knob, a line per cue in it
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import Final, TypeVar

from core.transcript.captions import timestamp
from core.transcript.types import Segment, Transcript
from proxy.dialects.segmentation import Segmentation, cues, joined, pieces


class ExportError(ValueError):
    """A parameter that is wrong. name: its name, which is one of ours. Its text is a sentence about it."""

    def __init__(self, name: str, sentence: str) -> None:
        super().__init__(sentence)
        self.name = name


class Format(StrEnum):
    JSON = "json"
    SRT = "srt"
    VTT = "vtt"
    TEXT = "text"


class Speakers(StrEnum):
    """Whether cues say who speaks. AUTO: where there is more than one."""

    TRUE = "true"
    FALSE = "false"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Export:
    """What was asked for. is_cut: whether the caller named any knob that cuts, so that text is cut too."""

    format: Format = Format.JSON
    rules: Segmentation = field(default_factory=Segmentation)
    speakers: Speakers = Speakers.AUTO
    is_cut: bool = False


CONTENT_TYPES: Final[Mapping[Format, str]] = {
    Format.SRT: "text/plain; charset=utf-8",
    Format.VTT: "text/vtt; charset=utf-8",
    Format.TEXT: "text/plain; charset=utf-8",
}

_RANGES: Final = {"max_words": (1, 50), "max_chars": (10, 500), "max_duration": (1, 60)}
_FIELDS: Final = {"max_words": "max_words", "max_chars": "max_chars", "max_duration": "max_duration_s"}
_KNOBS: Final = (*_RANGES, "sentence_aware")
NAMES: Final = (*_KNOBS, "strip_chars", "include_speakers")
MAX_STRIP_CHARS: Final = 32
_INTEGER: Final = re.compile(r"[0-9]{1,9}")


def parse_export(query: Mapping[str, str]) -> Export:
    """What a query asks for; with json the other parameters are not looked at. Raises ExportError."""
    format_ = _one_of("format", query.get("format", Format.JSON), Format)
    if format_ is Format.JSON:
        return Export()
    rules = Segmentation(
        **{_FIELDS[name]: _integer(name, query[name]) for name in _RANGES if name in query},
        sentence_aware=_one_of("sentence_aware", query.get("sentence_aware", "true"), _Bool) is _Bool.TRUE,
        strip_chars=_strip_chars(query.get("strip_chars", "")),
    )
    speakers = _one_of("include_speakers", query.get("include_speakers", Speakers.AUTO), Speakers)
    return Export(format_, rules, speakers, is_cut=any(name in query for name in _KNOBS))


class _Bool(StrEnum):
    TRUE = "true"
    FALSE = "false"


_Choice = TypeVar("_Choice", bound=StrEnum)


def _one_of(name: str, text: str, kind: type[_Choice]) -> _Choice:
    try:
        return kind(text)
    except ValueError:
        raise ExportError(name, f"{name} must be one of: {', '.join(kind)}") from None


def _integer(name: str, text: str) -> int:
    low, high = _RANGES[name]
    if not _INTEGER.fullmatch(text) or not low <= int(text) <= high:
        raise ExportError(name, f"{name} must be an integer from {low} to {high}")
    return int(text)


def _strip_chars(text: str) -> str:
    if len(text) > MAX_STRIP_CHARS:
        raise ExportError("strip_chars", f"strip_chars must be at most {MAX_STRIP_CHARS} characters")
    return text


def label(speaker: int) -> str:
    """`SPEAKER 1` for the first who speaks."""
    return f"SPEAKER {speaker + 1}"


def export(transcript: Transcript, asked: Export) -> str:
    """The transcript in the format asked for, which is not json."""
    labels = _labels(transcript.segments, asked.speakers)
    if asked.format is Format.SRT:
        return _srt(transcript.segments, asked.rules, labels)
    if asked.format is Format.VTT:
        return _vtt(transcript.segments, asked.rules, labels)
    return _text(transcript.segments, asked, labels)


def _labels(segments: Iterable[Segment], wanted: Speakers) -> Mapping[int | None, str]:
    """What to call whom; nobody where no labels are wanted, or nobody was told apart."""
    heard = {piece.speaker for piece in pieces(segments)} - {None}
    if wanted is Speakers.FALSE or (wanted is Speakers.AUTO and len(heard) < 2):
        return {}
    return {speaker: label(speaker) for speaker in heard if speaker is not None}


def _prefix(labels: Mapping[int | None, str], speaker: int | None) -> str:
    return f"{labels[speaker]}: " if speaker in labels else ""


def _srt(segments: Iterable[Segment], rules: Segmentation, labels: Mapping[int | None, str]) -> str:
    return "".join(
        f"{number}\n{timestamp(cue.start, ',')} --> {timestamp(cue.end, ',')}\n"
        f"{_prefix(labels, cue.speaker)}{cue.text}\n\n"
        for number, cue in enumerate(cues(segments, rules), start=1)
    )


def _vtt(segments: Iterable[Segment], rules: Segmentation, labels: Mapping[int | None, str]) -> str:
    return "WEBVTT\n\n" + "".join(
        f"{timestamp(cue.start, '.')} --> {timestamp(cue.end, '.')}\n"
        f"{_voiced(html.escape(cue.text, quote=False), labels.get(cue.speaker))}\n\n"
        for cue in cues(segments, rules)
    )


def _voiced(text: str, name: str | None) -> str:
    return text if name is None else f"<v {name}>{text}</v>"


def _text(segments: Iterable[Segment], asked: Export, labels: Mapping[int | None, str]) -> str:
    """Turns with blank lines between them. Whoever is not told apart, or shall not be named, has one turn."""
    if asked.is_cut:
        lines = [(cue.speaker, cue.text) for cue in cues(segments, asked.rules)]
        turns = [
            (speaker, "\n".join(text for _, text in turn)) for speaker, turn in groupby(lines, key=lambda cue: cue[0])
        ]
    else:
        stream = pieces(segments, asked.rules.strip_chars)
        turns = [(speaker, joined(list(turn))) for speaker, turn in groupby(stream, key=lambda piece: piece.speaker)]
    return "\n\n".join(_prefix(labels, speaker) + text for speaker, text in turns) + "\n" * bool(turns)
