"""Whose words are these? Joins a transcript with the turns of its speakers.

A word is whose turns cover most of it; where two speak at once, whose turn is the longer; where nobody seems to speak,
whose turn is the nearest. A segment in which the speaker changes is cut before the word with which the other begins. A
segment without words is one speaker's: whoever speaks most in it.

Speakers are counted as they begin to speak in the transcript; who says nothing that became text is not counted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from core.transcript.types import Segment, Speaker, Transcript, Voice, Word


@dataclass(frozen=True, slots=True)
class Turn:
    """Somebody speaks. Times are seconds from the start of the file. speaker: counted from 0, in any order."""

    start_s: float
    end_s: float
    speaker: int

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


def attribute(
    transcript: Transcript, turns: Sequence[Turn], names: Mapping[int, str], voices: Sequence[Voice] = ()
) -> Transcript:
    """The transcript with its speakers, its segments cut where they change.

    names: of the speakers that have one. voices: of each speaker of the turns; none where they shall not be told, and
    one of nothing but zeros is not known. Where there are no turns, everything is one speaker's.
    """
    timeline = _Timeline(turns)
    pieces = [piece for segment in transcript.segments for piece in _by_speaker(segment, timeline)]
    order = list(dict.fromkeys(piece.speaker for piece in pieces if piece.speaker is not None))
    places = {speaker: place for place, speaker in enumerate(order)}
    speaking_s: defaultdict[int, float] = defaultdict(float)
    for turn in turns:
        speaking_s[turn.speaker] += turn.duration_s
    known = {speaker: voice for speaker, voice in enumerate(voices) if any(voice.values)}
    return replace(
        transcript,
        segments=tuple(_numbered(piece, places) for piece in pieces),
        speakers=tuple(
            Speaker(names.get(speaker), round(speaking_s[speaker], 3), known.get(speaker)) for speaker in order
        ),
    )


class _Timeline:
    """The turns of a file, to be asked about any stretch of it."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = sorted(turns, key=lambda turn: (turn.start_s, turn.end_s, turn.speaker))
        self._starts = [turn.start_s for turn in self._turns]
        self._longest_s = max((turn.duration_s for turn in self._turns), default=0.0)

    def speaker_at(self, start_s: float, end_s: float) -> int:
        """Who speaks then."""
        covered: defaultdict[int, float] = defaultdict(float)
        longest: defaultdict[int, float] = defaultdict(float)
        for turn in self._between(start_s, end_s):
            overlap_s = min(turn.end_s, end_s) - max(turn.start_s, start_s)
            if overlap_s > 0:
                covered[turn.speaker] += overlap_s
                longest[turn.speaker] = max(longest[turn.speaker], turn.duration_s)
        if covered:
            return max(covered, key=lambda speaker: (round(covered[speaker], 3), longest[speaker], -speaker))
        return self._nearest((start_s + end_s) / 2)

    def _between(self, start_s: float, end_s: float) -> Sequence[Turn]:
        """The turns that may overlap with a stretch."""
        first = bisect_left(self._starts, start_s - self._longest_s)
        return self._turns[first : bisect_right(self._starts, end_s)]

    def _nearest(self, at_s: float) -> int:
        nearest = min(self._turns, key=lambda turn: max(turn.start_s - at_s, at_s - turn.end_s), default=None)
        return 0 if nearest is None else nearest.speaker


def _by_speaker(segment: Segment, timeline: _Timeline) -> Iterator[Segment]:
    """The segment, or what it is cut into."""
    if not segment.words:
        yield replace(segment, speaker=timeline.speaker_at(segment.start_s, segment.end_s))
        return
    words = [replace(word, speaker=timeline.speaker_at(word.start_s, word.end_s)) for word in segment.words]
    groups = [tuple(group) for _, group in groupby(words, key=lambda word: word.speaker)]
    texts = _cut(segment.text, groups)
    if len(groups) == 1:
        yield replace(segment, words=groups[0], speaker=groups[0][0].speaker)
    elif texts is None:  # the words are not those of the text
        most = timeline.speaker_at(segment.start_s, segment.end_s)
        yield replace(segment, words=tuple(replace(word, speaker=most) for word in words), speaker=most)
    else:
        yield from _pieces(segment, groups, texts)


def _pieces(segment: Segment, groups: Sequence[tuple[Word, ...]], texts: Sequence[str]) -> Iterator[Segment]:
    for index, (words, text) in enumerate(zip(groups, texts, strict=True)):
        yield replace(
            segment,
            start_s=words[0].start_s if index else min(segment.start_s, words[0].start_s),
            end_s=words[-1].end_s if index + 1 < len(groups) else max(segment.end_s, words[-1].end_s),
            text=text,
            tokens=(),  # nobody says which token is of which piece
            words=words,
            speaker=words[0].speaker,
        )


def _cut(text: str, groups: Sequence[tuple[Word, ...]]) -> list[str] | None:
    """The text of each group of words, spaces before it included; None where the words are not found in the text."""
    cuts, at = [0], 0
    for group in groups:
        for number, word in enumerate(group):
            found = text.find(word.text, at)
            if found < 0:
                return None
            if number == 0 and group is not groups[0]:
                cuts.append(len(text[:found].rstrip()))
            at = found + len(word.text)
    return [text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _numbered(piece: Segment, places: Mapping[int, int]) -> Segment:
    words = tuple(
        replace(word, speaker=places[word.speaker]) if word.speaker is not None else word for word in piece.words
    )
    return replace(piece, words=words, speaker=None if piece.speaker is None else places[piece.speaker])
