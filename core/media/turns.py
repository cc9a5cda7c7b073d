"""Which decoders compute now, when there are more than processors?

Those whose turn it is, and while nobody else waits also those whose turn is over: they run ahead until their socket is
full. A turn lasts until the block it was taken for has come, `TURN_S` at most if somebody waits. What has no turn is
paused, by a signal, for a file can be made whose every block takes half a minute. A paused decoder costs memory only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager
from typing import Protocol

from core.program.scheduler import FairScheduler

TURN_S = 0.1
"""Long enough for the first block of nearly every file, which takes the longest; short for whoever waits."""


class Computation(Protocol):
    """What can be made to wait."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Turns:
    """Lets `slots` computations go on at a time, and takes turns among callers, then among their files."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.scheduler = FairScheduler(slots)
        self.holders: set[Turn] = set()
        self.ahead: dict[Turn, None] = {}
        """Whose turn is over and who go on; the one that has longest is the first to be paused."""

    def of(self, caller: Hashable) -> Turn:
        """The turns of a new file of that caller."""
        return Turn(self, caller)

    def make_room(self) -> None:
        """Pause as many of those that run ahead as there are too many."""
        while self.ahead and len(self.holders) + len(self.ahead) > self.slots:
            turn = next(iter(self.ahead))
            del self.ahead[turn]
            turn.pause()


class Turn:
    """The turns of one file."""

    def __init__(self, turns: Turns, caller: Hashable) -> None:
        self._turns = turns
        self._share = turns.scheduler.share(caller)
        self._computation: Computation | None = None
        self._paused = False
        self._entry: asyncio.Future[None] | None = None
        """The turn that is waited for, the first one or the rest of one that lasted too long."""
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def taken(self) -> AsyncGenerator[None, None]:
        """Wait for a turn, and compute in it. What it is taken for may take longer, and then takes further turns."""
        try:
            await self._enter()
            yield
        finally:
            self._leave()

    def start(self, computation: Computation) -> None:
        """Say what goes on in these turns."""
        self._computation = computation
        if self not in self._turns.holders:
            self.pause()

    def end(self) -> None:
        """Say that nothing goes on any more."""
        self._turns.ahead.pop(self, None)
        self._computation = None

    def pause(self) -> None:
        if self._computation is not None:
            self._paused = True
            self._computation.pause()

    def _enter(self) -> asyncio.Future[None]:
        entry = self._entry = self._turns.scheduler.enter(self._share)
        if entry.done():
            self._begin(entry)
        else:
            entry.add_done_callback(self._begin)  # before whoever awaits it: its turn has begun by then
        return entry

    def _begin(self, entry: asyncio.Future[None]) -> None:
        if entry is not self._entry or entry.cancelled():
            return
        self._entry = None
        self._turns.ahead.pop(self, None)
        self._turns.holders.add(self)
        self._turns.make_room()
        if self._paused and self._computation is not None:
            self._paused = False
            self._computation.resume()
        self._timer = asyncio.get_running_loop().call_later(TURN_S, self._expire)

    def _expire(self) -> None:
        if self._turns.scheduler.waiting:
            self._turns.holders.remove(self)
            self.pause()
            self._turns.scheduler.leave()
            self._enter()
        else:
            self._timer = asyncio.get_running_loop().call_later(TURN_S, self._expire)

    def _leave(self) -> None:
        if self._entry is not None:
            entry, self._entry = self._entry, None
            self._turns.scheduler.withdraw(self._share, entry)
            return
        if self._timer is not None:
            self._timer.cancel()
        self._turns.holders.remove(self)
        if self._computation is not None:
            self._turns.ahead[self] = None
        self._turns.scheduler.leave()
