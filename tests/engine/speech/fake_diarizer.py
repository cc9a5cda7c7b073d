"""A diarizer that is told who speaks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from core.errors import BackendError
from core.media.types import AudioBlock
from core.transcript.types import Voice
from engine.speech.attribution import Turn
from engine.speech.speakers import Diarization, ToldBy
from engine.speech.transcriber import Component

SAME = 0.9


def voice(*values: float) -> Voice:
    return Voice(values, SAME, "fake:00")


ADA, BO = voice(1.0, 0.0), voice(0.0, 1.0)


def one_speaker(seconds: float) -> Diarization:
    return Diarization((Turn(0.0, seconds, 0),), (ADA,))


@dataclass
class FakeDiarizer:
    """Implements `engine.speech.speakers.Diarizer`.

    hears: what it says of a file of so many seconds. fails_at: the block that it cannot take; -1 for the end.
    heard: the length of each file that was concluded. bounds: least and most of each. live: files that are listened to.
    """

    hears: Callable[[float], Diarization] = one_speaker
    told_by: ToldBy = ToldBy.VOICES
    component: Component | None = field(default_factory=lambda: Component("speakers-fake"))
    slots: int = 2
    ready: bool = True
    fails_at: int | None = None
    heard: list[float] = field(default_factory=list)
    bounds: list[tuple[int, int]] = field(default_factory=list)
    kept_channels: list[int] = field(default_factory=list)
    live: int = 0
    most_live: int = 0

    async def start(self) -> None:
        self.ready = True

    async def close(self) -> None:
        self.ready = False

    @asynccontextmanager
    async def listen(self, least: int, most: int) -> AsyncIterator[_Listening]:
        self.bounds.append((least, most))
        self.live += 1
        self.most_live = max(self.most_live, self.live)
        try:
            yield _Listening(self)
        finally:
            self.live -= 1


class _Listening:
    def __init__(self, diarizer: FakeDiarizer) -> None:
        self._diarizer = diarizer
        self._blocks = 0
        self._seconds = 0.0

    async def push(self, block: AudioBlock) -> None:
        if self._blocks == self._diarizer.fails_at:
            raise BackendError("the fake diarizer failed")
        self._blocks += 1
        self._seconds += len(block.pcm) / 32_000
        self._diarizer.kept_channels.append(len(block.channels))

    async def conclude(self) -> Diarization:
        if self._diarizer.fails_at == -1:
            raise BackendError("the fake diarizer failed")
        self._diarizer.heard.append(self._seconds)
        return self._diarizer.hears(self._seconds)
