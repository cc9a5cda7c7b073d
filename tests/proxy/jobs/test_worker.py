"""What happens to a job under way, and what becomes of it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from core.transcript.types import Transcript
from proxy.jobs.errors import FailedError, StoreError, TransientError
from proxy.jobs.model import (
    LOCAL_ACCOUNT,
    Failure,
    FailureKind,
    Job,
    JobOptions,
    JobStatus,
    LinkSource,
    NewJob,
    Plan,
    Receipt,
)
from proxy.jobs.parts import WholeFile
from proxy.jobs.ports import Recording
from proxy.jobs.service import Kept, Places
from proxy.jobs.stitch import PartStitcher
from proxy.jobs.store.queue import MAX_ATTEMPTS, Claim, PartState, Queue
from proxy.jobs.worker import Means, Pace, Worker
from tests.proxy.jobs.fakes import FakeEngine, FakeFetched, FakeFetcher, Letters, Unreadable, Watcher
from tests.proxy.jobs.made import claimed, queue, submitted
from tests.waiting import time_passes, until

UNAVAILABLE = Failure(FailureKind.ENGINE_FAILED)


def means(store: Kept, engine: FakeEngine) -> Means:
    return Means(store.blobs, engine, WholeFile(), PartStitcher())


@asynccontextmanager
async def working(
    store: Kept, with_: Means, *, pace: Pace | None = None, mine: Queue | None = None
) -> AsyncIterator[Watcher]:
    watcher = Watcher()
    worker = Worker(mine or queue(store), store.database.notices, with_, watcher, pace or Pace())
    async with asyncio.TaskGroup() as group:
        task = group.create_task(worker.run())
        try:
            yield watcher
        finally:
            task.cancel()


async def over(store: Kept, job: Job) -> Job:
    async def is_over() -> bool:
        return (await store.jobs.get(LOCAL_ACCOUNT, job.id)).status.is_final

    await until(is_over)
    return await store.jobs.get(LOCAL_ACCOUNT, job.id)


async def test_a_recording_becomes_its_transcript(store: Kept) -> None:
    async with working(store, means(store, FakeEngine())):
        job = await submitted(store)
        ended = await over(store, job)
    assert (ended.status, ended.audio_ms) == (JobStatus.COMPLETED, 1000)
    assert (await store.jobs.result(LOCAL_ACCOUNT, job.id)).transcript.text == "sound"


async def test_parts_are_put_together_in_their_order_and_time(store: Kept) -> None:
    async with working(store, replace(means(store, FakeEngine()), splitter=Letters())):
        job = await submitted(store)
        await over(store, job)
    transcript = (await store.jobs.result(LOCAL_ACCOUNT, job.id)).transcript
    assert (transcript.text, transcript.duration_s) == ("s o u n d", 5.0)
    assert [segment.start_s for segment in transcript.segments] == [0.0, 1.0, 2.0, 3.0, 4.0]


async def test_the_engine_is_told_how_many_parts_there_are_also_of_those_that_are_left(store: Kept) -> None:
    engine = FakeEngine(faults=[TransientError(UNAVAILABLE, retry_after_s=0.0, untouched=True)])
    async with working(store, replace(means(store, engine), splitter=Letters())):
        await over(store, await submitted(store))
    assert set(engine.parts) == {5}
    alone = FakeEngine()
    async with working(store, means(store, alone)):
        await over(store, await submitted(store))
    assert alone.parts == [1]


async def test_whoever_takes_over_hears_only_what_was_not_heard(store: Kept) -> None:
    job = await submitted(store)
    first = queue(store, "first")
    splitter = Letters()
    claim = await claimed(first)
    assert claim.job.blob is not None
    plan = await splitter.plan(await store.blobs.open(claim.job.blob), claim.job.options)
    await first.keep_plan(claim, plan)
    heard = await FakeEngine(signs=True).hear(
        await splitter.cut(await store.blobs.open(claim.job.blob), plan.parts[0]),
        claim.job.options,
        request_id="1",
        of=5,
    )
    await first.keep_part(claim, 0, heard.transcript, heard.receipt)
    await first.release(claim)
    engine = FakeEngine(signs=True)
    async with working(store, replace(means(store, engine), splitter=splitter)):
        await over(store, job)
    assert len(engine.heard) == 4
    assert splitter.plans == 1
    result = await store.jobs.result(LOCAL_ACCOUNT, job.id)
    assert result.transcript.text == "s o u n d"
    assert [part.index for part in result.receipts] == [0, 1, 2, 3, 4]
    signed = [part.receipt.signed for part in result.receipts]
    assert (signed[0], set(signed[1:])) == ("1.signed", {f"{request}.signed" for request in engine.heard})


async def test_a_cancelled_job_ends_its_request_to_the_engine(store: Kept) -> None:
    engine = FakeEngine(gate=asyncio.Event())
    async with working(store, means(store, engine)) as watcher:
        job = await submitted(store)
        await until(lambda: engine.under_way)
        await store.jobs.cancel(LOCAL_ACCOUNT, job.id)
        await until(lambda: watcher.outcomes["lost"])
    assert engine.cancelled == 1
    assert (await store.jobs.get(LOCAL_ACCOUNT, job.id)).is_cancelled


async def test_at_the_end_of_the_process_a_job_goes_back_with_no_attempt_lost(store: Kept) -> None:
    engine = FakeEngine(gate=asyncio.Event())
    async with working(store, means(store, engine)):
        job = await submitted(store)
        await until(lambda: engine.under_way)
    back = await store.jobs.get(LOCAL_ACCOUNT, job.id)
    assert (back.status, back.attempts) == (JobStatus.PENDING, 0)
    assert (await claimed(queue(store, "next"))).job.id == job.id


async def test_a_job_waits_for_an_engine_that_nobody_reaches_however_often_that_is(store: Kept) -> None:
    faults: list[Exception] = [TransientError(UNAVAILABLE, retry_after_s=0.0, untouched=True)] * (2 * MAX_ATTEMPTS)
    async with working(store, means(store, FakeEngine(faults))) as watcher:
        ended = await over(store, await submitted(store))
    assert ended.status is JobStatus.COMPLETED
    assert watcher.outcomes["postponed"] == 2 * MAX_ATTEMPTS


async def test_an_engine_that_fails_over_a_job_is_tried_so_often_and_no_more(store: Kept) -> None:
    engine = FakeEngine([TransientError(UNAVAILABLE, retry_after_s=0.0)] * MAX_ATTEMPTS)
    async with working(store, means(store, engine)):
        ended = await over(store, await submitted(store))
    assert ended.failure == UNAVAILABLE
    assert len(engine.heard) == MAX_ATTEMPTS


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FailedError(Failure(FailureKind.MEDIA_TOO_SHORT, {"audio_ms": 100})), FailureKind.MEDIA_TOO_SHORT),
        (RuntimeError("a defect"), FailureKind.INTERNAL),
    ],
)
async def test_what_no_other_try_mends_is_the_end(store: Kept, error: Exception, kind: FailureKind) -> None:
    async with working(store, replace(means(store, FakeEngine()), splitter=Unreadable(error))):
        ended = await over(store, await submitted(store))
        another = await submitted(store)  # and of that job alone
        assert (await over(store, another)).failure == ended.failure
    assert ended.failure is not None
    assert ended.failure.kind is kind


async def test_another_recording_in_the_place_of_a_jobs_own_is_heard_by_nobody(store: Kept, places: Places) -> None:
    engine = FakeEngine()
    job, other = await submitted(store), await submitted(store)
    assert isinstance(places.blobs, Path)
    assert job.blob is not None
    assert other.blob is not None
    shutil.copy(places.blobs / other.blob, places.blobs / job.blob)
    async with working(store, means(store, engine)):
        ended = await over(store, job)
    assert ended.failure == Failure(FailureKind.SOURCE_LOST)


async def test_a_recording_that_is_gone_fails_its_job(store: Kept) -> None:
    engine = FakeEngine()
    job = await submitted(store)
    assert job.blob is not None
    await store.blobs.forget(job.blob)
    async with working(store, means(store, engine)):
        ended = await over(store, job)
    assert ended.failure == Failure(FailureKind.SOURCE_LOST)
    assert engine.heard == []


async def test_a_link_is_fetched_and_then_heard(store: Kept) -> None:
    with_ = replace(means(store, FakeEngine()), fetcher=FakeFetcher(b"far"))
    async with working(store, with_):
        job = await store.jobs.submit(NewJob(LOCAL_ACCOUNT, "test", LinkSource("https://a.example/x"), JobOptions()))
        ended = await over(store, job)
    assert (ended.status, ended.size_bytes) == (JobStatus.COMPLETED, 3)


@pytest.mark.parametrize("fetcher", [None, FakeFetcher(FailedError(Failure(FailureKind.SOURCE_UNREACHABLE)))])
async def test_a_link_that_leads_nowhere_fails_its_job(store: Kept, fetcher: FakeFetcher | None) -> None:
    async with working(store, replace(means(store, FakeEngine()), fetcher=fetcher)):
        job = await store.jobs.submit(NewJob(LOCAL_ACCOUNT, "test", LinkSource("https://a.example/x"), JobOptions()))
        ended = await over(store, job)
    assert ended.failure == Failure(FailureKind.SOURCE_UNREACHABLE)


async def test_a_link_to_more_than_is_taken_fails_its_job(store: Kept) -> None:
    with_ = replace(means(store, FakeEngine()), fetcher=FakeFetcher(b"too much"))
    async with working(store, with_, pace=Pace(max_fetched_bytes=3)):
        job = await store.jobs.submit(NewJob(LOCAL_ACCOUNT, "test", LinkSource("https://a.example/x"), JobOptions()))
        ended = await over(store, job)
    assert ended.failure == Failure(FailureKind.MEDIA_TOO_LARGE, {"limit_bytes": 3})


class _FullDisk(Letters):
    """A splitter that cannot write, and then can."""

    times = 2 * MAX_ATTEMPTS

    async def plan(self, recording: Recording, options: JobOptions, *, max_audio_ms: int | None = None) -> Plan:
        if self.times:
            self.times -= 1
            raise StoreError("full")
        return await super().plan(recording, options, max_audio_ms=max_audio_ms)


async def test_a_job_waits_while_its_recording_cannot_be_cut_however_often_that_is(store: Kept) -> None:
    with_ = replace(means(store, FakeEngine()), splitter=_FullDisk())
    async with working(store, with_, pace=Pace(away_s=0.0)) as watcher:
        ended = await over(store, await submitted(store))
    assert ended.status is JobStatus.COMPLETED
    assert watcher.outcomes["postponed"] == watcher.store_failures == 2 * MAX_ATTEMPTS


async def test_a_job_of_which_nothing_comes_for_too_long_fails(store: Kept) -> None:
    engine = FakeEngine(gate=asyncio.Event())
    async with working(store, means(store, engine)):
        job = await submitted(store)
        await until(lambda: engine.under_way)
        time_passes(Pace().stuck_s)
        ended = await over(store, job)
    assert ended.failure == Failure(FailureKind.PROCESSING_TIMEOUT)
    assert engine.cancelled == 1


async def test_a_job_that_gets_on_may_take_as_long_as_it_takes(store: Kept) -> None:
    engine = FakeEngine(gate=asyncio.Event())
    async with working(store, replace(means(store, engine), splitter=Letters()), pace=Pace(parts=1)):
        job = await submitted(store)
        gates: list[asyncio.Event] = []
        while len(gates) < len("sound"):
            await until(lambda: engine.under_way and len(engine.heard) > len(gates))
            time_passes(Pace().stuck_s - 60)
            assert engine.gate is not None
            gates.append(engine.gate)
            engine.gate = asyncio.Event()
            gates[-1].set()
        ended = await over(store, job)
    assert ended.status is JobStatus.COMPLETED


class _Far(FakeFetcher):
    """Fetches for ever."""

    is_asked = False

    async def fetch(self, url: str, *, max_bytes: int | None = None) -> FakeFetched:
        self.is_asked = True
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_link_that_is_fetched_for_too_long_fails_its_job(store: Kept) -> None:
    far = _Far(b"")
    async with working(store, replace(means(store, FakeEngine()), fetcher=far)):
        job = await store.jobs.submit(NewJob(LOCAL_ACCOUNT, "test", LinkSource("https://a.example/x"), JobOptions()))
        await until(lambda: far.is_asked)
        time_passes(Pace().fetching_s)
        ended = await over(store, job)
    assert ended.failure == Failure(FailureKind.DOWNLOAD_TIMEOUT)


class _Away(Queue):
    """A queue whose database is away when a part is to be kept, and comes back."""

    times = 3

    async def keep_part(self, claim: Claim, index: int, heard: Transcript, receipt: Receipt | None = None) -> None:
        if self.times:
            self.times -= 1
            raise StoreError("away")
        await super().keep_part(claim, index, heard, receipt)

    async def parts(self, claim: Claim) -> list[PartState]:
        return list(await super().parts(claim))


async def test_what_was_heard_while_the_database_was_away_is_kept_when_it_is_back(store: Kept) -> None:
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)

    engine = FakeEngine()
    away = _Away(store.database, store.records, store.funds, "w", lease_ms=60_000)
    async with working(store, means(store, engine), pace=Pace(nap=nap), mine=away) as watcher:
        ended = await over(store, await submitted(store))
    assert ended.status is JobStatus.COMPLETED
    assert len(engine.heard) == 1
    assert watcher.store_failures == len(naps) == 3
