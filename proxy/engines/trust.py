"""Which key may be sealed to, right now? One engine: attested, re-attested, and dropped when its key expires.

A key is used from the moment its statement verified until `not_after`, by the wall clock, so that a laptop which slept
through the expiry notices. It is renewed in the background after about 70 % of that time; while renewing fails, the
verified key goes on serving until it expires, for only the attested engine can open what is sealed to it.

At most one verification runs at a time, whoever asks: the timer, a request that finds no valid key, or a request that
was answered 422. A 422 is not authenticated, so anybody on the way can forge it. All it can do is to ask for one
verification every `REVERIFY_INTERVAL_S`; and when that shows the same key, the engine is left alone for a while.

What counts as proof is the policy in force. When another takes its place, all that was accepted under the one before is
dropped with it, and what an unfinished verification finds. What goes on for long (a live session) is dropped then too,
and when a verification refuses the engine, though its key would still serve.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

import structlog

from attestation.errors import AttestationError, FetchError, RefusedError
from attestation.policy import Policy
from attestation.types import Check
from core.channel.keyconfig import KeyConfig
from core.program.together import first_of
from proxy.engines.verifier import AttestedEngine, Clock, utc_now
from proxy.errors import ErrorCode, ProxyError
from proxy.telemetry import SpanName, Telemetry

_log = structlog.get_logger(__name__)

RENEW_AFTER: Final = 0.7
"""Of a key's lifetime."""

REVERIFY_INTERVAL_S: Final = 5.0
BACKOFF_S: Final = 1.0
MAX_BACKOFF_S: Final = 60.0
MAX_NAP_S: Final = 15.0
"""Timers stand still while a laptop sleeps, so the wall clock is looked at this often."""

CLOCK_TOLERANCE: Final = timedelta(seconds=60)
"""How far the wall clock may step back before what it said earlier is void."""

Verify = Callable[[Policy], Awaitable[AttestedEngine]]


class Outcome(StrEnum):
    """How a verification ended."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


class Reason(StrEnum):
    """Why a verification was made."""

    SCHEDULED = "scheduled"
    ON_DEMAND = "on_demand"
    KEY_MISMATCH = "key_mismatch"


@dataclass(frozen=True, slots=True)
class Attempt:
    """The last verification. checks: what was checked, as far as it came; detail: what went wrong, in our words."""

    outcome: Outcome
    reason: Reason
    at: datetime
    checks: tuple[Check, ...] = ()
    detail: str = ""


class Trust:
    """What is known of one engine."""

    def __init__(
        self,
        verify: Verify,
        policy: Policy,
        telemetry: Telemetry,
        *,
        clock: Clock = utc_now,
        nap: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """verify: one verification by a policy. clock: aware wall-clock time. nap: waits so many seconds."""
        self._verify_engine = verify
        self._telemetry = telemetry
        telemetry.will_verify(Outcome, Reason)
        self._clock = clock
        self._nap = nap
        self._held: AttestedEngine | None = None
        self._due_at = datetime.min.replace(tzinfo=UTC)
        self._failures = 0
        self._attempts = 0
        self._verifying = asyncio.Lock()
        self._circuit = _Circuit()
        self.policy = policy
        self.last_attempt: Attempt | None = None
        self.withdrawals = 0
        """How often what goes on for long lost its ground: another policy was put in force, or the engine refused."""
        self.refused = asyncio.Event()
        """Set while the last verification was refused and no valid key is held."""
        self._doubted = asyncio.Event()

    @property
    def held(self) -> AttestedEngine | None:
        """The engine whose key is in force now, if any."""
        held, now = self._held, self._clock()
        if held and held.result.verified_at - CLOCK_TOLERANCE <= now < held.result.expires_at:
            return held
        return None

    @property
    def is_ready(self) -> bool:
        """Whether a request would be sealed now."""
        return self.held is not None and self._circuit.closed_at(self._clock())

    async def engine(self) -> AttestedEngine:
        """The engine to seal to; verifies it first where necessary. Raises ProxyError."""
        if self.held is None and (self._is_due() or self._verifying.locked()):
            await self._verify(Reason.ON_DEMAND)
        held, now = self.held, self._clock()
        if held is None:
            raise self._refusal()
        if not self._circuit.closed_at(now):
            raise ProxyError(ErrorCode.NO_ATTESTED_ENGINE, retry_after_s=self._circuit.remaining_s(now))
        return held

    async def after_mismatch(self, used: KeyConfig) -> AttestedEngine:
        """The engine under another key than `used`, which it does not open. Raises ProxyError if there is none."""
        if (held := self.held) and used.digest not in held.digests:
            return held  # it was renewed while the request was on its way
        if self._verifying.locked() or self._circuit.may_ask(self._clock()):
            self._circuit.asked(self._clock())
            await self._verify(Reason.KEY_MISMATCH)
        if (held := self.held) and used.digest not in held.digests:
            return held
        self._circuit.open(self._clock())
        _log.error("engine_key_mismatch", key=used.path_digest)
        if self.last_attempt and self.last_attempt.outcome is Outcome.ACCEPTED:
            raise ProxyError(ErrorCode.UPSTREAM_KEY_MISMATCH)
        raise self._refusal()

    def doubt(self, used: KeyConfig) -> None:
        """Leave the engine alone, which does not open `used`, until `keep_fresh` finds another key of it."""
        now = self._clock()
        if (held := self.held) and used.digest not in held.digests:
            return
        if self._circuit.may_ask(now):
            self._circuit.asked(now)
            self._due_at = now
            self._doubted.set()
        self._circuit.open(now)

    def key_accepted(self) -> None:
        """An answer authenticated, so the engine holds its key."""
        self._circuit.close()

    async def keep_fresh(self) -> None:
        """Renew the key for ever, in good time."""
        while True:
            if self._is_due():
                reason = Reason.KEY_MISMATCH if self._doubted.is_set() else Reason.SCHEDULED
                self._doubted.clear()
                await self._verify(reason)
            left_s = (self._due_at - self._clock()).total_seconds()
            await self._nap_until_doubted(min(max(left_s, 0.1), MAX_NAP_S))

    async def _nap_until_doubted(self, seconds: float) -> None:
        async def nap() -> None:
            await self._nap(seconds)

        async def doubted() -> None:
            await self._doubted.wait()

        await first_of(nap(), doubted())

    def _is_due(self) -> bool:
        now, last = self._clock(), self.last_attempt
        return now >= self._due_at or (last is not None and now < last.at - CLOCK_TOLERANCE)

    def _refusal(self) -> ProxyError:
        if self.last_attempt and self.last_attempt.outcome is Outcome.REFUSED:
            return ProxyError(ErrorCode.ATTESTATION_REFUSED)
        wait_s = (self._due_at - self._clock()).total_seconds()
        return ProxyError(ErrorCode.NO_ATTESTED_ENGINE, retry_after_s=min(max(wait_s, 1.0), MAX_BACKOFF_S))

    async def _verify(self, reason: Reason) -> None:
        """Make one verification, or wait for the one that runs; its outcome is in `held` and `last_attempt`."""
        before = self._attempts
        async with self._verifying:
            if self._attempts == before:
                with self._telemetry.spans.trace(SpanName.VERIFICATION):
                    self._conclude(await self._attempt(reason))
                self._attempts += 1

    def adopt(self, policy: Policy) -> None:
        """Put a policy in force and drop what was accepted: nothing is sealed before it is verified anew."""
        self.policy = policy
        self.withdrawals += 1
        self._held = None
        self._failures = 0
        self._due_at = datetime.min.replace(tzinfo=UTC)

    async def _attempt(self, reason: Reason) -> Attempt:
        policy = self.policy
        engine: AttestedEngine | None = None
        checks: tuple[Check, ...] = ()
        try:
            engine = await self._verify_engine(policy)
            outcome, detail = Outcome.ACCEPTED, ""
        except RefusedError as exc:
            outcome, detail, checks = Outcome.REFUSED, str(exc), exc.checks
        except FetchError as exc:
            outcome, detail = Outcome.UNREACHABLE, str(exc)
        except AttestationError as exc:  # it cannot be read as evidence
            outcome, detail = Outcome.REFUSED, str(exc)
        if policy is not self.policy:  # whatever the one before says of the engine
            return Attempt(Outcome.UNREACHABLE, reason, self._clock(), (), "the policy changed meanwhile")
        if engine is None:
            return Attempt(outcome, reason, self._clock(), checks, detail)
        self._accept(engine)
        return Attempt(outcome, reason, engine.result.verified_at, engine.result.checks)

    def _accept(self, engine: AttestedEngine) -> None:
        if self._held is None or engine.digests != self._held.digests:
            self._circuit.close()
        self._held = engine
        self.refused.clear()

    def _conclude(self, attempt: Attempt) -> None:
        self.last_attempt = attempt
        failed = [check.name for check in attempt.checks if check.failed]
        self._telemetry.verified(attempt.outcome, attempt.reason, failed[0] if failed else None)
        if attempt.outcome is Outcome.ACCEPTED:
            self._failures = 0
            self._due_at = self._renewal(attempt.at)
            _log.info("attestation_accepted", reason=attempt.reason.value)
            return
        self._due_at = attempt.at + timedelta(seconds=_backoff_s(self._failures))
        self._failures += 1
        if attempt.outcome is Outcome.REFUSED:
            self.withdrawals += 1
            if self.held is None:
                self.refused.set()
        # The names of checks are ours; their details may quote an engine that nobody vouches for.
        _log.warning("attestation_failed", outcome=attempt.outcome.value, reason=attempt.reason.value, failed=failed)

    def _renewal(self, verified_at: datetime) -> datetime:
        if self._held is None:
            return verified_at
        share = RENEW_AFTER * _jitter(0.95, 1.05)
        in_time = verified_at + share * (self._held.result.expires_at - verified_at)
        # A trust that is over at once is no reason to hurry.
        return max(in_time, verified_at + timedelta(seconds=BACKOFF_S))


def _backoff_s(failures: int) -> float:
    """Doubling, with jitter, so that a fleet of proxies does not come back at once."""
    return min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** min(failures, 10)) * _jitter(0.5, 1.0)


def _jitter(low: float, high: float) -> float:
    return random.uniform(low, high)  # noqa: S311 - spreads load, hides nothing


@dataclass(slots=True)
class _Circuit:
    """Whether requests may go to an engine that answered 422 under a key which it attests."""

    asked_at: datetime | None = None
    interval_s: float = 0.0
    open_until: datetime | None = None
    mismatches: int = 0

    def may_ask(self, now: datetime) -> bool:
        """Whether the next verification for a 422 is due."""
        return self.asked_at is None or not 0 <= (now - self.asked_at).total_seconds() < self.interval_s

    def asked(self, now: datetime) -> None:
        if self.may_ask(now):
            self.asked_at = now
            self.interval_s = REVERIFY_INTERVAL_S * _jitter(1.0, 1.5)

    def open(self, now: datetime) -> None:
        """Leave the engine alone; longer each time it shows the same key again."""
        if self.closed_at(now):
            pause_s = min(MAX_BACKOFF_S, REVERIFY_INTERVAL_S * 2.0 ** min(self.mismatches, 10))
            self.open_until = now + timedelta(seconds=pause_s * _jitter(1.0, 1.5))
            self.mismatches += 1

    def close(self) -> None:
        """Forget the mismatches, but not when a 422 last had its verification: the limit holds all the same."""
        self.open_until = None
        self.mismatches = 0

    def closed_at(self, now: datetime) -> bool:
        return self.open_until is None or now >= self.open_until

    def remaining_s(self, now: datetime) -> float:
        return (self.open_until - now).total_seconds() if self.open_until else 0.0
