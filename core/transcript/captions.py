"""How do segments become the lines of a subtitle file?

::

    srt    1 LF 00:00:00,000 --> 00:00:03,320 LF Hi. LF LF ...
    vtt    WEBVTT LF LF 00:00:00.000 --> 00:00:03.320 LF Hi. LF LF ...

Sources: WebVTT (W3C), section 4; SubRip as players read it. All times are rounded to milliseconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from core.transcript.types import Segment


@dataclass(frozen=True, slots=True)
class Cue:
    """One line of a subtitle file; times in milliseconds, `start < end`. speaker: who says it, counted from 0."""

    start: int
    end: int
    text: str
    speaker: int | None = None


def srt(segments: Iterable[Segment]) -> str:
    """SubRip."""
    return "".join(
        f"{number}\n{timestamp(cue.start, ',')} --> {timestamp(cue.end, ',')}\n{cue.text}\n\n"
        for number, cue in enumerate(cues(segments), start=1)
    )


def vtt(segments: Iterable[Segment]) -> str:
    """WebVTT."""
    return "WEBVTT\n\n" + "".join(
        f"{timestamp(cue.start, '.')} --> {timestamp(cue.end, '.')}\n{_escaped(cue.text)}\n\n" for cue in cues(segments)
    )


def cues(segments: Iterable[Segment]) -> Iterator[Cue]:
    """The segments that say something, as `in_turn` has them."""
    said = ((segment, line(segment.text)) for segment in segments)
    yield from in_turn(
        Cue(milliseconds(segment.start_s), milliseconds(segment.end_s), text) for segment, text in said if text
    )


def in_turn(lines: Iterable[Cue]) -> Iterator[Cue]:
    """Those cues in order and without overlap: one ends where the next one starts.

    Every start is later than the one before, so that every cue lasts at least a millisecond and none is lost.
    """
    waiting: Cue | None = None
    for cue in lines:
        start = cue.start
        if waiting is not None:
            start = max(start, waiting.start + 1)
            yield replace(waiting, end=min(waiting.end, start))
        waiting = replace(cue, start=start, end=max(cue.end, start + 1))
    if waiting is not None:
        yield waiting


# Line breaks, the blank line that would end a cue, and all other control characters of ASCII, Latin-1 and Unicode.
_BREAKS: Final = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+")
_ARROW: Final = re.compile(r"-{2,}>")


def line(text: str) -> str:
    """`text` as one line that no subtitle reader takes for a line of times."""
    return _ARROW.sub("->", _BREAKS.sub(" ", text)).strip()


def _escaped(text: str) -> str:
    # WebVTT, section 4.2.2: `&` and `<` open a character reference and a tag.
    return text.replace("&", "&amp;").replace("<", "&lt;")


def timestamp(total: int, mark: str) -> str:
    """`total` milliseconds as `HH:MM:SS` and thousands behind `mark`; integers throughout, so 59.9996 carries."""
    seconds, thousandths = divmod(total, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{mark}{thousandths:03}"


def milliseconds(seconds: float) -> int:
    """The nearest millisecond, half up; times before the start, or that are no number, count as the start."""
    return max(0, math.floor(seconds * 1000 + 0.5)) if math.isfinite(seconds) else 0
