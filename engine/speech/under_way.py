"""What does the pipeline know of a file that it hears?"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self, TypeAlias

from core.program.scheduler import Share
from engine.speech.analyser import ClipAnalyser
from engine.speech.clips import ClipCutter
from engine.speech.speakers import Attendance
from engine.types import Clip, DecodingOptions, Detail, Hearing

Charge: TypeAlias = Callable[[float], None]
"""Told how many more seconds of a file were heard, of which the sum is the file's length."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one analyser is to add to a file's clips. share: of the turns that it looks in."""

    analyser: ClipAnalyser
    wanted: frozenset[Detail]
    share: Share


@dataclass(slots=True)
class File:
    """One file on its way through the pipeline."""

    hearing: Hearing
    caller: Hashable
    cutter: ClipCutter
    share: Share
    looks: Sequence[Look]
    began_at: float
    charge: Charge
    charged_s: float = 0.0
    attendance: Attendance | None = None
    language: str = field(init=False)

    def __post_init__(self) -> None:
        only = self.hearing.languages[0] if len(self.hearing.languages) == 1 else ""
        self.language = self.hearing.language or only

    @property
    def options(self) -> DecodingOptions:
        hearing = self.hearing
        return DecodingOptions(
            language=self.language,
            task=hearing.task,
            prompt=hearing.prompt,
            temperature=hearing.temperature,
            max_tokens=hearing.max_tokens,
            sampling=hearing.sampling,
        )

    @contextmanager
    def charging(self, clip: Clip) -> Iterator[None]:
        """Charge a clip that is heard here: also to whoever leaves meanwhile, but not for what fails."""
        try:
            yield
        except asyncio.CancelledError:
            self.charge_to(clip.start_s + clip.duration_s)
            raise
        self.charge_to(clip.start_s + clip.duration_s)

    def charge_to(self, end_s: float) -> None:
        """Charge the file as far as that, and nothing of it twice."""
        if (more_s := end_s - self.charged_s) > 0:
            self.charged_s = end_s
            self.charge(more_s)


class ClipReader:
    """Reads clips one by one, and lets the language vote look ahead."""

    def __init__(self, clips: AsyncIterator[Clip]) -> None:
        self._clips = clips
        self._ahead: deque[Clip] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Clip:
        return self._ahead.popleft() if self._ahead else await anext(self._clips)

    async def peek(self, count: int) -> tuple[Clip, ...]:
        """Return the next clips, at most `count`, without taking them."""
        while len(self._ahead) < count and (clip := await anext(self._clips, None)) is not None:
            self._ahead.append(clip)
        return tuple(self._ahead)
