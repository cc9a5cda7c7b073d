"""How does a machine prove itself? The producing side: attesters, and one collection for many waiting clients."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from attestation.document import AttestationDocument
from attestation.errors import FetchError
from attestation.statement import MAX_NONCES, gpu_nonce, report_data
from attestation.types import Collateral, DeviceEvidence, Evidence, EvidenceKind, Nonce, ReportData, StatementBytes


class Attester(Protocol):
    """Something that makes evidence: a TEE driver, or the development stand-in."""

    @property
    def kind(self) -> EvidenceKind: ...

    @property
    def source(self) -> str:
        """Who hands the evidence out, as a statement confesses it."""

    async def collect(self, report_data: ReportData) -> Evidence:
        """Evidence that carries `report_data`. Raises AttestationError."""

    async def collect_devices(self, nonce: Nonce) -> DeviceEvidence:
        """Evidence of the attached devices over `nonce`; empty without devices. Raises AttestationError."""

    async def admit_devices(self) -> None:
        """Let programs use the devices, whose evidence was accepted. Raises AttestationError."""


Endorse = Callable[[AttestationDocument], Collateral]
"""The collateral that a document is answered with. No coroutine: it is for what is at hand, and nobody waits for it."""


def as_collected(document: AttestationDocument) -> Collateral:
    """Implements `Endorse`: what came with the evidence, and nothing else."""
    return document.collateral


COLLECT_TIMEOUT_S = 30.0
"""Longest collection: a driver that hangs must not keep every later client waiting for ever."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    source: str
    answer: asyncio.Future[AttestationDocument | None]


class EvidenceDesk:
    """Answers nonces, one collection at a time.

    Whoever comes while a collection runs waits, and the next collection answers all who wait: at most `MAX_NONCES`,
    so nobody waits for more than two, the one that runs and his own, whoever else is asking. When that many wait, a
    nonce from a source that has fewer waiting pushes out the newest of the source that has most. So neither does a
    flood from one source shut out the others, nor does any flood cost memory. Who is pushed out or not let in is
    told so at once.
    """

    def __init__(
        self,
        attester: Attester,
        statement: Callable[[], StatementBytes],
        *,
        endorse: Endorse = as_collected,
        collect_timeout_s: float = COLLECT_TIMEOUT_S,
    ) -> None:
        """statement: the statement in force, asked for anew at every collection. endorse: called with each document."""
        self._attester = attester
        self._statement = statement
        self._endorse = endorse
        self._collect_timeout_s = collect_timeout_s
        self._waiting: dict[Nonce, _Waiting] = {}  # in order of arrival
        self._collecting: asyncio.Task[None] | None = None

    async def document(self, nonce: Nonce, source: str) -> AttestationDocument | None:
        """A document that answers `nonce`, or None when too many wait. Raises AttestationError.

        source: whom the nonce counts for, such as the address of the connection.
        """
        # Whoever brings a nonce that waits already shares its answer: it is the same document.
        if nonce not in self._waiting:
            if not self._make_room(source):
                return None
            self._waiting[nonce] = _Waiting(source, asyncio.get_running_loop().create_future())
        answer = self._waiting[nonce].answer
        if self._collecting is None:
            # Nobody awaits this task itself: whatever becomes of it reaches the callers through their futures.
            self._collecting = asyncio.create_task(self._collect())  # noqa: TID251
        return await asyncio.shield(answer)

    def _make_room(self, source: str) -> bool:
        if len(self._waiting) < MAX_NONCES:
            return True
        held = Counter(waiting.source for waiting in self._waiting.values())
        greediest, most = held.most_common(1)[0]
        if held[source] + 1 >= most:
            return False
        newest = next(nonce for nonce, waiting in reversed(self._waiting.items()) if waiting.source == greediest)
        self._waiting.pop(newest).answer.set_result(None)
        return True

    async def _collect(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, {}
                await self._answer(batch)
        finally:
            self._collecting = None

    async def _answer(self, batch: dict[Nonce, _Waiting]) -> None:
        answers = [waiting.answer for waiting in batch.values()]
        try:
            document = await self._document(tuple(batch))
        except Exception as exc:  # noqa: BLE001 - handed to every waiting caller, who raises it
            for answer in answers:
                answer.set_exception(exc)
                answer.exception()  # a caller may have left: that must not warn of an unread exception
        else:
            for answer in answers:
                answer.set_result(document)
        finally:
            for answer in answers:
                answer.cancel()  # only when this task is cancelled is there anything left to cancel

    async def _document(self, nonces: tuple[Nonce, ...]) -> AttestationDocument:
        statement = self._statement()
        try:
            async with asyncio.timeout(self._collect_timeout_s):
                devices = await self._attester.collect_devices(gpu_nonce(nonces, statement))
                evidence = await self._attester.collect(report_data(nonces, statement, devices))
        except TimeoutError as exc:
            raise FetchError("collecting evidence took too long") from exc
        document = AttestationDocument(nonces, statement, evidence, devices, evidence.collateral)
        return replace(document, collateral=self._endorse(document))
