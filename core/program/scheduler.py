"""Whose turn is it?

What works for many serves a fixed number at once: clips in a backend, decoders on the processors. A free slot goes to
the caller that was served longest ago, and of its files to the one that was: a short file beside a long one waits for
about one turn, not for hundreds, and so does one file beside a hundred of another caller. Who comes counts as served
just then, so that new files cannot keep old ones waiting for ever.

Some cannot wait as well as others: somebody who has just spoken waits for a text, and a file does not. So the more
urgent go first. But whoever has been passed over `PATIENCE` times goes before them all, so that files get on however
many speak.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from enum import IntEnum
from itertools import count
from types import TracebackType
from weakref import WeakValueDictionary

PATIENCE = 8
"""So many turns in a row the urgent may have while others wait."""


class Urgency(IntEnum):
    """Who goes first."""

    SPOKEN = 0
    """Somebody has spoken, and waits for what was heard."""
    FILE = 1


class FairScheduler:
    """Hands out `slots` slots to the files that wait, in turns."""

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ValueError("a scheduler needs at least one slot")
        self._free = slots
        self._kept = min(1, slots - 1)
        self._waiting: set[Share] = set()
        self._turns = count()
        self._passed_over = 0
        """How many turns in a row went to the urgent while others waited."""
        self._callers: WeakValueDictionary[Hashable, _Caller] = WeakValueDictionary()  # as long as they have files

    @property
    def waiting(self) -> int:
        """How many clips, or other turns, wait for a slot."""
        return sum(len(share.clips) for share in self._waiting)

    @property
    def idle(self) -> bool:
        """Whether a slot is free for what nobody would wait for; of several, one is kept for whoever does."""
        return self._free > self._kept

    def share(self, caller: Hashable = None, urgency: Urgency = Urgency.FILE) -> Share:
        """Return one file's share of the slots. caller: whose file it is; what has no caller has the same one."""
        turn = next(self._turns)
        return Share(self, self._callers.setdefault(caller, _Caller(turn)), turn, urgency)

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
            share = self._next()
            clip = share.clips.popleft()
            if not share.clips:
                self._waiting.remove(share)
            if not clip.done():  # a clip that was cancelled may not have left yet
                self._grant(share, clip)
                return
        self._free += 1

    def _next(self) -> Share:
        """The file whose turn it is."""
        patient = max(share.urgency for share in self._waiting)
        urgent = min(share.urgency for share in self._waiting)
        turn_of = patient if self._passed_over >= PATIENCE else urgent
        self._passed_over = self._passed_over + 1 if turn_of < patient else 0
        among = (share for share in self._waiting if share.urgency == turn_of)
        return min(among, key=lambda share: (share.caller.last_turn, share.last_turn))

    def withdraw(self, share: Share, clip: asyncio.Future[None]) -> None:
        """Take a cancelled clip out of the queue."""
        if clip.done() and not clip.cancelled():  # the slot came in the same moment as the cancellation
            self.leave()
        elif clip in share.clips:
            share.clips.remove(clip)
            if not share.clips:
                self._waiting.remove(share)

    def _grant(self, share: Share, clip: asyncio.Future[None]) -> None:
        share.last_turn = share.caller.last_turn = next(self._turns)
        clip.set_result(None)


class _Caller:
    """Whose files they are. last_turn: the number of the turn in which one of them was last served."""

    def __init__(self, last_turn: int) -> None:
        self.last_turn = last_turn


class Share:
    """One file's share: `async with share:` holds a slot; any number of the file's clips may wait at once.

    urgency: whether it goes before other files. clips: those that wait, first come first.
    last_turn: the number of the turn in which the file was last served.
    """

    def __init__(self, scheduler: FairScheduler, caller: _Caller, last_turn: int, urgency: Urgency) -> None:
        self._scheduler = scheduler
        self.urgency = urgency
        self.caller = caller
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
