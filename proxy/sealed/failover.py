"""Who gets a request next, to which one engine gave no answer? Another that is attested, as long as there is one.

The same body is sealed anew, to that engine's key, as long as no byte of an answer has reached the app. An engine that
may have worked on what it then lost makes the work be done twice, so no more than `MAX_LOST` of them may. While a long
request goes from one to the next, the first may have been replaced: one that answers others again is asked again, once.
Where nobody else takes a request, the app is told what was wrong with the one that did not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

from core.channel.gateway import OuterStatus
from proxy.engines.health import DEFAULT_RETRY_AFTER_S
from proxy.engines.lease import EngineId, Engines, Lease
from proxy.errors import ErrorCode, ProxyError
from proxy.telemetry import Telemetry

UNAVAILABLE: Final = (429, 502, 503, 504)
"""Statuses in the clear that say that nobody took what was sent."""

MAX_LOST: Final = 2
"""How many engines may have lost a request that is sent once more."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Somebody said no in the clear."""

    status: int


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Nobody took the request. retry_after_s: what was said of when somebody may."""

    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Busy:
    """The engine itself, in an answer that authenticated, says that it takes no work now."""

    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """Somebody may have taken the request, and no answer came of it. error: what that is to the app."""

    error: ProxyError


Failure = Refused | Unreachable | Busy | Lost


@dataclass(frozen=True, slots=True)
class Attempt:
    """How the request is sealed and sent this time.

    avoiding: the engines that gave no answer. lost: how many of them may have worked on it. again: whether it came to
    one of them a second time, because that one has answered others since. issuer: who alone can take it, as of
    `Engines.lease`.
    """

    lease: Lease
    incremental: bool = True
    reverified: bool = False
    avoiding: frozenset[EngineId] = frozenset()
    lost: int = 0
    again: bool = False
    issuer: bytes | None = None


class Failover:
    """Goes from engine to engine. live: whether the keys are those of live sessions."""

    def __init__(self, engines: Engines, telemetry: Telemetry, *, live: bool = False) -> None:
        self._engines = engines
        self._telemetry = telemetry
        self._live = live

    async def following(self, attempt: Attempt, failure: Failure, *, can_replay: bool = True) -> Attempt:
        """How to try once more. can_replay: whether there still is what to send. Raises ProxyError when that is all."""
        following, reason = await self._following(attempt, failure)
        if not can_replay:
            raise _error_of(failure)
        self._telemetry.retried(reason)
        return following

    async def _following(self, attempt: Attempt, failure: Failure) -> tuple[Attempt, str]:
        match failure:
            case Refused(OuterStatus.KEY_MISMATCH):
                self._telemetry.key_mismatch()
                return await self._under_another_key(attempt)
            case Refused(HTTPStatus.NOT_IMPLEMENTED) if attempt.incremental:
                # Asked anew: while the body came, the key may have expired, or another policy been put in force.
                lease = await self._engines.lease(avoiding=attempt.avoiding, issuer=attempt.issuer)
                return replace(attempt, lease=lease, incremental=False), "not_incremental"
            case Refused():
                return await self._elsewhere(attempt, _error_of(failure)), "refused"
            case Unreachable(retry_after_s):
                return await self._elsewhere(attempt, None, retry_after_s), "engine"
            case Busy(retry_after_s):
                return await self._elsewhere(attempt, None, retry_after_s), "busy"
            case Lost(error) if attempt.lost < MAX_LOST:
                return await self._elsewhere(replace(attempt, lost=attempt.lost + 1), error), "lost"
            case Lost(error):
                attempt.lease.failed(None)
                raise error

    async def _under_another_key(self, attempt: Attempt) -> tuple[Attempt, str]:
        error = ProxyError(ErrorCode.UPSTREAM_KEY_MISMATCH)
        if not attempt.reverified:
            try:
                lease = await attempt.lease.mismatched(live=self._live, avoiding=attempt.avoiding)
            except ProxyError as exc:
                error = exc
            else:
                return self._to(lease, attempt), "new_key"
        return await self._elsewhere(attempt, error), "refused"

    def _to(self, lease: Lease, attempt: Attempt) -> Attempt:
        if lease.engine == attempt.lease.engine:
            return replace(attempt, lease=lease, reverified=True)
        return replace(attempt, lease=lease, avoiding=attempt.avoiding | {attempt.lease.engine})

    async def _elsewhere(
        self, attempt: Attempt, error: ProxyError | None, retry_after_s: float | None = None
    ) -> Attempt:
        """error: what the app is told where nobody else takes the request; None for what is said then."""
        attempt.lease.failed(retry_after_s)
        avoiding = attempt.avoiding | {attempt.lease.engine}
        try:
            lease = await self._engines.lease(avoiding=avoiding, issuer=attempt.issuer)
        except ProxyError as exc:
            raise error or exc from None
        is_back = lease.engine in avoiding
        if is_back and attempt.again:  # else a request could go round for as long as engines come and go
            raise error or ProxyError(ErrorCode.ENGINE_UNAVAILABLE, retry_after_s=DEFAULT_RETRY_AFTER_S)
        again = attempt.again or is_back
        return Attempt(lease, avoiding=avoiding, lost=attempt.lost, again=again, issuer=attempt.issuer)


def _error_of(failure: Failure) -> ProxyError:
    match failure:
        case Lost(error):
            return error
        case Refused():
            return ProxyError(ErrorCode.UPSTREAM_PROTOCOL_ERROR)
        case _:
            return ProxyError(ErrorCode.ENGINE_UNAVAILABLE, retry_after_s=DEFAULT_RETRY_AFTER_S)
