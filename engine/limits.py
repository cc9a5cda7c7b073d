"""How much may one key still ask for? Its requests of the last minute, those under way, and the audio of its day.

Requests are a bucket that holds a minute's worth and fills evenly, which is what OpenAI's `x-ratelimit` headers
describe: of 60 a minute, one used is back in a second. So a key that was quiet may send a minute's worth at once.
A day is one of UTC and begins at midnight. Its audio is counted once a file has been heard, so a key may go over by the
files it has under way.

All limits are looked at before anything is taken: a refused request has used nothing. Times are Unix seconds that the
caller passes in; a clock that is set back stops the bucket from filling for no longer than until the next request.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ErrorCode, RequestError
from engine.types import RequestAllowance

MINUTE_S = 60.0
DAY_S = 86_400

_ROUNDING = 1e-6
"""Of a request: what the sums of a bucket may be off by."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one key; None is no limit."""

    requests_per_minute: int | None = None
    concurrent_requests: int | None = None
    audio_seconds_per_day: int | None = None


class Meter:
    """What one key has used. It outlives the entry of its key, whose limits may change meanwhile."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._settled_at = 0.0
        self._under_way = 0
        self._day = 0
        self._heard_s = 0.0

    def enter(self, limits: Limits, now: float, *, audio: bool) -> RequestAllowance | None:
        """Count a request in; the allowance that is left, where requests are limited.

        audio: whether it wants to be heard, which takes what is left of the day.
        Raises RequestError (insufficient_quota, rate_limit_exceeded), and then counts nothing.
        """
        self._settle(limits, now)
        if audio and self._day_is_used_up(limits, now):
            raise RequestError(ErrorCode.INSUFFICIENT_QUOTA, allowance=self._allowance(limits))
        if limits.concurrent_requests is not None and self._under_way >= limits.concurrent_requests:
            raise RequestError(ErrorCode.RATE_LIMIT_EXCEEDED, allowance=self._allowance(limits))
        if limits.requests_per_minute is not None:
            self._spend_one(limits, limits.requests_per_minute)
        self._under_way += 1
        return self._allowance(limits)

    def leave(self) -> None:
        """Count a request out, however it ended."""
        self._under_way -= 1

    def hear(self, duration_s: float, now: float) -> None:
        """Charge a file's length to the day in which it was heard to its end."""
        self._turn_page(now)
        self._heard_s += duration_s

    def _settle(self, limits: Limits, now: float) -> None:
        """Give back what the time since the last look has filled in."""
        elapsed_s = max(0.0, now - self._settled_at)
        self._settled_at = now
        per_minute = limits.requests_per_minute
        self._spent = max(0.0, self._spent - elapsed_s * per_minute / MINUTE_S) if per_minute else 0.0

    def _spend_one(self, limits: Limits, per_minute: int) -> None:
        lacking = self._spent + 1 - per_minute
        if lacking > _ROUNDING:
            raise RequestError(
                ErrorCode.RATE_LIMIT_EXCEEDED,
                retry_after_s=lacking * MINUTE_S / per_minute,
                allowance=self._allowance(limits),
            )
        self._spent += 1

    def _allowance(self, limits: Limits) -> RequestAllowance | None:
        per_minute = limits.requests_per_minute
        if per_minute is None:
            return None
        remaining = max(0, int(per_minute - self._spent + _ROUNDING))
        return RequestAllowance(per_minute, remaining, reset_s=self._spent * MINUTE_S / per_minute)

    def _day_is_used_up(self, limits: Limits, now: float) -> bool:
        self._turn_page(now)
        return limits.audio_seconds_per_day is not None and self._heard_s >= limits.audio_seconds_per_day

    def _turn_page(self, now: float) -> None:
        day = int(now // DAY_S)
        if day != self._day:  # also backwards: a clock that was once wrong must not close a key for days
            self._day, self._heard_s = day, 0.0
