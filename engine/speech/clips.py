"""Where may a file be cut so that no word is lost?

Whisper hears at most 30 s at once. The cutter walks over the voice activity windows and closes a clip

1. after `MAX_PAUSE_S` of silence, which is then left out, but for padding on both sides of the speech;
2. when a clip is full: at its longest pause of the last `SEARCH_S`, else at its latest pause;
3. when a full clip holds no pause: between the two least speech-like, then quietest, windows of the last `SEARCH_S`.

A pause is `silence_duration_ms` without speech. As in Silero's own iterator, speech begins at `threshold` and ends
below `threshold - 0.15`. Clips follow one another without overlap, each is one unbroken stretch of the file, and every
window at or above `threshold` is in exactly one of them. Without voice activity detection every window counts as
speech, so that rule 3 alone cuts.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import pairwise
from math import ceil

from engine.errors import BackendError
from engine.speech.frames import WINDOW_BYTES
from engine.types import (
    BYTES_PER_SAMPLE,
    MAX_CLIP_S,
    MAX_SILENCE_DURATION_MS,
    SAMPLE_RATE_HZ,
    WINDOW_SAMPLES,
    AudioBlock,
    Clip,
    VoiceActivity,
)

WINDOW_S = WINDOW_SAMPLES / SAMPLE_RATE_HZ
MAX_CLIP_WINDOWS = int(MAX_CLIP_S / WINDOW_S)

MAX_PAUSE_S = MAX_SILENCE_DURATION_MS / 1000
SEARCH_S = 5.0

HYSTERESIS = 0.15
"""Silero's `neg_threshold` is this much below its threshold, so that a word does not end at its softest sound."""

MAX_PAUSE_WINDOWS = int(MAX_PAUSE_S / WINDOW_S)
SEARCH_WINDOWS = int(SEARCH_S / WINDOW_S)

EVERYTHING_IS_SPEECH = VoiceActivity(threshold=0.0)


class ClipCutter:
    """Cuts one file, block by block. Holds at most about one clip and one block of audio.

    Windows are counted from the start of the file; `_base` is the first one still held.
    """

    def __init__(self, voice_activity: VoiceActivity | None) -> None:
        activity = EVERYTHING_IS_SPEECH if voice_activity is None else voice_activity
        self._onset = round(255 * activity.threshold)
        self._offset = max(0, round(255 * (activity.threshold - HYSTERESIS)))
        self._padding = _windows(activity.prefix_padding_ms / 1000)
        self._pause = max(_windows(activity.silence_duration_ms / 1000), 1)
        self._pcm = bytearray()
        self._speech = bytearray()
        self._base = 0
        self._start: int | None = None
        self._voiced_end = 0
        self._pauses: list[tuple[int, int]] = []
        self._heard_bytes = 0

    @property
    def heard_s(self) -> float:
        """How much audio has been pushed, silence included."""
        return self._heard_bytes / (BYTES_PER_SAMPLE * SAMPLE_RATE_HZ)

    def push(self, block: AudioBlock) -> Iterator[Clip]:
        """Take the next block and yield the clips that it completes; exhaust it before the next `push`.

        Raises BackendError if the block's PCM and windows do not belong together.
        """
        self._accept(block)
        for probability in block.speech:
            self._speech.append(probability)
            self._hear(probability)
            if clip := self._advance():
                yield clip

    def finish(self) -> Iterator[Clip]:
        """Yield the last clip, if speech is still open at the end of the file."""
        if self._start is not None:
            yield self._close(self._start)

    @property
    def _now(self) -> int:
        """One past the newest window."""
        return self._base + len(self._speech)

    @property
    def _silence(self) -> int:
        """How many windows have passed since speech was last heard in the open clip."""
        return self._now - self._voiced_end

    def _accept(self, block: AudioBlock) -> None:
        whole = len(block.speech) * WINDOW_BYTES
        ended = self._heard_bytes % WINDOW_BYTES != 0
        if block.speech and (ended or not whole - WINDOW_BYTES < len(block.pcm) <= whole):
            raise BackendError("the decoder sent a block whose windows do not match its samples")
        self._pcm += block.pcm
        self._heard_bytes += len(block.pcm)

    def _hear(self, probability: int) -> None:
        """Note whether the newest window is speech, and the pause that it ends."""
        index = self._now - 1
        if self._start is None:
            if probability >= self._onset:
                self._start = max(self._base, index - self._padding)
                self._voiced_end = self._now
            return
        paused = index - self._voiced_end >= self._pause
        if probability >= (self._onset if paused else self._offset):
            if paused:
                self._pauses.append((self._voiced_end, index))
            self._voiced_end = self._now

    def _advance(self) -> Clip | None:
        if self._start is None:
            self._forget(self._now - self._padding)
            return None
        full = self._now - self._start == MAX_CLIP_WINDOWS
        if self._silence > MAX_PAUSE_WINDOWS or (full and self._silence >= self._pause):
            return self._close(self._start)
        return self._split(self._start) if full else None

    def _close(self, start: int) -> Clip:
        """End the open clip behind its last speech."""
        end = min(self._voiced_end + self._padding, self._now)
        return self._take(start, end, then=None)

    def _split(self, start: int) -> Clip:
        """End a full clip; the speech behind the cut opens the next one."""
        if self._pauses:
            begin, end = self._best_pause()
            middle = (begin + end) // 2
            return self._take(start, min(begin + self._padding, middle), then=max(end - self._padding, middle))
        cut = self._quietest_boundary()
        return self._take(start, cut, then=cut if cut < self._voiced_end else None)

    def _best_pause(self) -> tuple[int, int]:
        recent = [pause for pause in self._pauses if pause[0] >= self._now - SEARCH_WINDOWS]
        return max(recent, key=lambda pause: pause[1] - pause[0]) if recent else self._pauses[-1]

    def _quietest_boundary(self) -> int:
        """Find the window before which a cut hurts least; speech is compared coarsely, so that loudness has a say."""
        first = self._now - SEARCH_WINDOWS
        scores = [(self._speech[w - self._base] >> 4, self._power(w)) for w in range(first - 1, self._now)]
        hurt = [(before[0] + after[0], before[1] + after[1]) for before, after in pairwise(scores)]
        return first + min(range(len(hurt)), key=lambda position: (hurt[position], -position))

    def _power(self, window: int) -> float:
        samples = array("h", self._slice(window, window + 1))
        return sum(sample * sample for sample in samples) / max(len(samples), 1)

    def _take(self, start: int, end: int, *, then: int | None) -> Clip:
        """Cut out windows `start` to `end`; the next clip begins at `then`, or with the next speech."""
        speech = bytes(self._speech[start - self._base : end - self._base])
        clip = Clip(start * WINDOW_SAMPLES / SAMPLE_RATE_HZ, self._slice(start, end), speech)
        self._start = then
        self._pauses = [] if then is None else [pause for pause in self._pauses if pause[0] >= then]
        self._forget(end if then is None else then)
        return clip

    def _slice(self, start: int, end: int) -> bytes:
        return bytes(memoryview(self._pcm)[(start - self._base) * WINDOW_BYTES : (end - self._base) * WINDOW_BYTES])

    def _forget(self, before: int) -> None:
        if (count := before - self._base) > 0:
            del self._pcm[: count * WINDOW_BYTES]
            del self._speech[:count]
            self._base = before


def _windows(seconds: float) -> int:
    """Round up to whole windows, so that an option is never undercut."""
    return ceil(seconds / WINDOW_S)
