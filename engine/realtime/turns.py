"""When does somebody begin to speak, and when have they finished? By how likely each window of 32 ms holds speech.

Speech begins where `ONSET_WINDOWS` in a row reach the threshold, or rather the prefix before that, and is interrupted
below `threshold - HYSTERESIS`, as everywhere here. A silence of `PAUSE_MS` may be the end, so that the text can be
begun; one of the length that was asked for is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from math import ceil

from core.media.types import SAMPLE_RATE_HZ, WINDOW_SAMPLES
from engine.speech.clips import HYSTERESIS

WINDOW_MS = WINDOW_SAMPLES * 1000 / SAMPLE_RATE_HZ
ONSET_WINDOWS = 2
PAUSE_MS = 200


class Change(Enum):
    """What the newest window tells."""

    BEGAN = auto()
    PAUSED = auto()
    WENT_ON = auto()
    """After a pause."""
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Rule:
    """When a turn is one. silence_ms: that ends it; None where only the app does."""

    threshold: float = 0.5
    prefix_ms: int = 300
    silence_ms: int | None = None


class TurnDetector:
    """Follows one stretch of audio window by window, which it counts from 0.

    start: the first window of the turn, None between turns. last_start: of the newest turn.
    rule: may be replaced at any time.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.now = 0
        self.start: int | None = None
        self.last_start = 0
        self._voiced_end = 0
        self._last_end = 0
        self._onset = 0
        self._paused = False

    @property
    def earliest(self) -> int:
        """Before this window no turn can begin any more."""
        return max(self._last_end, self.now - self._onset - _windows(self.rule.prefix_ms))

    def hear(self, probability: int) -> Change | None:
        """Take the next window. probability: 0 to 255."""
        self.now += 1
        loud = probability >= round(255 * self.rule.threshold)
        if self.start is None:
            self._onset = self._onset + 1 if loud else 0
            return self._begin() if self._onset == ONSET_WINDOWS else None
        if loud or probability >= round(255 * (self.rule.threshold - HYSTERESIS)) > 0:
            return self._speak()
        return self._be_silent()

    @property
    def length_ms(self) -> float:
        """Of the turn."""
        return 0.0 if self.start is None else (self.now - self.start) * WINDOW_MS

    def begin_again(self) -> None:
        """Let the next turn begin where this one is, in the middle of speech."""
        self.start = self.last_start = self._last_end = self.now

    def _begin(self) -> Change:
        self.start = self.last_start = self.earliest
        self._paused = False
        self._voiced_end = self.now
        return Change.BEGAN

    def _speak(self) -> Change | None:
        went_on, self._paused = self._paused, False
        self._voiced_end = self.now
        return Change.WENT_ON if went_on else None

    def _be_silent(self) -> Change | None:
        silence = self.now - self._voiced_end
        if self.rule.silence_ms is not None and silence >= max(_windows(self.rule.silence_ms), 1):
            self.start, self._last_end, self._onset = None, self.now, 0
            return Change.ENDED
        if silence < _windows(PAUSE_MS) or self._paused:
            return None
        self._paused = True
        return Change.PAUSED


def _windows(ms: float) -> int:
    return ceil(ms / WINDOW_MS)
