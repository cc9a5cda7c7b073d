"""How many requests may be at the door, whose head has not opened yet, and which one gives way when there are too many?

Nobody knows whose they are, so nothing but their number bounds what they hold: a chunk that is not complete, the head
that is being put together, and what the connection has read ahead. An honest head is there within moments of its
connection. So where there is no room, the request that has waited longest for its head goes, and the one that has come
stays: whoever sends many halves keeps out nobody but themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


class CrowdedOutError(Exception):
    """There is no room at the door for this request."""


@dataclass(eq=False, slots=True)
class Place:
    """One request's place at the door."""

    arriving: dict[Place, None]
    patience: asyncio.Timeout = field(default_factory=lambda: asyncio.timeout(None))

    def settle(self) -> None:
        """Say that the head has opened: from now on this one does not give way."""
        self.arriving.pop(self, None)


class Lobby:
    """Holds `max_requests` requests at most."""

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self._requests = 0
        self._arriving: dict[Place, None] = {}  # the one that has waited longest first

    @property
    def requests(self) -> int:
        return self._requests

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        """A place for one request. Raises CrowdedOutError, also in the midst of the `async with` block."""
        self._make_room()
        place = Place(self._arriving)
        self._arriving[place] = None
        self._requests += 1
        try:
            async with place.patience:
                yield place
        except TimeoutError:
            if place.patience.expired():
                raise CrowdedOutError from None
            raise
        finally:
            place.settle()
            self._requests -= 1

    def _make_room(self) -> None:
        if self._requests < self._max_requests:
            return
        oldest = next(iter(self._arriving), None)
        if oldest is None:
            raise CrowdedOutError
        oldest.settle()
        oldest.patience.reschedule(asyncio.get_running_loop().time())
