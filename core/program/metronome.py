"""When is it time for the next tick of what must not show what it waits for?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeAlias


class Metronome(Protocol):
    """Says when; somebody else decides what."""

    async def beat(self) -> None:
        """Return when the next tick is due."""


MakeMetronome: TypeAlias = Callable[[], Metronome]
"""Makes a metronome of one's own for each who needs one."""


class Steady:
    """A tick every `period_s`, by the clock of the loop; ticks that were missed are not made up for."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._due_at = asyncio.get_running_loop().time()

    async def beat(self) -> None:
        now = asyncio.get_running_loop().time()
        self._due_at = max(self._due_at + self._period_s, now)
        await asyncio.sleep(self._due_at - now)
