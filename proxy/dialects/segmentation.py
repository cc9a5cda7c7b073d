"""How do words become cues of the length that a caller wants? Scriptivox's rules for srt, vtt and text, for all APIs.

A cue ends before the word that would take it over `max_words`, `max_chars` or `max_duration_s`, whichever comes first;
one word that is over by itself stands alone. With `sentence_aware` it also ends behind a word with which a sentence
ends, and in any case where another begins to speak. Words carry no spaces, so these are taken from the segment's text:
some languages have none. A segment without words is one piece, and cues are then cut at segments alone.

What is in `strip_chars` is taken out of the text before it is counted, and after its sentences are told apart. A cue of
which nothing is left is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from core.transcript.captions import Cue, in_turn, line, milliseconds
from core.transcript.types import Segment


@dataclass(frozen=True, slots=True)
class Segmentation:
    """How long a cue may be."""

    max_words: int = 4
    max_chars: int = 80
    max_duration_s: int = 10
    sentence_aware: bool = True
    strip_chars: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """What is not cut: a word, or a segment that has none. gap: what stands between it and the piece before."""

    text: str
    start_ms: int
    end_ms: int
    speaker: int | None
    ends_sentence: bool
    gap: str = ""
    words: int = 1


_SENTENCE_END: Final = re.compile(r"[.!?。\uff01\uff1f][\"'”\u2019»」』)\]}]*\Z")
_UNSPACED: Final = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"
)
"""Thai, Lao, Tibetan, Burmese, Khmer, kana and Han: scripts that put no space between words."""
_UNSPACED_EDGE: Final = re.compile(f"[{_UNSPACED}]")


def cues(segments: Iterable[Segment], rules: Segmentation) -> Iterator[Cue]:
    """Cues in order and without overlap, and who says each."""
    return in_turn(_cues(pieces(segments, rules.strip_chars), rules))


def pieces(segments: Iterable[Segment], strip_chars: str = "") -> Iterator[Piece]:
    """What `segments` consist of; what nothing is left of is not among it."""
    stripped = dict.fromkeys(map(ord, strip_chars))
    before, gap = "", ""
    for segment in segments:
        is_first = True
        for found, piece in _of_segment(segment):
            gap, text = gap or found, line(piece.text.translate(stripped))
            if text:
                if is_first:
                    gap = _join(before, text)
                yield replace(piece, text=text, gap=gap if before else "", words=len(text.split()))
                before, gap, is_first = text, "", False


def _of_segment(segment: Segment) -> Iterator[tuple[str, Piece]]:
    """Its pieces as they were said, and what stands before each within it."""
    if not segment.words:
        start, end = milliseconds(segment.start_s), milliseconds(segment.end_s)
        yield "", Piece(segment.text, start, end, segment.speaker, _ends_sentence(segment.text))
        return
    at = 0
    for word in segment.words:
        text = word.text.strip()
        found = segment.text.find(text, at)
        gap = " " if found < 0 or any(map(str.isspace, segment.text[at:found])) else ""
        at = at if found < 0 else found + len(text)
        speaker = segment.speaker if word.speaker is None else word.speaker
        start, end = milliseconds(word.start_s), milliseconds(word.end_s)
        yield gap, Piece(text, start, end, speaker, _ends_sentence(text))


def _ends_sentence(text: str) -> bool:
    return _SENTENCE_END.search(text.rstrip()) is not None


def _join(before: str, after: str) -> str:
    """What stands between two segments."""
    return "" if before and _UNSPACED_EDGE.match(before[-1]) and _UNSPACED_EDGE.match(after[0]) else " "


@dataclass(slots=True)
class _Open:
    """A cue that is still being filled."""

    pieces: list[Piece] = field(default_factory=list)

    def takes(self, piece: Piece, rules: Segmentation) -> bool:
        if not self.pieces:
            return True
        longer = [*self.pieces, piece]
        return (
            piece.speaker == self.pieces[0].speaker
            and sum(each.words for each in longer) <= rules.max_words
            and len(joined(longer)) <= rules.max_chars
            and piece.end_ms - self.pieces[0].start_ms <= rules.max_duration_s * 1000
        )


def _cues(stream: Iterable[Piece], rules: Segmentation) -> Iterator[Cue]:
    filling = _Open()
    for piece in stream:
        if not filling.takes(piece, rules):
            yield _cue(filling.pieces)
            filling = _Open()
        filling.pieces.append(piece)
        if rules.sentence_aware and piece.ends_sentence:
            yield _cue(filling.pieces)
            filling = _Open()
    if filling.pieces:
        yield _cue(filling.pieces)


def _cue(said: Sequence[Piece]) -> Cue:
    return Cue(said[0].start_ms, max(piece.end_ms for piece in said), joined(said), said[0].speaker)


def joined(said: Sequence[Piece]) -> str:
    """The text of pieces that follow one another."""
    return "".join(piece.gap * (index > 0) + piece.text for index, piece in enumerate(said))
