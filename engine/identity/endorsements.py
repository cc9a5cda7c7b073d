"""What vouches for this machine, so that its clients need not ask the vendors? Obtained at the start, then kept fresh.

It is what the engine's own policy looks up: certificates, revocation lists, reference values. What the policy of a
client asks for beyond that, the client gets itself. A document carries what is at hand and waits for nobody: only the
start asks vendors while somebody waits, and a timer asks them from then on, while clients are answered.

Everything here is signed by somebody else and judged by whoever uses it, so that neither the way it came by nor the
disk it was kept on has to be trusted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType

from attestation.collateral.source import Sources
from attestation.collateral.store import Cache, CollateralStore, Questions, ask_over
from attestation.collateral.vendors import ASKED_ONCE, UNSIGNED
from attestation.document import MAX_COLLATERAL, MAX_DOCUMENT_BYTES, AttestationDocument
from attestation.policy import Policy
from attestation.types import Collateral, CollateralKey
from attestation.verification import needs
from core.program.http.client import open_session

CONNECT_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 10.0

REFRESH_S = 300.0
"""How often it is looked at whether anything will soon be stale."""
AHEAD = timedelta(hours=1)
"""Newer pieces are asked for so long before the old ones are stale: at that moment every client verifies anew."""

MEMBER_BYTES = 64
"""What a piece takes in a document beside its name and its data, at most."""

Clock = Callable[[], datetime]


class Endorsements:
    """What vouches for this machine under `policy`. store: its clock runs `AHEAD` of `clock`."""

    def __init__(self, policy: Policy, store: CollateralStore, clock: Clock) -> None:
        self.policy = policy
        self._store = store
        self.clock = clock
        self._newest: AttestationDocument | None = None
        self._obtained: Collateral = {}

    def at_hand(self, document: AttestationDocument) -> Collateral:
        """What a new document may carry: what was obtained, and what came with it. Implements `Endorse`."""
        self._newest = document
        return _fitting(document, {**document.collateral, **self._obtained})

    async def obtain(self, document: AttestationDocument, questions: Questions = MappingProxyType({})) -> Collateral:
        """What the policy looks up for a document, as far as it can be had. May take a minute.

        questions: without its question a verdict about this one document is left out.
        """
        now = self.clock()

        def wanted(at_hand: Collateral) -> tuple[CollateralKey, ...]:
            keys = needs(document, self.policy, at_hand, now=now)
            return tuple(key for key in keys if key.kind not in ASKED_ONCE or key in questions)

        self._obtained = (await self._store.obtain(wanted, document.collateral, questions)).collateral
        return self._obtained

    async def refresh(self) -> None:
        """Obtain what the newest document needs: firmware and drivers may be others than at the start."""
        if self._newest is not None:
            await self.obtain(self._newest)


def _fitting(document: AttestationDocument, pieces: Collateral) -> Collateral:
    """The pieces that are of use to others, as many as there is room for: nobody reads a document that is too long."""
    chosen: dict[CollateralKey, bytes] = {}
    room_bytes = MAX_DOCUMENT_BYTES - len(replace(document, collateral={}).encode())
    for key, data in pieces.items():
        size_bytes = 4 * (len(data) + 2) // 3 + 2 * len(key.name.encode()) + MEMBER_BYTES
        if key.kind not in UNSIGNED | ASKED_ONCE and size_bytes <= room_bytes and len(chosen) < MAX_COLLATERAL:
            chosen[key] = data
            room_bytes -= size_bytes
    return chosen


@asynccontextmanager
async def open_endorsements(
    policy: Policy, *, directory: Path | None, offline: bool, clock: Clock, sources: Sources
) -> AsyncIterator[Endorsements]:
    """Endorsements that can be obtained while the context is open.

    directory: where they outlive the program; None keeps them in memory. offline: ask no vendor.
    """
    async with open_session(
        tls=None, loopback_only=False, connect_timeout_s=CONNECT_TIMEOUT_S, idle_timeout_s=IDLE_TIMEOUT_S
    ) as session:
        ask = None if offline else ask_over(session)
        store = CollateralStore(Cache(directory), ask, lambda: clock() + AHEAD, sources)
        yield Endorsements(policy, store, clock)
