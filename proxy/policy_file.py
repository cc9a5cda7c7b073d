"""Has the policy changed? Its file is looked at now and then; a new one that cannot be used leaves the old in force."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from attestation.errors import PolicyError
from attestation.policy import INSECURE_ROOTS_WARNING, Policy
from attestation.release import PolicyTrust, load_policy

_log = structlog.get_logger(__name__)

POLICY_TIMER_S: Final = 10.0
"""How long a change may go unnoticed."""

_BESIDE: Final = ("", ".sig", ".sigstore.json")

_Stamp = tuple[tuple[int, int, int] | None, ...]


class PolicyFile:
    """A policy and the file it came from, with whatever vouches for it beside it."""

    def __init__(self, path: Path, trust: PolicyTrust, clock: Callable[[], datetime]) -> None:
        """Raises PolicyError."""
        self._path = path
        self._trust = trust
        self._clock = clock
        self._seen = self._stamp()
        self._told: _Stamp | None = None
        self.policy = load_policy(path, trust, now=clock())

    async def watch(self, act: Callable[[Policy], None], nap: Callable[[float], Awaitable[None]]) -> None:
        """Call `act` with every new policy, for ever."""
        while True:
            await nap(POLICY_TIMER_S)
            if (policy := await asyncio.to_thread(self.changed)) is not None:
                act(policy)

    def changed(self) -> Policy | None:
        """The policy if there is a new one that may be used."""
        if (stamp := self._stamp()) == self._seen:
            return None
        try:
            policy = load_policy(self._path, self._trust, now=self._clock())
        except PolicyError as exc:
            # Told once, and tried again: a full disk or a wrong clock passes, and the new policy may be the stricter.
            if stamp != self._told:
                _log.error("policy_not_reloaded", detail=str(exc))
            self._told = stamp
            return None
        self._seen = stamp
        if policy.is_insecure and not self.policy.is_insecure:
            # What guards development evidence was decided at the start: to whom connections may go.
            _log.error("policy_not_reloaded", detail="it accepts development evidence; start the proxy with it instead")
            return None
        if policy.digest == self.policy.digest:
            return None
        self.policy = policy
        _log.info("policy_reloaded", policy=policy.digest)
        if policy.has_insecure_roots:
            _log.error("insecure_roots", detail=INSECURE_ROOTS_WARNING)
        return policy

    def _stamp(self) -> _Stamp:
        return tuple(_stamp(self._path.with_name(self._path.name + suffix)) for suffix in _BESIDE)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes whenever a file is replaced or written."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
