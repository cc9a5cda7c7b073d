"""Where in a clip is a word? Where its alignment puts it, as far as that is speech.

Alignment (dynamic time warping over cross-attention, as OpenAI's `whisper/timing.py`) shares out all of a clip among
its words, so that the silence before a word counts as part of it, and ends the last word where the model begins to
expect the end. Voice activity has no such habits, and is known for every backend's clips:

- a word is not interrupted: of the stretches of speech that its times cover, it is in the longest;
- speech that goes on behind a segment's last word belongs to it, as far as the model says that the segment lasts.

Words that cover no speech at all stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from engine.types import SAMPLE_RATE_HZ, WINDOW_SAMPLES, ClipTranscript, Segment, Word

SPEECH = round(255 * 0.35)
"""Where speech ends for Silero's own iterator, 0.15 below its threshold: a word begins and ends with soft sounds."""

PAUSE_S = 0.2
"""A shorter gap is a stop consonant, or a moment of doubt."""

WINDOW_S = WINDOW_SAMPLES / SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class Stretch:
    """Speech without a pause; times count from the start of the clip."""

    start_s: float
    end_s: float

    def overlap_s(self, word: Word) -> float:
        """How much of a word is in it."""
        return min(self.end_s, word.end_s) - max(self.start_s, word.start_s)


def stretches(speech: bytes) -> tuple[Stretch, ...]:
    """Where there is speech, from how likely each window holds it (0 to 255)."""
    found: list[Stretch] = []
    for index, probability in enumerate(speech):
        if probability < SPEECH:
            continue
        start_s, end_s = index * WINDOW_S, (index + 1) * WINDOW_S
        if found and start_s - found[-1].end_s < PAUSE_S:
            start_s = found.pop().start_s
        found.append(Stretch(start_s, end_s))
    return tuple(found)


def place_words(transcript: ClipTranscript, speech: bytes) -> ClipTranscript:
    """Move the words of a clip into its speech. speech: how likely each window of the clip holds it (0 to 255)."""
    if not any(segment.words for segment in transcript.segments):
        return transcript
    spoken = stretches(speech)
    segments = tuple(
        replace(segment, words=tuple(_placed(segment, spoken))) if segment.words else segment
        for segment in transcript.segments
    )
    return replace(transcript, segments=segments)


def _placed(segment: Segment, spoken: tuple[Stretch, ...]) -> Iterator[Word]:
    for word in segment.words:
        covered = max(spoken, key=lambda stretch: stretch.overlap_s(word), default=None)
        if covered is None or covered.overlap_s(word) <= 0:
            yield word
            continue
        end_s = min(word.end_s, covered.end_s)
        if word is segment.words[-1]:
            end_s = max(end_s, min(covered.end_s, segment.end_s))
        yield replace(word, start_s=max(word.start_s, covered.start_s), end_s=end_s)
