"""How do the texts of clips become the text of a file?

Times become absolute and never run backwards; clips' texts are joined by one space where the language puts spaces
between words. A stream is joined by the same `TextJoiner`, piece by piece, so that its deltas spell the final text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from core.transcript.languages import SPACELESS
from core.transcript.types import Segment, Task, Transcript, Word
from engine.speech.whisper import AUDIO_TOKENS_PER_S
from engine.speech.words import place_words
from engine.types import Clip, ClipTranscript


@dataclass(frozen=True, slots=True)
class HeardClip:
    """What was heard in one clip, and where in the file that is."""

    start_s: float
    duration_s: float
    transcript: ClipTranscript

    @classmethod
    def of(cls, clip: Clip, transcript: ClipTranscript) -> HeardClip:
        return cls(clip.start_s, clip.duration_s, place_words(transcript, clip.speech))

    @property
    def end_s(self) -> float:
        return self.start_s + self.duration_s


class TextJoiner:
    """Joins the pieces of a text as they come: no space at either end, one separator between clips."""

    def __init__(self, language: str, task: Task) -> None:
        written = "en" if task is Task.TRANSLATE else language
        self._separator = "" if written in SPACELESS else " "
        self._held = ""
        self._begun = False
        self._clip_begun = False

    def add(self, piece: str) -> str:
        """Return what the next piece of the current clip adds to the text; spaces at its end wait for what follows."""
        if not self._clip_begun:
            piece = piece.lstrip()
            self._held = self._separator if self._begun else ""
        spoken = piece.rstrip()
        if not spoken:
            self._held += piece
            return ""
        added = self._held + spoken
        self._held = piece[len(spoken) :]
        self._begun = self._clip_begun = True
        return added

    def end_clip(self) -> None:
        """Say that the next piece belongs to another clip."""
        self._clip_begun = False


def stitch(clips: Sequence[HeardClip], *, task: Task, language: str, duration_s: float) -> Transcript:
    """Join the transcripts of a file's clips, which come in the order of the file.

    duration_s: of the whole file, silence included; audio tokens are counted over all of it. The prompt goes before
    every clip but is one text, so its tokens are counted once.
    """
    transcripts = [clip.transcript for clip in clips]
    return Transcript(
        task=task,
        language=language,
        duration_s=duration_s,
        text=join_texts((transcript.text for transcript in transcripts), language=language, task=task),
        segments=tuple(_segments(clips)),
        input_text_tokens=max((transcript.prompt_tokens for transcript in transcripts), default=0),
        input_audio_tokens=ceil(duration_s * AUDIO_TOKENS_PER_S),
        output_tokens=sum(transcript.output_tokens for transcript in transcripts),
        logprobs=tuple(logprob for transcript in transcripts for logprob in transcript.logprobs),
    )


def join_texts(texts: Iterable[str], *, language: str, task: Task) -> str:
    """Join the texts of clips."""
    joiner = TextJoiner(language, task)
    pieces = []
    for text in texts:
        pieces.append(joiner.add(text))
        joiner.end_clip()
    return "".join(pieces)


def _segments(clips: Iterable[HeardClip]) -> Iterator[Segment]:
    """Yield all segments with absolute times; none begins before the one before it has ended."""
    segment_floor_s = word_floor_s = 0.0
    for clip in clips:
        for segment in _spoken_segments(clip):
            start_s, end_s = _place(segment, clip, segment_floor_s)
            words = tuple(_words(segment, clip, word_floor_s))
            segment_floor_s = end_s
            word_floor_s = words[-1].end_s if words else word_floor_s
            yield replace(segment, start_s=start_s, end_s=end_s, words=words)


def _spoken_segments(clip: HeardClip) -> Iterable[Segment]:
    """Return the clip's segments that have text; a backend that gives text without times gets one segment."""
    transcript = clip.transcript
    if not transcript.segments and transcript.text.strip():
        return (Segment(start_s=0.0, end_s=clip.duration_s, text=transcript.text),)
    return (segment for segment in transcript.segments if segment.text.strip())


def _words(segment: Segment, clip: HeardClip, floor_s: float) -> Iterator[Word]:
    for word in segment.words:
        if text := word.text.strip():
            start_s, floor_s = _place(word, clip, floor_s)
            yield replace(word, text=text, start_s=start_s, end_s=floor_s)


def _place(timed: Segment | Word, clip: HeardClip, floor_s: float) -> tuple[float, float]:
    """Return absolute start and end in whole milliseconds: inside the clip, and above all not before `floor_s`."""
    start_s, end_s = (
        round(min(max(clip.start_s + offset_s, clip.start_s), clip.end_s), 3)
        for offset_s in (timed.start_s, timed.end_s)
    )
    start_s = max(start_s, floor_s)
    return start_s, max(end_s, start_s)
