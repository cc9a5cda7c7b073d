"""When may the next request of this key begin? Its places, who waits for one, and how long that takes as a rule.

A place is held from the opened head to the end of the answer. Whoever finds none waits a moment, first come first
served, for clients give up on a refusal sooner than on a slow answer. As many may wait as may hold a place. Who has
waited in vain, or finds too many waiting, is told how long the work in front is likely to take.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0

_LATEST = 0.2
"""How much of what is typical the latest request decides."""


class NoPlaceError(Exception):
    """All places are taken. retry_after_s: until one is likely to be free."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("all places are taken")
        self.retry_after_s = retry_after_s


@dataclass(eq=False, slots=True)
class Place:
    """One request's place. begun_at: on the clock of its `Places`."""

    _places: Places
    begun_at: float

    def leave(self) -> None:
        """Give the place back; once."""
        self._places.free(self)


@dataclass(eq=False, slots=True)
class _Waiter:
    limit: int
    granted: asyncio.Future[Place] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Places:
    """The places of one key, whose number may change meanwhile. monotonic: seconds."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._taken: dict[Place, None] = {}  # the one that was taken first is first
        self._waiting: deque[_Waiter] = deque()
        self._typical_s: float | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def take(self, limit: int | None, *, patience_s: float) -> Place:
        """A place, after up to `patience_s`. limit: of places; None for any number. Raises NoPlaceError."""
        if limit is None or (len(self._taken) < limit and not self._waiting):
            return self._occupy()
        if len(self._waiting) >= limit or not patience_s:
            raise NoPlaceError(self._retry_after_s(limit))
        return await self._wait(limit, patience_s)

    def free(self, place: Place) -> None:
        """Take a place back and give it to whoever waited longest."""
        del self._taken[place]
        held_s = self._monotonic() - place.begun_at
        self._typical_s = held_s if self._typical_s is None else held_s * _LATEST + self._typical_s * (1 - _LATEST)
        while self._waiting and len(self._taken) < self._waiting[0].limit:
            waiter = self._waiting.popleft()
            if not waiter.granted.done():  # one that gave up may not have left yet
                waiter.granted.set_result(self._occupy())

    def _occupy(self) -> Place:
        place = Place(self, self._monotonic())
        self._taken[place] = None
        return place

    async def _wait(self, limit: int, patience_s: float) -> Place:
        waiter = _Waiter(limit)
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(patience_s):
                return await waiter.granted
        except TimeoutError:
            self._give_up(waiter)
            raise NoPlaceError(self._retry_after_s(limit)) from None
        except asyncio.CancelledError:
            self._give_up(waiter)
            raise

    def _give_up(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        elif waiter.granted.done() and not waiter.granted.cancelled():  # granted in the same moment
            waiter.granted.result().leave()

    def _retry_after_s(self, limit: int) -> float:
        """The requests in front, at what one has taken lately, or at least what the oldest has taken by now."""
        oldest = next(iter(self._taken), None)
        known_s = [self._typical_s or 0.0, self._monotonic() - oldest.begun_at if oldest else 0.0]
        in_front = len(self._waiting) + 1
        return min(max(max(known_s) * in_front / limit, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)
