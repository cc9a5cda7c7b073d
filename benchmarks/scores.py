"""How well was a recording heard? Errors against its text, and speech for which there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import jiwer
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from benchmarks.recordings import Recording, Span, TimedWord, merged

BY_CHARACTER = frozenset({"zh", "ja", "yue"})
"""Written without spaces: what is counted is characters."""

LEAST_S = 1.5
"""Speech of this length and without text is a stretch that was not heard."""
SLACK_S = 0.25
"""Segments may begin and end so much beside the speech."""


@dataclass(frozen=True, slots=True)
class Errors:
    """words: how many there should be, of characters in languages written without spaces."""

    words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def total(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Percent of the words."""
        return 100 * self.total / max(self.words, 1)

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.words + other.words,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


def count_errors(said: str, heard: str, language: str) -> Errors:
    """What has to be changed to make what was said of what was heard, both normalised as Whisper's authors do."""
    normal = _normaliser(language)
    counted = jiwer.process_words(normal(said), normal(heard))
    words = counted.hits + counted.substitutions + counted.deletions
    return Errors(words, counted.substitutions, counted.deletions, counted.insertions)


@cache
def _normaliser(language: str) -> Callable[[str], str]:
    if language == "en":
        normal: Callable[[str], str] = EnglishTextNormalizer()
    else:
        normal = BasicTextNormalizer(split_letters=language in BY_CHARACTER)
    return lambda text: " ".join(normal(text).split())


# --- speech without text


def silent_speech(recording: Recording, segments: Iterable[TimedWord]) -> list[Span]:
    """The speech of a recording that no segment with text covers."""
    covered = merged([(one.start_s - SLACK_S, one.end_s + SLACK_S) for one in segments if one.text.strip()])
    return [piece for span in recording.speech for piece in _uncovered(span, covered)]


def _uncovered(span: Span, covered: Sequence[Span]) -> Iterable[Span]:
    start_s, end_s = span
    for first_s, last_s in covered:
        if first_s > start_s:
            yield start_s, min(first_s, end_s)
        start_s = max(start_s, last_s)
        if start_s >= end_s:
            return
    yield start_s, end_s


def missed(recording: Recording, heard: Iterable[TimedWord], bare: Iterable[TimedWord]) -> list[Span]:
    """The stretches of at least `LEAST_S` that were not heard, and for which hearing without detection has text."""
    others = merged([(one.start_s, one.end_s) for one in bare if one.text.strip()])
    stretches = [(start, end) for start, end in silent_speech(recording, heard) if end - start >= LEAST_S]
    return [one for one in stretches if sum(_overlap(one, other) for other in others) >= (one[1] - one[0]) / 2]


def _overlap(one: Span, other: Span) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


# --- the times of words


def word_time_errors(said: Sequence[TimedWord], heard: Sequence[TimedWord]) -> list[float]:
    """For each word that was heard right, how many seconds it is off at its worse end."""
    normal = BasicTextNormalizer()
    ours, theirs = (["".join(normal(word.text).split()) or "-" for word in words] for words in (said, heard))
    if not ours or not theirs:
        return []
    (chunks,) = jiwer.process_words([" ".join(ours)], [" ".join(theirs)]).alignments
    pairs = [
        (said[chunk.ref_start_idx + step], heard[chunk.hyp_start_idx + step])
        for chunk in chunks
        if chunk.type == "equal"
        for step in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]
    return [max(abs(one.start_s - other.start_s), abs(one.end_s - other.end_s)) for one, other in pairs]
