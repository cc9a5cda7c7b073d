"""Whose clip is next?

A backend serves a fixed number of clips at once. A free slot goes to the file that was served longest ago, never simply
to the next clip: a short file beside a long one waits for about one clip, not for hundreds. A file that comes counts
as served just then, so that new files cannot keep old ones waiting for ever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import count
from types import TracebackType


class FairScheduler:
    """Hands out `slots` slots to the files that wait, in turns."""

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ValueError("a backend needs at least one slot")
        self._free = slots
        self._waiting: set[Share] = set()
        self._turns = count()

    @property
    def waiting(self) -> int:
        """How many clips wait for a slot."""
        return sum(len(share.clips) for share in self._waiting)

    def share(self) -> Share:
        """Return one file's share of the slots."""
        return Share(self, next(self._turns))

    def enter(self, share: Share) -> asyncio.Future[None]:
        """Return a future that is done once a clip of `share` holds a slot."""
        clip: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._free:
            self._free -= 1
            self._grant(share, clip)
        else:
            share.clips.append(clip)
            self._waiting.add(share)
        return clip

    def leave(self) -> None:
        """Give a slot back: it goes to the first clip of the file whose turn it is."""
        while self._waiting:
            share = min(self._waiting, key=lambda share: share.last_turn)
            clip = share.clips.popleft()
            if not share.clips:
                self._waiting.remove(share)
            if not clip.done():  # a clip that was cancelled may not have left yet
                self._grant(share, clip)
                return
        self._free += 1

    def withdraw(self, share: Share, clip: asyncio.Future[None]) -> None:
        """Take a cancelled clip out of the queue."""
        if clip.done() and not clip.cancelled():  # the slot came in the same moment as the cancellation
            self.leave()
        elif clip in share.clips:
            share.clips.remove(clip)
            if not share.clips:
                self._waiting.remove(share)

    def _grant(self, share: Share, clip: asyncio.Future[None]) -> None:
        share.last_turn = next(self._turns)
        clip.set_result(None)


class Share:
    """One file's share: `async with share:` holds a slot; any number of the file's clips may wait at once.

    clips: those that wait, first come first. last_turn: the number of the turn in which the file was last served.
    """

    def __init__(self, scheduler: FairScheduler, last_turn: int) -> None:
        self._scheduler = scheduler
        self.last_turn = last_turn
        self.clips: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        clip = self._scheduler.enter(self)
        try:
            await clip
        except asyncio.CancelledError:
            self._scheduler.withdraw(self, clip)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._scheduler.leave()
