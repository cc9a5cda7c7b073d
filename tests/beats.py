"""Metronomes for tests: one that a test beats by hand, and one that never waits."""

from __future__ import annotations

import asyncio

from tests.waiting import until


class _Hand:
    def __init__(self) -> None:
        self.waiting = False
        self._beat = asyncio.Event()

    async def beat(self) -> None:
        self.waiting = True
        try:
            await self._beat.wait()
        finally:
            self.waiting = False
        self._beat.clear()

    def release(self) -> None:
        self.waiting = False
        self._beat.set()


class Baton:
    """Beats every metronome that `make` has made: all of them once with each tick."""

    def __init__(self) -> None:
        self._hands: list[_Hand] = []

    def make(self) -> _Hand:
        self._hands.append(_Hand())
        return self._hands[-1]

    async def tick(self, times: int = 1) -> None:
        """Let everybody act `times` times, who is there; returns when they wait again."""
        for _ in range(times):
            await self._tick()

    async def _tick(self) -> None:
        await until(lambda: any(hand.waiting for hand in self._hands))
        released = [hand for hand in self._hands if hand.waiting]
        for hand in released:
            hand.release()
        await until(lambda: all(hand.waiting for hand in released))


class Hurried:
    """Every tick is due at once, so that nothing waits for the time of day."""

    async def beat(self) -> None:
        await asyncio.sleep(0.002)
