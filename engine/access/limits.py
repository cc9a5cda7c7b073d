"""How much may one key still ask for? Its requests of the last minute, and the audio of its day.

Requests are a bucket that holds a minute's worth and fills evenly, which is what OpenAI's `x-ratelimit` headers
describe: of 60 a minute, one used is back in a second. So a key that was quiet may send a minute's worth at once.
A day is one of UTC and begins at midnight. Its audio is counted as it is heard, also to a caller who hangs up, and not
looked at again before the next file: a key may go over by the files it has under way. A live session
looks all the time.

All limits are looked at before anything is taken: a refused request has used nothing. Times are Unix seconds that the
caller passes in; a clock that is set back stops the bucket from filling for no longer than until the next request.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.transcript.faults import Fault, FaultKind

MINUTE_S = 60.0
DAY_S = 86_400

_ROUNDING = 1e-6
"""Of a request: what the sums of a bucket may be off by."""


@dataclass(frozen=True, slots=True)
class RequestAllowance:
    """What a key has left of its rate limit.

    limit: requests a minute. remaining: requests that would be taken at once. reset_s: until all are there again.
    """

    limit: int
    remaining: int
    reset_s: float


class LimitFault(Fault):
    """A request beyond a limit of its key. allowance: what is left of the rate limit, where there is one."""

    def __init__(
        self, kind: FaultKind, *, allowance: RequestAllowance | None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(kind, retry_after_s=retry_after_s)
        self.allowance = allowance


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one key; None is no limit."""

    requests_per_minute: int | None = None
    concurrent_requests: int | None = None
    audio_seconds_per_day: int | None = None
    live_sessions: int | None = None


class Meter:
    """What one key has used. It outlives the entry of its key, whose limits may change meanwhile."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._settled_at = 0.0
        self._day = 0
        self._heard_s = 0.0

    def check(self, limits: Limits, now: float, *, audio: bool) -> RequestAllowance | None:
        """What is left of the allowance before a request, where requests are limited; counts nothing.

        audio: whether it wants to be heard, which takes what is left of the day. Raises Fault (OVER_QUOTA, OVER_RATE).
        """
        self._settle(limits, now)
        allowance = self._allowance(limits)
        if audio and self.day_is_used_up(limits, now):
            raise LimitFault(FaultKind.OVER_QUOTA, allowance=allowance)
        per_minute = limits.requests_per_minute
        if per_minute is not None and (lacking := self._spent + 1 - per_minute) > _ROUNDING:
            wait_s = lacking * MINUTE_S / per_minute
            raise LimitFault(FaultKind.OVER_RATE, retry_after_s=wait_s, allowance=allowance)
        return allowance

    def enter(self, limits: Limits, now: float, *, audio: bool) -> RequestAllowance | None:
        """Count a request; the allowance that is left after it. Raises as `check` does, and then counts nothing."""
        self.check(limits, now, audio=audio)
        if limits.requests_per_minute is not None:
            self._spent += 1
        return self._allowance(limits)

    def hear(self, duration_s: float, now: float) -> None:
        """Charge a stretch of audio to the day in which it was heard."""
        self._turn_page(now)
        self._heard_s += duration_s

    def _settle(self, limits: Limits, now: float) -> None:
        """Give back what the time since the last look has filled in."""
        elapsed_s = max(0.0, now - self._settled_at)
        self._settled_at = now
        per_minute = limits.requests_per_minute
        self._spent = max(0.0, self._spent - elapsed_s * per_minute / MINUTE_S) if per_minute else 0.0

    def _allowance(self, limits: Limits) -> RequestAllowance | None:
        per_minute = limits.requests_per_minute
        if per_minute is None:
            return None
        remaining = max(0, int(per_minute - self._spent + _ROUNDING))
        return RequestAllowance(per_minute, remaining, reset_s=self._spent * MINUTE_S / per_minute)

    def day_is_used_up(self, limits: Limits, now: float) -> bool:
        """Whether the key may not be heard any more today."""
        self._turn_page(now)
        return limits.audio_seconds_per_day is not None and self._heard_s >= limits.audio_seconds_per_day

    def _turn_page(self, now: float) -> None:
        day = int(now // DAY_S)
        if day != self._day:  # also backwards: a clock that was once wrong must not close a key for days
            self._day, self._heard_s = day, 0.0
