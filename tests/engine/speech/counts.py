"""An observer that remembers."""

from __future__ import annotations


class Counts:
    """Implements `Observer`."""

    def __init__(self) -> None:
        self.files: list[tuple[float, float, int]] = []
        self.turns: list[tuple[float, int]] = []
        self.left_out: list[float] = []
        self.not_decoded: list[str] = []
        self.queued: list[float] = []
        self.clips = self.failed_clips = 0
        self.again: list[int] = []
        self.unladdered = 0
        self.loops = 0
        self.waits: list[float] = []

    def file_heard(self, duration_s: float, *, left_out_s: float, took_s: float, output_tokens: int) -> None:
        self.left_out.append(round(left_out_s, 3))
        self.files.append((round(duration_s, 3), took_s, output_tokens))

    def turn_heard(self, duration_s: float, *, waited_s: float, output_tokens: int) -> None:
        self.turns.append((round(duration_s, 3), output_tokens))

    def file_not_decoded(self, reason: str) -> None:
        self.not_decoded.append(reason)

    def clip_waited(self, waited_s: float) -> None:
        self.queued.append(waited_s)

    def clip_heard(self) -> None:
        self.clips += 1

    def clip_failed(self) -> None:
        self.failed_clips += 1

    def clip_decoded_again(self, times: int) -> None:
        self.again.append(times)

    def stream_without_fallback(self) -> None:
        self.unladdered += 1

    def loop_ended(self) -> None:
        self.loops += 1

    def first_delta(self, waited_s: float) -> None:
        self.waits.append(waited_s)
