"""Where may a file be cut so that no word is lost?

Whisper hears at most 30 s at once. The cutter walks over the voice activity windows and closes a clip

1. after `MAX_PAUSE_S` of silence, which is then left out, but for padding on both sides of the speech;
2. when a clip is full and speech goes on: at its longest pause of the last `SEARCH_S`, else at its latest pause;
3. when a full clip holds no pause: between the two least speech-like, then quietest, windows of the last `SEARCH_S`.

What is left of the speech behind a full clip is heard with at least `MIN_REST_S` of it: a word that stands alone is
heard badly. So the cutter first looks that far ahead, and where speech ends there the cut lies earlier.

Shorter silence is heard as well, and at both ends of a file up to `EDGE_S` of it: it costs nothing, since a clip costs
what 30 s cost, the detector takes some speech for silence, and a recording that is trimmed is heard a little worse than
as it was made (`docs/hearing.md`). A pause is `silence_duration_ms` without speech. As in Silero's own iterator, speech
begins at `threshold` and ends below `threshold - 0.15`. Clips follow one another without overlap, each is one unbroken
stretch of the file, and every window at or above `threshold` is in exactly one of them, but where fewer than
`MIN_SPEECH_WINDOWS` stand between long silences: that is a click, or hum that begins. Without voice activity detection
every window counts as speech, so that rule 3 alone cuts.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import pairwise
from math import ceil

from core.errors import BackendError
from core.media.frames import WINDOW_BYTES
from core.media.types import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ, WINDOW_SAMPLES, AudioBlock
from engine.types import MAX_CLIP_BYTES, MAX_CLIP_S, Clip, VoiceActivity

WINDOW_S = WINDOW_SAMPLES / SAMPLE_RATE_HZ
MAX_CLIP_WINDOWS = int(MAX_CLIP_S / WINDOW_S)

MAX_PAUSE_S = 10.0
EDGE_S = 3.0
SEARCH_S = 5.0
MIN_REST_S = 5.0
"""No more than `MAX_PAUSE_S`, so that speech is not open any more that ended so long before."""

MIN_SPEECH_WINDOWS = 4
"""The shortest word has some 150 ms."""

HYSTERESIS = 0.15
"""Silero's `neg_threshold` is this much below its threshold, so that a word does not end at its softest sound."""

MAX_PAUSE_WINDOWS = int(MAX_PAUSE_S / WINDOW_S)
EDGE_WINDOWS = int(EDGE_S / WINDOW_S)
SEARCH_WINDOWS = int(SEARCH_S / WINDOW_S)
MIN_REST_WINDOWS = int(MIN_REST_S / WINDOW_S)

EVERYTHING_IS_SPEECH = VoiceActivity(threshold=0.0)


class ClipCutter:
    """Cuts one file, block by block. Holds at most about one clip, `MIN_REST_S` and one block of audio.

    Windows are counted from the start of the file; `_base` is the first one still held.
    """

    def __init__(self, voice_activity: VoiceActivity | None) -> None:
        activity = EVERYTHING_IS_SPEECH if voice_activity is None else voice_activity
        self._onset = round(255 * activity.threshold)
        self._offset = max(0, round(255 * (activity.threshold - HYSTERESIS)))
        self._padding = _windows(activity.prefix_padding_ms / 1000)
        self._pause = max(_windows(activity.silence_duration_ms / 1000), 1)
        self._least = MIN_SPEECH_WINDOWS if voice_activity else 1
        self._pcm = bytearray()
        self._speech = bytearray()
        self._base = 0
        self._start: int | None = None
        self._voiced_end = 0
        self._pauses: list[tuple[int, int]] = []
        self._heard_bytes = 0
        self._clip_bytes = 0

    @property
    def heard_s(self) -> float:
        """How much audio has been pushed, silence included."""
        return self._heard_bytes / (BYTES_PER_SAMPLE * SAMPLE_RATE_HZ)

    @property
    def left_out_s(self) -> float:
        """How much of it is in no clip so far."""
        return (self._heard_bytes - self._clip_bytes) / (BYTES_PER_SAMPLE * SAMPLE_RATE_HZ)

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
        """Yield the last clips, if speech is still open at the end of the file."""
        if self._start is not None and self._voiced_end > self._latest_end(self._start):
            yield self._split(self._start)
        if self._start is not None and (
            clip := self._close(self._start, self._voiced_end + max(self._padding, EDGE_WINDOWS))
        ):
            yield clip

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
                edge = EDGE_WINDOWS if index <= MAX_PAUSE_WINDOWS else 0
                self._start = max(self._base, index - max(self._padding, edge))
                self._voiced_end = self._now
            return
        paused = index - self._voiced_end >= self._pause
        if probability >= (self._onset if paused else self._offset):
            if paused:
                self._pauses.append((self._voiced_end, index))
            self._voiced_end = self._now

    def _advance(self) -> Clip | None:
        if self._start is None:
            self._forget(self._now - max(self._padding, EDGE_WINDOWS))
            return None
        if self._silence > MAX_PAUSE_WINDOWS:
            return self._close(self._start, self._voiced_end + self._padding)
        full = self._now - self._start >= MAX_CLIP_WINDOWS + MIN_REST_WINDOWS
        return self._split(self._start) if full and self._voiced_end - self._start > MAX_CLIP_WINDOWS else None

    def _close(self, start: int, end: int) -> Clip | None:
        """End the open clip, if enough was said in it."""
        end = min(end, self._latest_end(start))
        spoken = sum(probability >= self._onset for probability in self._speech[start - self._base : end - self._base])
        if spoken >= self._least:
            return self._take(start, end, then=None)
        self._start = None
        self._forget(end)
        return None

    def _latest_end(self, start: int) -> int:
        """Where a clip must end: at the newest window, if so much is no longer than a clip.

        30 s are 937 windows and a half. A file of just 30 s ends with that half, and so is one clip.
        """
        fits = len(self._pcm) - (start - self._base) * WINDOW_BYTES <= MAX_CLIP_BYTES
        return self._now if fits else min(self._now, start + MAX_CLIP_WINDOWS)

    def _split(self, start: int) -> Clip:
        """End a full clip; the speech behind the cut opens the next one."""
        full = start + MAX_CLIP_WINDOWS
        latest = min(full, max(self._voiced_end - MIN_REST_WINDOWS, start + SEARCH_WINDOWS))
        pauses = [pause for pause in self._pauses if pause[0] <= latest]
        if pauses:
            begin, end = _best_pause(pauses, latest - SEARCH_WINDOWS)
            middle = (begin + end) // 2
            return self._take(start, min(begin + self._padding, middle, full), then=max(end - self._padding, middle))
        cut = self._quietest_boundary(latest)
        return self._take(start, cut, then=cut if cut < self._voiced_end else None)

    def _quietest_boundary(self, latest: int) -> int:
        """Find the window before which a cut hurts least; speech is compared coarsely, so that loudness has a say."""
        first = latest - SEARCH_WINDOWS
        scores = [(self._speech[w - self._base] >> 4, self._power(w)) for w in range(first - 1, latest)]
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
        self._clip_bytes += len(clip.pcm)
        return clip

    def _slice(self, start: int, end: int) -> bytes:
        return bytes(memoryview(self._pcm)[(start - self._base) * WINDOW_BYTES : (end - self._base) * WINDOW_BYTES])

    def _forget(self, before: int) -> None:
        if (count := before - self._base) > 0:
            del self._pcm[: count * WINDOW_BYTES]
            del self._speech[:count]
            self._base = before


def _best_pause(pauses: list[tuple[int, int]], since: int) -> tuple[int, int]:
    """The longest pause that begins at `since` or later, else the latest."""
    recent = [pause for pause in pauses if pause[0] >= since]
    return max(recent, key=lambda pause: pause[1] - pause[0]) if recent else pauses[-1]


def _windows(seconds: float) -> int:
    """Round up to whole windows, so that an option is never undercut."""
    return ceil(seconds / WINDOW_S)
