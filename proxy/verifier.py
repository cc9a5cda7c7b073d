"""Is this the engine that the policy asks for? One attempt: ask, gather collateral, judge, note the identity down."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

import structlog

from attestation.bundle import Bundle
from attestation.channel.keyconfig import KeyConfig
from attestation.collateral import CollateralStore
from attestation.document import AttestationDocument
from attestation.errors import AttestationError
from attestation.log import AcceptedIdentity, IdentityLog
from attestation.policy import Policy
from attestation.types import NONCE_BYTES, Nonce
from attestation.verify import AttestationResult, is_usable, needs, questions, verify
from proxy.telemetry import Telemetry

_log = structlog.get_logger(__name__)

Fetch = Callable[[Nonce], Awaitable[AttestationDocument]]
Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class AttestedEngine:
    """An engine that proved itself, and what anyone needs to check that again.

    collateral_at: when the oldest piece of collateral was had; None without any.
    """

    result: AttestationResult
    bundle: Bundle
    collateral_at: datetime | None = None

    @property
    def digests(self) -> frozenset[bytes]:
        """Identities of the keys in force."""
        return frozenset(config.digest for config in self.result.statement.ohttp_keys)

    def choose_key(self) -> KeyConfig:
        """Any key that we can seal to: each belongs to one worker process, and load spreads over them."""
        return secrets.choice([config for config in self.result.statement.ohttp_keys if is_usable(config)])


class EngineVerifier:
    """Verifies one engine by the policy in force.

    policy: may be exchanged; who does so drops what was accepted under the one before.
    log: None keeps none.
    """

    def __init__(
        self,
        engine: str,
        fetch: Fetch,
        policy: Policy,
        store: CollateralStore,
        telemetry: Telemetry,
        *,
        log: IdentityLog | None = None,
        clock: Clock = utc_now,
    ) -> None:
        """engine: its URL, for the log. fetch: its document for a nonce."""
        self._engine = engine
        self._fetch = fetch
        self._store = store
        self._telemetry = telemetry
        self._identities = log
        self._clock = clock
        self.policy = policy

    async def verify(self) -> AttestedEngine:
        """Verify the engine now. Raises AttestationError."""
        policy, nonce = self.policy, Nonce(secrets.token_bytes(NONCE_BYTES))
        document = await self._fetch(nonce)
        wanted = partial(needs, document, policy, now=self._clock())
        obtained = await self._store.obtain(wanted, document.collateral, questions(document, policy))
        document = replace(document, collateral=obtained.collateral)
        # After waiting for vendors, whose newest pieces may be seconds old; a bundle keeps whole seconds and must judge
        # the same.
        now = self._clock().replace(microsecond=0)
        # Milliseconds for one GPU, but an event loop has other requests to serve.
        result = await asyncio.to_thread(verify, document, policy, obtained.collateral, expected=nonce, now=now)
        await self._note_down(result, policy)
        return AttestedEngine(result, Bundle(nonce, int(now.timestamp()), document), obtained.oldest_at)

    async def _note_down(self, result: AttestationResult, policy: Policy) -> None:
        """Write an accepted identity to the log. What cannot be written is told and counted, and stops nothing."""
        if self._identities is None or policy.is_insecure:  # development evidence identifies nobody
            return
        identity = AcceptedIdentity.of(
            self._engine, result.statement, kind=result.kind, claims=result.claims, policy_digest=policy.digest
        )
        try:
            if await asyncio.to_thread(self._identities.record, identity, result.verified_at):
                _log.warning("engine_identity_changed", kind=result.kind.value)
        except AttestationError as exc:
            self._telemetry.log_failed()
            _log.error("identity_not_logged", error=type(exc).__name__)
