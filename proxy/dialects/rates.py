"""How often may one caller ask? Sliding windows of 60 seconds, in this process's memory or in the database of replicas.

The moment of every request that was let through is kept; one that was not counts for nothing. In memory `limits` does
so, which has no storage in a database.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Protocol

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from proxy.jobs.store.windows import StoredWindows

WINDOW_S: Final = 60
_MAX_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a caller stands in a window. reset_s: when all of it will be free again, in seconds since 1970.

    retry_after_s: when the next request may come, where this one may not be served.
    """

    limit: int
    remaining: int
    reset_s: int
    retry_after_s: float | None = None


class Rates(Protocol):
    """Windows by scope and caller."""

    async def hit(self, scope: str, caller: str, per_minute: int) -> Standing:
        """Count one request, unless the window is full."""


def untouched(per_minute: int) -> Standing:
    """Of who has not asked yet."""
    return Standing(per_minute, per_minute, int(time.time()))


class RateLimits:
    """`Rates` of one process."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._latest: dict[tuple[str, str], float] = {}

    async def hit(self, scope: str, caller: str, per_minute: int) -> Standing:
        item, now, who = RateLimitItemPerMinute(per_minute), time.time(), (scope, caller)
        is_counted = self._limiter.hit(item, *who)
        if is_counted:
            self._remember(who, now)
        seen = self._limiter.get_window_stats(item, *who)
        reset_s = int(max(now, self._latest.get(who, now - WINDOW_S) + WINDOW_S))
        if is_counted:
            return Standing(per_minute, seen.remaining, reset_s)
        return Standing(per_minute, 0, reset_s, max(seen.reset_time - now, 0.0))

    def _remember(self, who: tuple[str, str], now: float) -> None:
        if len(self._latest) >= _MAX_REMEMBERED:
            self._latest = {other: at for other, at in self._latest.items() if at + WINDOW_S > now}
        self._latest[who] = now


class StoredRates:
    """`Rates` of all replicas that have one database."""

    def __init__(self, windows: StoredWindows) -> None:
        self._windows = windows

    async def hit(self, scope: str, caller: str, per_minute: int) -> Standing:
        """Raises StoreError."""
        seen = await self._windows.hit(scope, caller, per_minute)
        reset_s = (seen.hits_ms[-1] + WINDOW_S * 1000) // 1000
        if not seen.is_full:
            return Standing(per_minute, per_minute - len(seen.hits_ms), reset_s)
        # Where the limit was lowered, more than one must go.
        free_ms = seen.hits_ms[-per_minute] + WINDOW_S * 1000
        return Standing(per_minute, 0, reset_s, max((free_ms - seen.now_ms) / 1000, 0.0))
