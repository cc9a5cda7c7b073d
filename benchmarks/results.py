"""Who heard what in which recording, and how well?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from benchmarks.listeners import BACKENDS, BARE, SYSTEMS, Heard
from benchmarks.recordings import Recording, Span
from benchmarks.scores import Errors, count_errors, missed, silent_speech

SHORT, QUIET, LONG, MEETINGS, SILENCE, WORDS = "short", "quiet", "long", "meetings", "silence", "words"
PARTS = (SHORT, QUIET, LONG, MEETINGS, SILENCE, WORDS)


@dataclass(frozen=True, slots=True)
class Result:
    """What one listener heard in one recording, and how long that took."""

    part: str
    system: str
    recording: Recording
    heard: Heard
    took_s: float

    @property
    def errors(self) -> Errors:
        return count_errors(self.recording.text, self.heard.text, self.recording.language)

    @property
    def unheard_s(self) -> float:
        """Seconds of speech for which there is no text."""
        return sum(end - start for start, end in silent_speech(self.recording, self.heard.segments))


class Results:
    """All that was heard, by part, listener and recording."""

    def __init__(self, results: Iterable[Result]) -> None:
        self.all = tuple(results)
        self._found = {(one.part, one.system, one.recording.name): one for one in self.all}

    @cached_property
    def systems(self) -> tuple[str, ...]:
        return tuple(name for name in SYSTEMS if any(one.system == name for one in self.all))

    @property
    def backends(self) -> tuple[str, ...]:
        return tuple(name for name in self.systems if name in BACKENDS)

    def of(self, part: str, system: str) -> tuple[Result, ...]:
        return tuple(one for one in self.all if (one.part, one.system) == (part, system))

    def recordings(self, part: str) -> tuple[Recording, ...]:
        return tuple({one.recording.name: one.recording for one in self.all if one.part == part}.values())

    def find(self, part: str, system: str, recording: str) -> Result | None:
        return self._found.get((part, system, recording))

    def missed(self, result: Result) -> list[Span]:
        """What bare faster-whisper heard, and this listener did not."""
        bare = self.find(result.part, BARE, result.recording.name)
        return missed(result.recording, result.heard.segments, bare.heard.segments) if bare else []


def pooled(results: Iterable[Result]) -> Errors:
    """The errors of several recordings as if they were one."""
    return sum((one.errors for one in results), Errors())


def in_language(results: Iterable[Result], language: str) -> tuple[Result, ...]:
    return tuple(one for one in results if one.recording.language == language)


def inventions(results: Results, system: str, kind: str = "") -> list[Result]:
    """Recordings in which nobody speaks and a listener heard something, all or of a kind."""
    found = results.of(SILENCE, system)
    return [one for one in found if one.heard.text.strip() and one.recording.name.startswith(kind)]
