"""Where may a recording of hours be cut so that no word is lost?

A part is as long as it may be, but for its last `SEARCH_S`: in there it ends in the middle of the longest pause, where
two parts are the furthest from any word. Where nobody pauses for so long, it ends before the window that is least like
speech, then quietest. Parts follow one another without overlap or gap, and the last `TAIL_S` of what may be a part are
not searched, so that what is left of a recording is never too short to be heard.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from core.media.frames import WINDOW_BYTES
from core.media.types import SAMPLE_RATE_HZ, WINDOW_SAMPLES, AudioBlock

SEARCH_S = 60.0
TAIL_S = 1.0

SPEECH = 128
"""From here on a window is more likely speech than not."""

WINDOWS_PER_S = SAMPLE_RATE_HZ / WINDOW_SAMPLES


@dataclass(frozen=True, slots=True)
class Stretch:
    """The next samples of a part. ends: it ends with them."""

    pcm: bytes
    ends: bool = False


class PartCutter:
    """Cuts one recording, block by block; holds `SEARCH_S` of it at most.

    max_samples: of a part; at least some seconds.
    """

    def __init__(self, max_samples: int) -> None:
        self._max = max_samples // WINDOW_SAMPLES
        self._search = min(int(SEARCH_S * WINDOWS_PER_S), self._max // 2)
        self._tail = min(int(TAIL_S * WINDOWS_PER_S), self._search // 2)
        self._passed = 0
        """How many windows of the part that is open have been passed on."""
        self._pcm = bytearray()
        self._speech = bytearray()

    def push(self, block: AudioBlock) -> Iterator[Stretch]:
        """Take the next block; exhaust this before the next `push`."""
        self._pcm += block.pcm
        self._speech += block.speech
        while self._passed + len(self._speech) > self._max:
            yield self._pass_on(self._cut(), ends=True)
            self._passed = 0
        if (sure := min(len(self._speech), self._max - self._search - self._passed)) > 0:
            yield self._pass_on(sure)

    def finish(self) -> Iterator[Stretch]:
        yield Stretch(bytes(self._pcm), ends=True)
        self._pcm.clear()
        self._speech.clear()

    def _pass_on(self, windows: int, *, ends: bool = False) -> Stretch:
        pcm = bytes(memoryview(self._pcm)[: windows * WINDOW_BYTES])
        del self._pcm[: windows * WINDOW_BYTES]
        del self._speech[:windows]
        self._passed += windows
        return Stretch(pcm, ends)

    def _cut(self) -> int:
        """Before which of the windows that are held the part ends."""
        first = max(self._max - self._search - self._passed, 0)
        last = self._max - self._tail - self._passed
        windows = range(first, last)
        runs = [list(run) for quiet, run in groupby(windows, lambda at: self._speech[at] < SPEECH) if quiet]
        if runs:
            longest = max(runs, key=len)
            return longest[(len(longest) + 1) // 2] if len(longest) > 1 else longest[0]
        return min(windows, key=lambda at: (self._speech[at] >> 4, self._power(at)))

    def _power(self, window: int) -> float:
        samples = array("h", bytes(self._pcm[window * WINDOW_BYTES : (window + 1) * WINDOW_BYTES]))
        return sum(sample * sample for sample in samples) / max(len(samples), 1)
