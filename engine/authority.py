"""Who is asking, and may they now? What stands between the head of a request and a place for it.

Two questions, asked one after the other. Who: by the Authorization header, before anything else is looked at, so that
nobody without a key learns what exists here. May they: once all else is in order, so that only what is admitted counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from engine.api_keys import ApiKeys
from engine.errors import ErrorCode, RequestError
from engine.limits import Limits, Meter
from engine.types import RequestAllowance


@dataclass(frozen=True, slots=True)
class Visit:
    """An admitted request of a caller.

    allowance: what its key had left when it was admitted; None where requests are not limited.
    """

    caller: Caller
    allowance: RequestAllowance | None

    def hear(self, duration_s: float) -> None:
        """Charge the length of a file that was heard."""
        self.caller.meter.hear(duration_s, self.caller.clock())


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever showed a key; name: the key's, None where none is asked for. clock: Unix seconds."""

    name: str | None
    limits: Limits
    meter: Meter
    clock: Callable[[], float]

    @contextmanager
    def admit(self, *, audio: bool) -> Iterator[Visit]:
        """A place for one request. Raises RequestError (insufficient_quota, rate_limit_exceeded)."""
        allowance = self.meter.enter(self.limits, self.clock(), audio=audio)
        try:
            yield Visit(self, allowance)
        finally:
            self.meter.leave()


class Authority(Protocol):
    """Tells callers apart."""

    def identify(self, authorization: str | None) -> Caller:
        """Whose request this is, by its Authorization header. Raises RequestError (invalid_api_key)."""


@dataclass(frozen=True, slots=True)
class Anyone:
    """Implements `Authority` where no key is asked for: all are one caller without limits."""

    _caller: Caller = field(default_factory=lambda: Caller(None, Limits(), Meter(), lambda: 0.0))

    def identify(self, authorization: str | None) -> Caller:  # noqa: ARG002 - whatever is shown, nobody asked for it
        return self._caller


class KeyHolders:
    """Implements `Authority` with a set of keys that may be replaced at any time. clock: Unix seconds."""

    def __init__(self, keys: ApiKeys, *, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._clock = clock
        # By digest, and never dropped: a key that was gone for one version of the file finds its counts again.
        self._meters: dict[str, Meter] = {}

    def replace(self, keys: ApiKeys) -> None:
        """Ask for these keys from now on. What is under way goes on; what keys have used stays counted."""
        self._keys = keys

    def identify(self, authorization: str | None) -> Caller:
        key = self._keys.find(authorization, self._clock())
        if key is None:
            raise RequestError(ErrorCode.INVALID_API_KEY)
        meter = self._meters.setdefault(key.sha256, Meter())
        return Caller(key.name, key.limits, meter, self._clock)
