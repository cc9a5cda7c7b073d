"""Who is asking, and may they now? What stands between the head of a request and a place for it.

Two questions, asked one after the other. Who: by the Authorization header, before anything else is looked at, so that
nobody without a key learns what exists here. May they: once all else is in order, so that only what is admitted counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from core.channel.client_secrets import shown_secret
from core.transcript.faults import API_KEY, Fault, FaultKind
from engine.access.api_keys import ApiKey, ApiKeys, bearer
from engine.access.limits import LimitFault, Limits, Meter, RequestAllowance
from engine.access.places import NoPlaceError, Place, Places

PLACE_WAIT_S = 10.0
"""How long a request waits for a place of its key; no client and no proxy on the way gives up on it sooner."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a key has used, and the places that it holds."""

    meter: Meter = field(default_factory=Meter)
    places: Places = field(default_factory=Places)
    live_places: Places = field(default_factory=Places)


@dataclass(frozen=True, slots=True)
class Visit:
    """An admitted request of a caller; somebody has to `end` it, however that comes about.

    allowance: what its key had left when it was admitted; None where requests are not limited.
    """

    caller: Caller
    place: Place
    allowance: RequestAllowance | None

    def hear(self, duration_s: float) -> None:
        """Charge a stretch of audio that was heard."""
        self.caller.account.meter.hear(duration_s, self.caller.clock())

    @property
    def over(self) -> FaultKind | None:
        """Why nothing more may be heard for this caller, if so: the key is gone, or its day is used up."""
        if not self.caller.is_known():
            return FaultKind.UNAUTHENTICATED
        used_up = self.caller.account.meter.day_is_used_up(self.caller.limits, self.caller.clock())
        return FaultKind.OVER_QUOTA if used_up else None

    def end(self) -> None:
        """Give the place back."""
        self.place.leave()


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever showed a key, or came from somewhere.

    name: the key's, None where none is asked for. holder: what all requests of this caller are counted under; never
    shown. clock: Unix seconds. is_known: whether the key, now, is one of those that are asked for. place_wait_s: how
    long a request may wait for a place.
    """

    name: str | None
    holder: str = field(repr=False)
    limits: Limits
    account: Account
    clock: Callable[[], float]
    is_known: Callable[[], bool] = field(repr=False)
    place_wait_s: float = 0.0

    async def admit(self, *, audio: bool) -> Visit:
        """A place for one request, perhaps after a short wait. Raises Fault (OVER_QUOTA, OVER_RATE)."""
        return await self._admit(
            self.account.places, self.limits.concurrent_requests, patience_s=self.place_wait_s, audio=audio
        )

    async def admit_live(self) -> Visit:
        """A place for a live session, which counts as a request of the minute in which it begins.

        There is no waiting for one, which is held for as long as somebody likes. Raises as `admit` does.
        """
        return await self._admit(self.account.live_places, self.limits.live_sessions, patience_s=0.0, audio=True)

    async def _admit(self, places: Places, limit: int | None, *, patience_s: float, audio: bool) -> Visit:
        meter = self.account.meter
        allowance = meter.check(self.limits, self.clock(), audio=audio)
        try:
            place = await places.take(limit, patience_s=patience_s)
        except NoPlaceError as exc:
            raise LimitFault(FaultKind.OVER_RATE, retry_after_s=exc.retry_after_s, allowance=allowance) from None
        try:
            return Visit(self, place, meter.enter(self.limits, self.clock(), audio=audio))
        except LimitFault:
            place.leave()
            raise


class Authority(Protocol):
    """Tells callers apart."""

    def identify(self, authorization: str | None, source: str) -> Caller:
        """Whose request this is, by its Authorization header or else its source.

        Raises Fault: MISSING, or UNAUTHENTICATED.
        """

    def recall(self, holder: str, source: str) -> Caller:
        """Whoever was identified before as `holder`, as long as they still may ask. Raises Fault: UNAUTHENTICATED."""


@dataclass(frozen=True, slots=True)
class Anyone:
    """Implements `Authority` where no key is asked for: callers without limits, told apart by where they come from."""

    _account: Account = field(default_factory=Account)

    def identify(self, authorization: str | None, source: str) -> Caller:  # noqa: ARG002 - nobody asked for a key
        return Caller(None, source, Limits(), self._account, lambda: 0.0, lambda: True)

    def recall(self, holder: str, source: str) -> Caller:  # noqa: ARG002 - whoever it was, it is anyone
        return self.identify(None, source)


class KeyHolders:
    """Implements `Authority` with a set of keys that may be replaced at any time."""

    def __init__(
        self,
        keys: ApiKeys,
        *,
        places: int,
        live_places: int | None = None,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
        place_wait_s: float = PLACE_WAIT_S,
    ) -> None:
        """places: of a key whose entry does not say. live_places: likewise, for live sessions.

        clock: Unix seconds, for its limits. monotonic: for its work.
        """
        self._keys = keys
        self._places = places
        self._live_places = live_places
        self._clock = clock
        self._monotonic = monotonic
        self._place_wait_s = place_wait_s
        # By digest, and never dropped: a key that was gone for one version of the file finds its counts again.
        self._accounts: dict[str, Account] = {}

    def replace(self, keys: ApiKeys) -> None:
        """Ask for these keys from now on. Requests under way go on; what keys have used stays counted."""
        self._keys = keys

    def identify(self, authorization: str | None, source: str) -> Caller:  # noqa: ARG002 - a key may come from anywhere
        if not bearer(authorization) and shown_secret(authorization) is None:  # a secret is no key, but no silence
            raise Fault(FaultKind.MISSING, API_KEY)
        return self._caller(self._keys.find(authorization, self._clock()))

    def recall(self, holder: str, source: str) -> Caller:  # noqa: ARG002 - a key may come from anywhere
        return self._caller(self._keys.held_by(holder, self._clock()))

    def _caller(self, key: ApiKey | None) -> Caller:
        if key is None:
            raise Fault(FaultKind.UNAUTHENTICATED)
        account = self._accounts.setdefault(key.sha256, Account(places=Places(monotonic=self._monotonic)))
        limits = replace(
            key.limits,
            concurrent_requests=key.limits.concurrent_requests or self._places,
            live_sessions=key.limits.live_sessions or self._live_places,
        )
        is_known = partial(self._is_known, key.sha256)
        return Caller(key.name, key.sha256, limits, account, self._clock, is_known, self._place_wait_s)

    def _is_known(self, holder: str) -> bool:
        return self._keys.held_by(holder, self._clock()) is not None
