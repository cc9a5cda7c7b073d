"""Which windows are a turn's? Audio without a break, from the start of a session or from where the app cut it.

Of what is no turn's only as much is kept as the next turn may begin with. Times count from the first sample of the
session, whose length is that of the samples taken: no window that was filled up with silence adds to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from core.media.frames import WINDOW_BYTES
from core.media.types import AudioBlock
from engine.realtime.turns import WINDOW_MS, Change, Rule, TurnDetector


class Stretch:
    """origin_ms: where it begins. detector: of its turns; its windows are counted from there."""

    def __init__(self, origin_ms: float, rule: Rule) -> None:
        self.origin_ms = origin_ms
        self.detector = TurnDetector(rule)
        self._recent: deque[AudioBlock] = deque()

    def push(self, block: AudioBlock) -> Iterator[tuple[AudioBlock, Change | None]]:
        """Each of the windows and what it tells, one after the other: between two the detector may be changed."""
        for index, probability in enumerate(block.speech):
            window = AudioBlock(block.pcm[index * WINDOW_BYTES : (index + 1) * WINDOW_BYTES], bytes([probability]))
            change = self.detector.hear(probability)
            self._recent.append(window)
            yield window, change
            self._forget()

    def since(self, start: int) -> AudioBlock:
        """The windows from `start` to the newest, as far as a turn may still begin there."""
        count = self.detector.now - start
        windows = list(self._recent)[-count:] if count > 0 else []
        return AudioBlock(b"".join(one.pcm for one in windows), b"".join(one.speech for one in windows))

    def ms(self, window: int) -> int:
        """When a window begins."""
        return round(self.origin_ms + window * WINDOW_MS)

    def _forget(self) -> None:
        keep = self.detector.now - self.detector.earliest if self.detector.start is None else 0
        while len(self._recent) > keep:
            self._recent.popleft()
