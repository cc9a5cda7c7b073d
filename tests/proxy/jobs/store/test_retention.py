"""What is over goes, when its time has come and not before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Table, func, insert, select, update

from proxy.jobs.errors import MissingError
from proxy.jobs.model import (
    LOCAL_ACCOUNT,
    Failure,
    FailureKind,
    JobOptions,
    JobStatus,
    LinkSource,
    NewJob,
    PartPlan,
    Plan,
)
from proxy.jobs.service import Kept, Places
from proxy.jobs.store.retention import Periods, Sweeper
from proxy.jobs.store.schema import answer, blob, job, record_key, upload
from tests.proxy.jobs.made import HEARD, claimed, completed, content, queue, submitted


def sweeper(store: Kept, periods: Periods | None = None) -> Sweeper:
    return Sweeper(store.database, store.records, store.blobs, store.answers, periods or Periods(), funds=store.funds)


async def aged(store: Kept, table: Table, **columns: int) -> None:
    """As if all that is in `table` had happened so many milliseconds earlier."""
    async with store.database.begin() as tx:
        await tx.run(update(table).values({name: table.c[name] - by_ms for name, by_ms in columns.items()}))


async def count(store: Kept, table: Table) -> int:
    async with store.database.begin() as tx:
        return int((await tx.run(select(func.count()).select_from(table))).scalar_one())


async def test_a_sweep_of_what_is_new_takes_nothing(store: Kept) -> None:
    made = await completed(store)
    await submitted(store)
    await store.uploads.issue(LOCAL_ACCOUNT, "a.wav", "audio/wav", lifetime_ms=60_000)
    await store.answers.begin(LOCAL_ACCOUNT, "r", "k", b"")
    assert set((await sweeper(store).sweep()).values()) == {0}
    assert (await store.jobs.get(LOCAL_ACCOUNT, made.id)).blob == made.blob


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (JobStatus.CREATED, FailureKind.CREATED_TIMEOUT),
        (JobStatus.PENDING, FailureKind.ENGINE_FAILED),
    ],
)
async def test_a_job_that_waits_too_long_fails(store: Kept, status: JobStatus, kind: FailureKind) -> None:
    link = NewJob(LOCAL_ACCOUNT, "test", LinkSource("https://a.example/x"), JobOptions())
    made = await store.jobs.submit(link) if status is JobStatus.CREATED else await submitted(store)
    limit_ms = Periods().deadlines_ms[status]
    await aged(store, job, state_ms=limit_ms - 60_000)
    assert (await sweeper(store).sweep())["deadline"] == 0
    await aged(store, job, state_ms=120_000)
    assert (await sweeper(store).sweep())["deadline"] == 1
    ended = await store.jobs.get(LOCAL_ACCOUNT, made.id)
    assert ended.failure is not None
    assert ended.failure.kind is kind


async def test_a_job_that_is_begun_again_and_again_waits_no_longer_for_it(store: Kept) -> None:
    made, jobs = await submitted(store), queue(store)
    limit_ms = Periods().deadlines_ms[JobStatus.PENDING]
    await jobs.release(await claimed(jobs))
    await aged(store, job, state_ms=limit_ms - 60_000)
    claim = await claimed(jobs)
    await aged(store, job, state_ms=120_000)
    assert (await sweeper(store).sweep())["deadline"] == 0
    await jobs.release(claim)
    assert (await sweeper(store).sweep())["deadline"] == 1
    ended = await store.jobs.get(LOCAL_ACCOUNT, made.id)
    assert ended.failure is not None
    assert ended.failure.kind is FailureKind.ENGINE_FAILED


async def test_a_job_of_which_a_part_was_heard_has_its_whole_time_again(store: Kept) -> None:
    await submitted(store)
    jobs = queue(store)
    claim = await claimed(jobs)
    await jobs.keep_plan(claim, Plan((PartPlan(0, 0, 1000), PartPlan(1, 1000, 2000)), 2000))
    await aged(store, job, state_ms=2 * Periods().deadlines_ms[JobStatus.PENDING])
    await jobs.keep_part(claim, 0, HEARD)
    await jobs.release(claim)
    assert (await sweeper(store).sweep())["deadline"] == 0


async def test_a_job_that_somebody_works_on_is_no_sweeps(store: Kept) -> None:
    made = await submitted(store)
    await claimed(queue(store))
    await aged(store, job, state_ms=10 * Periods().deadlines_ms[JobStatus.PENDING])
    assert (await sweeper(store).sweep())["deadline"] == 0
    assert (await store.jobs.get(LOCAL_ACCOUNT, made.id)).status is JobStatus.PROCESSING


async def test_a_recording_goes_a_day_after_its_job_and_the_result_stays(store: Kept, places: Places) -> None:
    made = await completed(store)
    await aged(store, job, completed_ms=Periods().audio_ms + 1000)
    swept = await sweeper(store).sweep()
    assert (swept["audio"], swept["blob"]) == (1, 1)
    assert isinstance(places.blobs, Path)
    assert list(places.blobs.iterdir()) == []
    assert (await store.jobs.get(LOCAL_ACCOUNT, made.id)).blob is None
    await store.jobs.result(LOCAL_ACCOUNT, made.id)


async def test_a_result_goes_where_it_was_given_a_time(store: Kept) -> None:
    made = await completed(store)
    await aged(store, job, completed_ms=100_000)
    assert (await sweeper(store, replace(Periods(), results_ms=90_000)).sweep())["result"] == 1
    with pytest.raises(MissingError):
        await store.jobs.get(LOCAL_ACCOUNT, made.id)


async def test_a_job_goes_when_whoever_submitted_it_wanted(store: Kept) -> None:
    kept_on = await completed(store)
    made = await submitted(store, options=JobOptions(delete_after_ms=60_000))
    mine = queue(store)
    await mine.fail(await claimed(mine), Failure(FailureKind.INTERNAL))
    await aged(store, job, completed_ms=30_000)
    assert (await sweeper(store).sweep())["result"] == 0
    await aged(store, job, completed_ms=31_000)
    assert (await sweeper(store).sweep())["result"] == 1
    await store.jobs.get(LOCAL_ACCOUNT, kept_on.id)
    with pytest.raises(MissingError):
        await store.jobs.get(LOCAL_ACCOUNT, made.id)


async def test_of_a_deleted_job_nothing_is_left_after_a_week(store: Kept) -> None:
    made = await completed(store)
    await store.jobs.delete(LOCAL_ACCOUNT, made.id)
    assert (await sweeper(store).sweep())["job"] == 0
    await aged(store, job, deleted_ms=Periods().deleted_ms + 1000)
    assert (await sweeper(store).sweep())["job"] == 1
    with pytest.raises(MissingError):
        await store.jobs.delete(LOCAL_ACCOUNT, made.id)
    assert (await count(store, job), await count(store, blob)) == (0, 0)


async def test_uploads_that_nobody_used_go_with_their_files(store: Kept) -> None:
    received = await store.uploads.issue(LOCAL_ACCOUNT, "a.wav", "audio/wav", lifetime_ms=60_000)
    await store.uploads.receive(received.id, content())
    await store.uploads.issue(LOCAL_ACCOUNT, "b.wav", "audio/wav", lifetime_ms=60_000)
    await aged(store, upload, created_ms=Periods().uploads_ms + 100_000, expires_ms=Periods().uploads_ms + 100_000)
    swept = await sweeper(store).sweep()
    assert (swept["upload"], swept["blob"]) == (2, 1)
    assert (await count(store, upload), await count(store, blob)) == (0, 0)


async def test_the_file_of_an_upload_stays_with_the_job_that_uses_it(store: Kept) -> None:
    made = await submitted(store)
    place = await store.uploads.issue(LOCAL_ACCOUNT, "a.wav", "audio/wav", lifetime_ms=60_000)
    await store.uploads.receive(place.id, content())
    consumed = await store.uploads.consume(LOCAL_ACCOUNT, place.id)
    async with store.database.begin() as tx:
        await tx.run(update(job).where(job.c.id == made.id).values(blob=consumed.blob))
    await aged(store, upload, created_ms=Periods().uploads_ms + 1000)
    assert (await sweeper(store).sweep())["upload"] == 1
    assert consumed.blob is not None
    await store.blobs.open(consumed.blob)


async def test_answers_go_after_a_day_with_their_keys(store: Kept) -> None:
    before = await count(store, record_key)
    await store.answers.begin(LOCAL_ACCOUNT, "r", "k", b"")
    await aged(store, answer, until_ms=100_000)
    assert (await sweeper(store).sweep())["answer"] == 1
    assert (await count(store, answer), await count(store, record_key)) == (0, before)


async def test_what_a_dead_process_left_of_a_recording_goes(store: Kept, places: Places) -> None:
    assert isinstance(places.blobs, Path)
    async with store.database.begin() as tx:
        old = {"state": "writing", "created_ms": tx.now_ms - Periods().writing_ms - 1000}
        await tx.run(insert(blob).values(id="left", **old))
    (places.blobs / "left#1").write_bytes(b"sealed")
    assert (await sweeper(store).sweep())["blob"] == 1
    assert list(places.blobs.iterdir()) == []


async def test_a_recording_for_which_no_job_came_goes(store: Kept) -> None:
    await store.blobs.put(content())
    await submitted(store)
    await aged(store, blob, created_ms=2 * Periods().writing_ms)
    assert (await sweeper(store).sweep())["blob"] == 1
    assert await count(store, blob) == 1


async def test_the_state_of_the_queue_is_told(store: Kept) -> None:
    await completed(store)
    await submitted(store)
    await aged(store, job, state_ms=50_000)
    state = await sweeper(store).state()
    assert state.jobs == {JobStatus.PENDING: 1}
    assert state.oldest_ms >= 50_000
    assert state.messages == 1
