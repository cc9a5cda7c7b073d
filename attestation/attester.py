"""How does a machine prove itself? The producing side: attesters, and one collection for many waiting clients."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

from attestation.document import AttestationDocument
from attestation.statement import MAX_NONCES, gpu_nonce, report_data
from attestation.types import DeviceEvidence, Evidence, EvidenceKind, Nonce, ReportData, StatementBytes


class Attester(Protocol):
    """Something that makes evidence: a TEE driver, or the development stand-in."""

    @property
    def kind(self) -> EvidenceKind: ...

    async def collect(self, report_data: ReportData) -> Evidence:
        """Evidence that carries `report_data`. Raises AttestationError."""

    async def collect_devices(self, nonce: Nonce) -> DeviceEvidence:
        """Evidence of the attached devices over `nonce`; empty without devices. Raises AttestationError."""


_Answers = dict[Nonce, "asyncio.Future[AttestationDocument]"]


class EvidenceDesk:
    """Answers nonces, one collection at a time.

    Whoever comes while a collection runs waits, and the next collection answers up to `MAX_NONCES` of those who wait
    then, taken in turns from each source. So a flood from one source delays a client at another by at most two
    collections: the one that runs, and its own. A source may have `MAX_WAITING` nonces waiting; one more is turned
    away, so that a flood costs no memory.
    """

    MAX_WAITING = MAX_NONCES
    MAX_SOURCES = 1024

    def __init__(self, attester: Attester, statement: Callable[[], StatementBytes]) -> None:
        """statement: the statement in force, asked for anew at every collection."""
        self._attester = attester
        self._statement = statement
        self._waiting: defaultdict[str, _Answers] = defaultdict(dict)
        self._collecting: asyncio.Task[None] | None = None

    async def document(self, nonce: Nonce, source: str) -> AttestationDocument | None:
        """A document that answers `nonce`, or None when too many wait at `source`. Raises AttestationError."""
        if not self._has_room(source):
            return None
        answers = self._waiting[source]
        answer = answers.setdefault(nonce, asyncio.get_running_loop().create_future())
        if self._collecting is None:
            # Nobody awaits this task itself: whatever becomes of it reaches the callers through their futures.
            self._collecting = asyncio.create_task(self._collect())  # noqa: TID251
        return await asyncio.shield(answer)

    def _has_room(self, source: str) -> bool:
        if source in self._waiting:
            return len(self._waiting[source]) < self.MAX_WAITING
        return len(self._waiting) < self.MAX_SOURCES

    async def _collect(self) -> None:
        try:
            while batch := self._next_batch():
                await self._answer(batch)
        finally:
            self._collecting = None

    def _next_batch(self) -> _Answers:
        batch: _Answers = {}
        while self._waiting and len(batch) < MAX_NONCES:
            for source in tuple(self._waiting):
                nonce = next(iter(self._waiting[source]))
                batch[nonce] = self._waiting[source].pop(nonce)
                if not self._waiting[source]:
                    del self._waiting[source]
                if len(batch) == MAX_NONCES:
                    break
        return batch

    async def _answer(self, batch: _Answers) -> None:
        nonces, statement = tuple(batch), self._statement()
        try:
            devices = await self._attester.collect_devices(gpu_nonce(nonces, statement))
            evidence = await self._attester.collect(report_data(nonces, statement, devices))
        except Exception as exc:  # noqa: BLE001 - handed to every waiting caller, who raises it
            for answer in batch.values():
                answer.set_exception(exc)
                answer.exception()  # a caller may have left: that must not warn of an unread exception
            return
        document = AttestationDocument(nonces, statement, evidence, devices)
        for answer in batch.values():
            answer.set_result(document)
