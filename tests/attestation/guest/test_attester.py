"""One collection answers all who wait; no flood delays anyone by more than two, and no failure strands anyone."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from attestation.document import AttestationDocument
from attestation.errors import AttestationError, EvidenceError, FetchError
from attestation.guest.attester import EvidenceDesk
from attestation.insecure import InsecureAttester
from attestation.statement import MAX_NONCES, gpu_nonce, report_data
from attestation.types import (
    Collateral,
    CollateralKey,
    CollateralKind,
    DeviceEvidence,
    Evidence,
    EvidenceKind,
    Nonce,
    ReportData,
    StatementBytes,
)
from tests.waiting import GIVE_UP_S, time_passes

STATEMENT = StatementBytes(b"statement")
Answer = asyncio.Task[AttestationDocument | None]


def _nonces(prefix: int) -> Iterator[Nonce]:
    for number in range(10_000):
        yield Nonce(bytes([prefix]) + number.to_bytes(31, "big"))


class StepAttester:
    """Collects when it is told to; `started` counts the collections begun."""

    kind = EvidenceKind.INSECURE
    source = "insecure"

    def __init__(self) -> None:
        self.started = 0
        self.gpu_nonces: list[Nonce] = []
        self.failure: BaseException | None = None
        self._changed = asyncio.Condition()
        self._permits = 0

    async def collect_devices(self, nonce: Nonce) -> DeviceEvidence:
        self.gpu_nonces.append(nonce)
        return DeviceEvidence(b"devices")

    async def collect(self, report_data: ReportData) -> Evidence:
        async with self._changed:
            self.started += 1
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._permits > 0)
            self._permits -= 1
        if self.failure is not None:
            raise self.failure
        return Evidence(EvidenceKind.INSECURE, report_data)

    async def admit_devices(self) -> None: ...

    async def begun(self, collections: int) -> None:
        """Wait until that many collections were begun."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.started >= collections)

    async def finish_one(self) -> None:
        async with self._changed:
            self._permits += 1
            self._changed.notify_all()


@asynccontextmanager
async def _asking(attester: StepAttester, desk: EvidenceDesk) -> AsyncIterator[asyncio.TaskGroup]:
    async with asyncio.timeout(GIVE_UP_S), asyncio.TaskGroup() as group:
        yield group
        for _ in range(100):
            await attester.finish_one()


async def _admit(group: asyncio.TaskGroup, desk: EvidenceDesk, nonces: list[Nonce], source: str) -> list[Answer]:
    """Ask, and return once the desk has taken every question."""
    answers = [group.create_task(desk.document(nonce, source)) for nonce in nonces]
    await asyncio.sleep(0)
    return answers


def _desk() -> tuple[StepAttester, EvidenceDesk]:
    attester = StepAttester()
    return attester, EvidenceDesk(attester, lambda: STATEMENT)


async def test_a_document_binds_its_nonce_the_statement_and_the_devices() -> None:
    attester, desk = _desk()
    nonce = next(_nonces(1))
    async with _asking(attester, desk) as group:
        (answer,) = await _admit(group, desk, [nonce], "a")
    document = answer.result()
    assert document is not None
    assert document.nonces == (nonce,)
    assert document.evidence.report == report_data((nonce,), STATEMENT, DeviceEvidence(b"devices"))
    assert attester.gpu_nonces == [gpu_nonce((nonce,), STATEMENT)]


async def test_whoever_comes_during_a_collection_is_answered_by_the_next_together_and_in_order() -> None:
    attester, desk = _desk()
    first, *others = [nonce for nonce, _ in zip(_nonces(1), range(6), strict=False)]
    async with _asking(attester, desk) as group:
        (early,) = await _admit(group, desk, [first], "a")
        await attester.begun(1)
        late = await _admit(group, desk, others, "b")
    assert early.result() == await early
    documents = {id(answer.result()): answer.result() for answer in late}
    ((_, document),) = documents.items()
    assert document is not None
    assert document.nonces == tuple(others)
    assert attester.started == 2


async def test_the_same_nonce_waiting_twice_gets_the_same_answer() -> None:
    attester, desk = _desk()
    nonces = _nonces(1)
    async with _asking(attester, desk) as group:
        await _admit(group, desk, [next(nonces)], "a")
        await attester.begun(1)
        nonce = next(nonces)
        answers = await _admit(group, desk, [nonce], "a") + await _admit(group, desk, [nonce], "b")
    document = answers[0].result()
    assert document is not None
    assert document is answers[1].result()
    assert document.nonces == (nonce,)


@pytest.mark.parametrize("sources", [1, 2, 40, 63])
async def test_a_flood_delays_an_honest_client_by_at_most_two_collections(sources: int) -> None:
    attester, desk = _desk()
    flood, honest = _nonces(1), next(_nonces(2))
    async with _asking(attester, desk) as group:
        await _admit(group, desk, [next(flood)], "flood 0")
        await attester.begun(1)
        for number in range(2_000):
            group.create_task(desk.document(next(flood), f"flood {number % sources}"))
        await asyncio.sleep(0)
        (answer,) = await _admit(group, desk, [honest], "honest")
        for number in range(2_000):
            group.create_task(desk.document(next(flood), f"flood {number % sources}"))
        await asyncio.sleep(0)
        await attester.finish_one()
        await attester.begun(2)
        assert not answer.done()
        await attester.finish_one()
        document = await answer
        assert attester.started <= 3
    assert document is not None
    assert honest in document.nonces
    assert len(document.nonces) == MAX_NONCES


@pytest.mark.parametrize(("sources", "clients"), [(1, 1), (7, 20), (40, 20)])
async def test_under_a_flood_that_never_ends_nobody_honest_waits_for_more_than_two(sources: int, clients: int) -> None:
    """A thousand nonces for each collection, as in a flood of a thousand a second where one takes a second."""
    attester, desk = _desk()
    flood, honest, order = _nonces(1), _nonces(2), random.Random(sources)
    waiting: list[Answer] = []
    async with _asking(attester, desk) as group:
        for collection in range(1, 6):
            asking = [(next(flood), f"flood {number % sources}") for number in range(1_000)]
            asking += [(next(honest), f"honest {client}") for client in range(clients)]
            order.shuffle(asking)
            came = [(source, (await _admit(group, desk, [nonce], source))[0]) for nonce, source in asking]
            await attester.begun(collection)
            await attester.finish_one()
            # Whoever came while the one before ran has been answered by this one.
            assert all(await asyncio.gather(*waiting))
            waiting = [answer for source, answer in came if source.startswith("honest")]
            assert attester.started <= collection + 1


async def test_a_flood_from_as_many_sources_as_there_are_places_is_told_apart_from_nobody() -> None:
    """The limit of counting by source: who comes later is turned away, at once and not after a wait."""
    attester, desk = _desk()
    flood = _nonces(1)
    async with _asking(attester, desk) as group:
        await _admit(group, desk, [next(flood)], "first")
        await attester.begun(1)
        for number in range(MAX_NONCES):
            await _admit(group, desk, [next(flood)], f"flood {number}")
        assert await desk.document(next(_nonces(2)), "honest") is None
        assert attester.started == 1


async def test_a_flood_from_one_source_does_not_grow_the_queue() -> None:
    attester, desk = _desk()
    flood = _nonces(1)
    async with _asking(attester, desk) as group:
        answers = await _admit(group, desk, [next(flood) for _ in range(MAX_NONCES + 1)], "flood")
        await attester.begun(1)
        answers += await _admit(group, desk, [next(flood) for _ in range(1_000)], "flood")
    answered = [answer.result() for answer in answers if answer.result() is not None]
    assert len(answered) == 2 * MAX_NONCES


async def test_who_is_turned_away_is_told_at_once() -> None:
    attester, desk = _desk()
    async with _asking(attester, desk) as group:
        await _admit(group, desk, [next(_nonces(1))], "flood")
        await attester.begun(1)
        flood = _nonces(3)
        await _admit(group, desk, [next(flood) for _ in range(MAX_NONCES)], "flood")
        assert await desk.document(next(flood), "flood") is None


async def test_the_newest_of_the_greediest_source_makes_room() -> None:
    attester, desk = _desk()
    greedy, modest = _nonces(1), _nonces(2)
    async with _asking(attester, desk) as group:
        await _admit(group, desk, [next(greedy)], "greedy")
        await attester.begun(1)
        answers = await _admit(group, desk, [next(greedy) for _ in range(MAX_NONCES - 2)], "greedy")
        answers += await _admit(group, desk, [next(modest), next(modest), next(modest)], "modest")
    outcome = [answer.result() is not None for answer in answers]
    assert outcome == [True] * (MAX_NONCES - 3) + [False] + [True] * 3


async def test_a_failure_reaches_everyone_who_waited_for_it_and_nobody_later() -> None:
    attester, desk = _desk()
    attester.failure = EvidenceError("no driver")
    nonces = _nonces(1)
    async with asyncio.timeout(GIVE_UP_S):
        answers = [asyncio.ensure_future(desk.document(next(nonces), "a")) for _ in range(3)]  # noqa: TID251
        await attester.finish_one()
        outcomes = await asyncio.gather(*answers, return_exceptions=True)
        attester.failure = None
        await attester.finish_one()
        assert await desk.document(next(nonces), "a") is not None
    assert outcomes == [
        attester_failure for attester_failure in outcomes if isinstance(attester_failure, EvidenceError)
    ]
    assert len(outcomes) == 3


async def test_a_statement_that_cannot_be_had_reaches_everyone_too() -> None:
    def no_statement() -> StatementBytes:
        raise AttestationError("between two epochs")

    desk = EvidenceDesk(StepAttester(), no_statement)
    async with asyncio.timeout(GIVE_UP_S):
        for nonce, _ in zip(_nonces(1), range(2), strict=False):
            with pytest.raises(AttestationError, match="between"):
                await desk.document(nonce, "a")


async def test_a_driver_that_hangs_fails_its_collection_and_not_the_next() -> None:
    attester = StepAttester()
    desk = EvidenceDesk(attester, lambda: STATEMENT, collect_timeout_s=60)
    nonces = _nonces(1)
    async with asyncio.timeout(GIVE_UP_S):
        hanging = asyncio.ensure_future(desk.document(next(nonces), "a"))  # noqa: TID251
        await attester.begun(1)
        time_passes(60)
        with pytest.raises(FetchError, match="too long"):
            await hanging
        await attester.finish_one()
        assert await desk.document(next(nonces), "a") is not None


async def test_a_driver_that_is_cancelled_strands_nobody() -> None:
    attester, desk = _desk()
    attester.failure = asyncio.CancelledError()
    await attester.finish_one()
    async with asyncio.timeout(GIVE_UP_S):
        with pytest.raises(asyncio.CancelledError):
            await desk.document(next(_nonces(1)), "a")


async def test_a_client_that_leaves_does_not_break_the_others() -> None:
    attester, desk = _desk()
    nonces = _nonces(1)
    async with _asking(attester, desk) as group:
        leaving, staying = await _admit(group, desk, [next(nonces), next(nonces)], "a")
        await attester.begun(1)
        leaving.cancel()
    assert leaving.cancelled()
    assert staying.result() is not None


async def test_a_failure_that_nobody_waits_for_any_more_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    attester, desk = _desk()
    attester.failure = EvidenceError("no driver")
    leaving = asyncio.ensure_future(desk.document(next(_nonces(1)), "a"))  # noqa: TID251
    await attester.begun(1)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await attester.finish_one()
    if (collecting := desk._collecting) is not None:
        await collecting
    del leaving
    gc.collect()
    assert caplog.records == []


async def test_the_statement_is_asked_for_anew_at_every_collection() -> None:
    statements = iter([StatementBytes(b"one"), StatementBytes(b"two")])
    attester = StepAttester()
    desk = EvidenceDesk(attester, lambda: next(statements))
    nonces = _nonces(1)
    for expected in (b"one", b"two"):
        await attester.finish_one()
        document = await desk.document(next(nonces), "a")
        assert document is not None
        assert document.statement == expected


async def test_each_document_carries_what_came_with_its_evidence_or_what_it_is_endorsed_with() -> None:
    own, endorsed = ({CollateralKey(CollateralKind.SNP_CRL, name): b""} for name in ("own", "endorsed"))

    class Delivering(InsecureAttester):
        async def collect(self, report_data: ReportData) -> Evidence:
            return Evidence(EvidenceKind.INSECURE, report_data, own)

    given: list[AttestationDocument] = []

    def endorse(document: AttestationDocument) -> Collateral:
        given.append(document)
        return endorsed

    nonces = _nonces(1)
    for desk, expected in (
        (EvidenceDesk(Delivering(), lambda: STATEMENT), own),
        (EvidenceDesk(Delivering(), lambda: STATEMENT, endorse=endorse), endorsed),
    ):
        document = await desk.document(next(nonces), "a")
        assert document is not None
        assert document.collateral == expected
    assert [before.collateral for before in given] == [own]
