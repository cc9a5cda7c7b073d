"""Is this the engine that the policy asks for? One attempt: ask, gather collateral, judge, note the identity down."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial

import structlog

from attestation.bundle import Bundle
from attestation.collateral.store import CollateralStore
from attestation.document import AttestationDocument
from attestation.errors import AttestationError
from attestation.log import AcceptedIdentity, IdentityLog
from attestation.policy import Policy
from attestation.types import NONCE_BYTES, Nonce
from attestation.verification import AttestationResult, needs, questions, sealing_keys, verify
from core.channel.keyconfig import KeyConfig
from core.errors import StateError
from proxy.telemetry import Telemetry

_log = structlog.get_logger(__name__)

Fetch = Callable[[Nonce], Awaitable[AttestationDocument]]
Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class AttestedEngine:
    """An engine that proved itself, and what anyone needs to check that again.

    collateral_at: when the oldest piece of collateral was had; None without any.
    """

    result: AttestationResult
    bundle: Bundle
    collateral_at: datetime | None = None

    @cached_property
    def statement_sha256(self) -> str:
        """Of the statement's bytes, hexadecimal."""
        return hashlib.sha256(self.bundle.document.statement).hexdigest()

    @property
    def digests(self) -> frozenset[bytes]:
        """Identities of the keys in force, those of live sessions among them."""
        statement = self.result.statement
        return frozenset(config.digest for config in (*statement.ohttp_keys, *statement.live_keys))

    def choose_key(self) -> KeyConfig:
        """A key of the preferred kind: each belongs to one worker process, and load spreads over them."""
        return secrets.choice(self._sealing_keys)

    def choose_live_key(self) -> KeyConfig | None:
        """The same for a live session; None where the engine serves none."""
        return secrets.choice(self._sealing_live_keys) if self._sealing_live_keys else None

    # Trying a key costs as much as sealing to it: once an attestation, not once a request.
    @cached_property
    def _sealing_keys(self) -> tuple[KeyConfig, ...]:
        return sealing_keys(self.result.statement.ohttp_keys)

    @cached_property
    def _sealing_live_keys(self) -> tuple[KeyConfig, ...]:
        return sealing_keys(self.result.statement.live_keys)


class EngineVerifier:
    """Verifies one engine."""

    def __init__(
        self,
        engine: str,
        fetch: Fetch,
        store: CollateralStore,
        telemetry: Telemetry,
        *,
        log: IdentityLog | None = None,
        clock: Clock = utc_now,
    ) -> None:
        """engine: its URL, for the log. fetch: its document for a nonce. log: None keeps none."""
        self._engine = engine
        self._fetch = fetch
        self._store = store
        self._telemetry = telemetry
        self._identities = log
        self._clock = clock

    async def verify(self, policy: Policy) -> AttestedEngine:
        """Judge the engine by `policy` now. Raises AttestationError."""
        nonce = Nonce(secrets.token_bytes(NONCE_BYTES))
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
        except (AttestationError, StateError) as exc:
            self._telemetry.log_failed()
            _log.error("identity_not_logged", error=type(exc).__name__)
