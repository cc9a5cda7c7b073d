"""Jobs are kept, found, listed, cancelled and deleted, the same in both databases."""

from __future__ import annotations

import pytest

from proxy.jobs.errors import ConflictError, MissingError
from proxy.jobs.model import (
    LOCAL_ACCOUNT,
    AccountId,
    BlobSource,
    FailureKind,
    JobId,
    JobOptions,
    JobResult,
    JobStatus,
    LinkSource,
    ListQuery,
    NewJob,
    PartPlan,
    Plan,
)
from proxy.jobs.service import Kept
from proxy.jobs.store.rows import job_record
from tests.proxy.jobs.made import HEARD, OPTIONS, completed, queue, submitted


async def test_a_job_comes_back_as_it_was_submitted(store: Kept) -> None:
    job = await submitted(store)
    assert (job.status, job.options, job.size_bytes, job.attempts) == (JobStatus.PENDING, OPTIONS, 5, 0)
    assert isinstance(job.source, BlobSource)
    assert job.source.name == "morning.wav"
    assert await store.jobs.get(LOCAL_ACCOUNT, job.id) == job


async def test_a_link_is_fetched_before_anything_else(store: Kept) -> None:
    new = NewJob(LOCAL_ACCOUNT, "test", LinkSource("https://host.example/a"), JobOptions())
    assert (await store.jobs.submit(new)).status is JobStatus.CREATED
    claim = await queue(store).claim()
    assert claim is not None
    assert claim.job.status is JobStatus.DOWNLOADING


async def test_a_job_is_its_accounts_alone(store: Kept) -> None:
    job = await submitted(store)
    other = AccountId("other")
    for ask in (store.jobs.get, store.jobs.result, store.jobs.cancel, store.jobs.delete):
        with pytest.raises(MissingError):
            await ask(other, job.id)
    assert (await store.jobs.list(other, ListQuery())).jobs == ()


async def test_nothing_is_found_under_an_id_that_is_none(store: Kept) -> None:
    with pytest.raises(MissingError):
        await store.jobs.get(LOCAL_ACCOUNT, JobId("no such job"))


async def test_a_recording_that_is_not_there_makes_no_job(store: Kept) -> None:
    job = await submitted(store)
    assert job.blob is not None
    await store.blobs.forget(job.blob)
    with pytest.raises(MissingError):
        await store.jobs.submit(NewJob(LOCAL_ACCOUNT, "test", BlobSource(job.blob), JobOptions()))


async def test_a_result_is_there_once_the_job_completed(store: Kept) -> None:
    job = await submitted(store)
    with pytest.raises(ConflictError):
        await store.jobs.result(LOCAL_ACCOUNT, job.id)
    mine = queue(store)
    claim = await mine.claim()
    assert claim is not None
    await mine.complete(claim, JobResult(HEARD, summary="A greeting."), 2500)
    assert await store.jobs.result(LOCAL_ACCOUNT, job.id) == JobResult(HEARD, summary="A greeting.")
    ended = await store.jobs.get(LOCAL_ACCOUNT, job.id)
    assert (ended.status, ended.progress_pct, ended.audio_ms) == (JobStatus.COMPLETED, 100, 2500)


async def test_a_cancelled_job_is_never_begun_and_says_the_same_again(store: Kept) -> None:
    job = await submitted(store)
    cancelled = await store.jobs.cancel(LOCAL_ACCOUNT, job.id)
    assert cancelled.failure is not None
    assert cancelled.failure.kind is FailureKind.CANCELLED
    assert await store.jobs.cancel(LOCAL_ACCOUNT, job.id) == cancelled
    assert await queue(store).claim() is None


async def test_a_job_that_is_over_is_not_cancelled(store: Kept) -> None:
    job = await completed(store)
    with pytest.raises(ConflictError):
        await store.jobs.cancel(LOCAL_ACCOUNT, job.id)


async def test_a_job_under_way_is_not_deleted(store: Kept) -> None:
    job = await submitted(store)
    with pytest.raises(ConflictError):
        await store.jobs.delete(LOCAL_ACCOUNT, job.id)


async def test_a_deleted_job_is_gone_with_its_key_its_messages_and_its_recording(store: Kept) -> None:
    job = await completed(store)
    assert job.blob is not None
    await store.jobs.delete(LOCAL_ACCOUNT, job.id)
    await store.jobs.delete(LOCAL_ACCOUNT, job.id)
    for ask in (store.jobs.get, store.jobs.result, store.jobs.cancel):
        with pytest.raises(MissingError):
            await ask(LOCAL_ACCOUNT, job.id)
    assert (await store.jobs.list(LOCAL_ACCOUNT, ListQuery())).jobs == ()
    assert await store.outbox.claim(lease_ms=1) is None
    with pytest.raises(MissingError):
        await store.blobs.open(job.blob)
    async with store.database.begin() as tx:
        assert await store.records.keys(tx, [job_record(job.account, job.id), f"blob:{job.blob}"]) == {}


@pytest.mark.parametrize("ascending", [False, True])
async def test_pages_hold_every_job_once_and_in_order(store: Kept, ascending: bool) -> None:
    made = [(await submitted(store)).id for _ in range(7)]
    query, seen = ListQuery(limit=3, ascending=ascending), list[JobId]()
    while True:
        page = await store.jobs.list(LOCAL_ACCOUNT, query)
        seen += [job.id for job in page.jobs]
        if page.next_cursor is None:
            break
        await submitted(store) if not ascending else None  # newer jobs do not move a page
        query = ListQuery(limit=3, cursor=page.next_cursor)
    assert len(seen) == len(set(seen)) == 7
    assert set(seen) == set(made)
    assert [job.created_ms for job in [await store.jobs.get(LOCAL_ACCOUNT, each) for each in seen]] == sorted(
        [(await store.jobs.get(LOCAL_ACCOUNT, each)).created_ms for each in made], reverse=not ascending
    )


async def test_a_list_is_of_one_status_and_between_two_times(store: Kept) -> None:
    first = await completed(store)
    second = await submitted(store)
    by_status = await store.jobs.list(LOCAL_ACCOUNT, ListQuery(status=JobStatus.COMPLETED))
    assert [job.id for job in by_status.jobs] == [first.id]
    after = await store.jobs.list(LOCAL_ACCOUNT, ListQuery(from_ms=second.created_ms + 1))
    assert after.jobs == ()
    before = await store.jobs.list(LOCAL_ACCOUNT, ListQuery(to_ms=first.created_ms))
    assert before.jobs == ()


async def test_a_cursor_goes_with_its_query_and_its_account_only(store: Kept) -> None:
    for _ in range(2):
        await submitted(store)
    page = await store.jobs.list(LOCAL_ACCOUNT, ListQuery(limit=1, status=JobStatus.PENDING))
    cursor = page.next_cursor
    assert cursor is not None
    again = await store.jobs.list(LOCAL_ACCOUNT, ListQuery(limit=1, cursor=cursor))
    assert len(again.jobs) == 1
    with pytest.raises(ValueError, match="query"):
        await store.jobs.list(LOCAL_ACCOUNT, ListQuery(limit=1, cursor=cursor, status=JobStatus.FAILED))
    with pytest.raises(ValueError, match="not a cursor"):
        await store.jobs.list(AccountId("other"), ListQuery(limit=1, cursor=cursor))


@pytest.mark.parametrize("cursor", ["", "x", "!", "AAAA" * 20, "é"])
async def test_a_cursor_that_is_not_ours_is_refused(store: Kept, cursor: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        await store.jobs.list(LOCAL_ACCOUNT, ListQuery(cursor=cursor))


@pytest.mark.parametrize("limit", [0, 201])
async def test_a_page_has_a_size(store: Kept, limit: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        await store.jobs.list(LOCAL_ACCOUNT, ListQuery(limit=limit))


async def test_parts_are_kept_sealed_until_the_job_is_over(store: Kept) -> None:
    await submitted(store)
    mine = queue(store)
    claim = await mine.claim()
    assert claim is not None
    await mine.keep_plan(claim, Plan((PartPlan(0, 0, 1000), PartPlan(1, 1000, 2000)), 2000))
    await mine.keep_part(claim, 1, HEARD)
    first, second = await mine.parts(claim)
    assert (first.plan, first.transcript) == (PartPlan(0, 0, 1000), None)
    assert (second.plan, second.transcript) == (PartPlan(1, 1000, 2000), HEARD)
