"""A job is one worker's at a time, turns are fair, and what a worker writes holds only as long as it has the job."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from sqlalchemy import select, update

from proxy.jobs.errors import FailedError, LostError, MissingError
from proxy.jobs.model import (
    LOCAL_ACCOUNT,
    AccountId,
    Failure,
    FailureKind,
    JobOptions,
    JobResult,
    JobStatus,
    Meter,
    PartPlan,
    Plan,
    PlanTerms,
    Priority,
)
from proxy.jobs.service import Kept, Places, kept
from proxy.jobs.store.queue import MAX_CLAIMS
from proxy.jobs.store.schema import delivery, job
from tests.proxy.jobs.made import HEARD, claimed, completed, queue, submitted


async def lease_runs_out(store: Kept) -> None:
    async with store.database.begin() as tx:
        await tx.run(update(job).where(job.c.lease_ms > 0).values(lease_ms=1))


async def test_a_job_is_claimed_once(store: Kept) -> None:
    await submitted(store)
    claims = await asyncio.gather(*(queue(store, f"w{each}").claim() for each in range(4)))
    assert sum(claim is not None for claim in claims) == 1


async def test_what_is_shorter_than_its_submission_wants_is_not_heard(store: Kept) -> None:
    await submitted(store, options=JobOptions(min_audio_ms=1000))
    mine = queue(store)
    claim = await claimed(mine)
    for told in (
        mine.keep_plan(claim, Plan((PartPlan(0, 0, 999),), 999)),
        mine.complete(claim, JobResult(HEARD), 999),
    ):
        with pytest.raises(FailedError) as failed:
            await told
        assert failed.value.failure == Failure(FailureKind.MEDIA_TOO_SHORT, {"audio_ms": 999})
    await mine.keep_plan(claim, Plan((PartPlan(0, 0, 1000),), 1000))


async def test_two_jobs_of_one_account_go_to_two_workers_who_ask_at_once(store: Kept) -> None:
    made = {(await submitted(store)).id for _ in range(2)}
    claims = await asyncio.gather(*(queue(store, f"w{each}").claim() for each in range(2)))
    assert {claim.job.id for claim in claims if claim} == made


async def test_a_job_whose_lease_ran_out_goes_to_another_worker_and_is_lost_for_the_first(store: Kept) -> None:
    await submitted(store)
    slow, quick = queue(store, "slow"), queue(store, "quick")
    lost = await claimed(slow)
    assert await quick.claim() is None
    await lease_runs_out(store)
    taken = await claimed(quick)
    assert (taken.job.id, taken.fence) == (lost.job.id, lost.fence + 1)
    for write in (
        slow.renew(lost, 5),
        slow.release(lost),
        slow.keep_plan(lost, Plan((PartPlan(0),))),
        slow.keep_part(lost, 0, HEARD),
        slow.downloaded(lost, "blob", 1),
        slow.complete(lost, JobResult(HEARD), 2500),
        slow.fail(lost, Failure(FailureKind.INTERNAL)),
    ):
        with pytest.raises(LostError):
            await write
    await quick.complete(taken, JobResult(HEARD), 2500)
    assert (await store.jobs.get(LOCAL_ACCOUNT, lost.job.id)).status is JobStatus.COMPLETED


async def test_what_a_clock_left_behind_that_was_stepped_back_keeps_no_job(store: Kept) -> None:
    far_ms = 3_600_000
    await submitted(store)
    dead, next_one = queue(store, "dead"), queue(store, "next")
    lost = await claimed(dead)
    async with store.database.begin() as tx:
        await tx.run(update(job).values(lease_ms=job.c.lease_ms + far_ms))
    taken = await claimed(next_one)
    assert (taken.job.id, taken.fence) == (lost.job.id, lost.fence + 1)
    await next_one.release(taken, delay_ms=60_000)
    assert await next_one.claim() is None
    async with store.database.begin() as tx:
        await tx.run(update(job).values(due_ms=job.c.due_ms + far_ms))
    assert (await claimed(next_one)).job.id == lost.job.id


async def test_of_one_accounts_jobs_the_more_urgent_is_begun_first(store: Kept) -> None:
    made = [
        await submitted(store, options=JobOptions(priority=priority))
        for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.HIGH)
    ]
    mine = queue(store)
    begun = [(await claimed(mine)).job.id for _ in made]
    assert begun == [made[index].id for index in (2, 3, 1, 0)]


async def test_urgency_takes_no_turn_from_another_account(store: Kept) -> None:
    await store.accounts.put_plan(PlanTerms("plan"))
    other = await store.accounts.add("other", "plan")
    urgent = [(await submitted(store, options=JobOptions(priority=Priority.HIGH))).id for _ in range(2)]
    patient = await submitted(store, account=other.id)
    mine = queue(store)
    begun = {(await claimed(mine)).job.id for _ in range(2)}
    assert begun == {urgent[0], patient.id}


async def test_nobody_takes_from_himself_what_he_works_on(store: Kept) -> None:
    await submitted(store)
    mine = queue(store)
    claim = await claimed(mine)
    await lease_runs_out(store)
    assert await mine.claim(besides=[claim.job.id]) is None
    await mine.release(claim)
    again = await mine.claim(besides=[claim.job.id])
    assert again is not None
    assert again.fence > claim.fence


async def test_a_renewed_lease_goes_on_and_carries_the_progress(store: Kept) -> None:
    await submitted(store)
    mine = queue(store)
    claim = await claimed(mine)
    await lease_runs_out(store)
    await mine.renew(claim, 40)
    assert await queue(store, "other").claim() is None
    assert (await store.jobs.get(LOCAL_ACCOUNT, claim.job.id)).progress_pct == 40


async def test_a_cancelled_job_is_lost_for_its_worker(store: Kept) -> None:
    await submitted(store)
    mine = queue(store)
    claim = await claimed(mine)
    await store.jobs.cancel(LOCAL_ACCOUNT, claim.job.id)
    with pytest.raises(LostError):
        await mine.renew(claim, 5)
    with pytest.raises(LostError):
        await mine.complete(claim, JobResult(HEARD), 2500)


async def test_the_parts_that_were_heard_are_there_for_the_next_worker(store: Kept) -> None:
    await submitted(store)
    first, second = queue(store, "first"), queue(store, "second")
    claim = await claimed(first)
    await first.keep_plan(claim, Plan((PartPlan(0, 0, 10), PartPlan(1, 10, 20)), 20))
    await first.keep_part(claim, 0, HEARD)
    await lease_runs_out(store)
    taken = await claimed(second)
    assert [state.transcript for state in await second.parts(taken)] == [HEARD, None]


async def test_a_job_over_which_workers_die_again_and_again_fails(store: Kept) -> None:
    made = await submitted(store)
    mine = queue(store)
    for _ in range(MAX_CLAIMS):
        await claimed(mine)
        await lease_runs_out(store)
    assert await mine.claim() is None
    ended = await store.jobs.get(LOCAL_ACCOUNT, made.id)
    assert ended.failure == Failure(FailureKind.ENGINE_FAILED)


async def test_a_job_that_gets_on_outlives_any_number_of_workers(store: Kept) -> None:
    await submitted(store)
    mine = queue(store)
    claim = await claimed(mine)
    await mine.keep_plan(claim, Plan(tuple(PartPlan(each) for each in range(2 * MAX_CLAIMS))))
    for number in range(2 * MAX_CLAIMS):
        await mine.keep_part(claim, number, HEARD)
        await lease_runs_out(store)
        claim = await claimed(mine)
    assert all(state.transcript for state in await mine.parts(claim))


async def test_a_job_that_is_given_back_has_lost_no_attempt_and_waits_as_long_as_it_shall(store: Kept) -> None:
    await submitted(store)
    mine = queue(store)
    claim = await claimed(mine)
    await mine.release(claim)
    claim = await claimed(mine)
    assert claim.job.attempts == 1
    await mine.release(claim, delay_ms=60_000, counted=True)
    assert await mine.claim() is None
    assert (await store.jobs.get(LOCAL_ACCOUNT, claim.job.id)).attempts == 1


async def test_an_account_has_no_more_jobs_under_way_than_its_plan_allows_also_after_a_lease_ran_out(
    store: Kept,
) -> None:
    await store.accounts.put_plan(PlanTerms("small", concurrency=1))
    account = (await store.accounts.add("small", "small")).id
    for _ in range(2):
        await submitted(store, account=account)
    mine = queue(store)
    first = await claimed(mine)
    assert await mine.claim() is None
    await lease_runs_out(store)
    again = await claimed(mine)
    assert again.job.id == first.job.id
    assert await mine.claim() is None
    await mine.complete(again, JobResult(HEARD), 2500)
    assert (await claimed(mine)).job.id != first.job.id


async def test_an_account_with_one_job_does_not_wait_for_another_with_many(store: Kept) -> None:
    await store.accounts.put_plan(PlanTerms("plan"))
    many, one = [(await store.accounts.add(name, "plan")).id for name in ("many", "one")]
    for _ in range(5):
        await submitted(store, account=many)
    await submitted(store, account=one)
    mine = queue(store)
    owners = [(await claimed(mine)).job.account for _ in range(2)]
    assert set(owners) == {many, one}


async def test_the_message_to_a_webhook_is_written_with_the_end_of_the_job(store: Kept) -> None:
    made = await completed(store)
    message = await store.outbox.claim(lease_ms=60_000)
    assert message is not None
    assert (message.job, message.account, message.event, message.attempt) == (made.id, LOCAL_ACCOUNT, "completed", 1)
    assert await store.outbox.claim(lease_ms=60_000) is None
    await store.outbox.postpone(message, delay_ms=-1)
    again = await store.outbox.claim(lease_ms=60_000)
    assert again is not None
    assert (again.id, again.attempt) == (message.id, 2)
    with pytest.raises(LostError):
        await store.outbox.delivered(message)
    await store.outbox.delivered(again)
    with pytest.raises(LostError):
        await store.outbox.give_up(again)


async def test_nobody_is_told_of_a_job_that_names_no_webhook(store: Kept) -> None:
    made = await completed(store)
    async with store.database.begin() as tx:
        assert len((await tx.run(select(delivery))).all()) == 1
    await store.jobs.delete(LOCAL_ACCOUNT, made.id)
    async with store.database.begin() as tx:
        assert (await tx.run(select(delivery))).all() == []


async def test_what_ran_before_in_the_only_process_is_taken_over_at_once(places: Places) -> None:
    if isinstance(places.database, str):
        pytest.skip("of PostgreSQL there are many processes")
    async with kept(places) as store:
        await submitted(store)
        await claimed(queue(store, "first", lease_ms=120_000))
    async with kept(places) as store:
        mine = queue(store, "second")
        assert await mine.claim() is None
        assert await mine.recover() == 1
        assert (await claimed(mine)).job.attempts == 2


async def test_what_is_held_for_a_job_is_spent_or_given_back(store: Kept) -> None:
    await store.accounts.put_plan(PlanTerms("paid", Meter.CENTS, price_per_hour=Decimal(20)))
    account: AccountId = (await store.accounts.add("payer", "paid")).id
    await store.accounts.pay_in(account, Decimal(1))
    mine = queue(store)
    await submitted(store, account=account)
    claim = await claimed(mine)
    await mine.keep_plan(claim, Plan((PartPlan(0),), 11_700))
    balance = await store.accounts.balance(account)
    assert (balance.total, balance.held) == (Decimal(1), Decimal("0.061111"))
    await mine.complete(claim, JobResult(HEARD), 11_700)
    balance = await store.accounts.balance(account)
    assert (balance.total, balance.held) == (Decimal("0.938889"), Decimal(0))
    await submitted(store, account=account)
    claim = await claimed(mine)
    await mine.keep_plan(claim, Plan((PartPlan(0),), 100_000))
    cancelled = await store.jobs.cancel(account, claim.job.id)
    assert (cancelled.amount, cancelled.released) == (Decimal(0), Decimal("0.555556"))
    balance = await store.accounts.balance(account)
    assert (balance.total, balance.held) == (Decimal("0.938889"), Decimal(0))


async def test_what_was_heard_so_far_is_told_up_to_the_first_part_that_was_not(store: Kept) -> None:
    job = await submitted(store)
    mine = queue(store)
    claim = await claimed(mine)
    await mine.keep_plan(claim, Plan(tuple(PartPlan(at, at * 1000, (at + 1) * 1000) for at in range(3)), 3000))

    async def heard(after: int = 0) -> list[int]:
        return [plan.index for plan, _ in await store.jobs.heard(LOCAL_ACCOUNT, job.id, after=after)]

    for index, so_far in ((2, []), (0, [0]), (1, [0, 1, 2])):
        await mine.keep_part(claim, index, HEARD)
        assert await heard() == so_far
    assert await heard(after=1) == [1, 2]
    await mine.complete(claim, JobResult(HEARD), 2500)
    assert await heard() == []
    with pytest.raises(MissingError):
        await store.jobs.heard(AccountId("another"), job.id)
