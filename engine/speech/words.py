"""Where in a clip is a word? Where its alignment puts it, as far as that is speech.

Alignment (dynamic time warping over cross-attention, as OpenAI's `whisper/timing.py`) shares out all of a clip among
its words, so that the silence before a word counts as part of it, and ends the last word where the model begins to
expect the end. Voice activity has no such habits, and is known for every backend's clips:

- a word is not interrupted: of the stretches of speech that its times cover, it is in the longest;
- speech that goes on behind a segment's last word belongs to it, as far as the model says that the segment lasts;
- words follow one another, and a word takes time: one without is at the end of the speech before it, where it shares
  the word before's time if nothing is left of that speech.

Words that cover no speech at all stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from core.media.types import SAMPLE_RATE_HZ, WINDOW_SAMPLES
from core.transcript.types import Segment, Word
from engine.types import ClipTranscript

SPEECH = round(255 * 0.35)
"""Where speech ends for Silero's own iterator, 0.15 below its threshold: a word begins and ends with soft sounds."""

PAUSE_S = 0.2
"""A shorter gap is a stop consonant, or a moment of doubt."""

WORD_S = 0.2
"""How long a word is that was given no time; a short one of a fluent speaker is as long."""

SHORTEST_S = 0.02
"""What Whisper's times are counted in."""

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
    found = [list(_placed(segment, spoken)) for segment in transcript.segments]
    words = iter(_in_turn([word for words in found for word in words], spoken, len(speech) * WINDOW_S))
    segments = tuple(
        replace(segment, words=tuple(islice(words, len(segment.words)))) for segment in transcript.segments
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


def _in_turn(words: Iterable[Word], spoken: tuple[Stretch, ...], clip_s: float) -> list[Word]:
    """Let words begin where the one before has ended, and take time."""
    turns: list[Word] = []
    for word in words:
        floor_s = turns[-1].end_s if turns else 0.0
        start_s, end_s = max(word.start_s, floor_s), min(word.end_s, clip_s) if spoken else word.end_s
        if end_s - start_s < SHORTEST_S:
            start_s, end_s = _in_speech_before(max(word.end_s, floor_s), floor_s, spoken)
        if end_s - start_s < SHORTEST_S and turns:
            start_s, end_s = _share(turns, word)
        turns.append(replace(word, start_s=start_s, end_s=max(start_s, end_s)))
    return turns


def _in_speech_before(moment_s: float, floor_s: float, spoken: tuple[Stretch, ...]) -> tuple[float, float]:
    """Where a word ends that ended at a moment, and takes time, but none before `floor_s`."""
    before = max((one for one in spoken if one.start_s < moment_s), key=lambda one: one.start_s, default=None)
    if before is None:
        return moment_s, moment_s
    end_s = min(before.end_s, moment_s)
    return max(end_s - WORD_S, before.start_s, floor_s), end_s


def _share(turns: list[Word], word: Word) -> tuple[float, float]:
    """Take a word's part, by its letters, of the time of the word before."""
    before = turns.pop()
    length = (before.end_s - before.start_s) * len(word.text) / (len(before.text) + len(word.text))
    turns.append(replace(before, end_s=before.end_s - length))
    return before.end_s - length, before.end_s
