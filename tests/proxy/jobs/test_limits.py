"""What a plan allows ends work before it is done: bytes while they arrive, lengths before an engine hears anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal

import pytest

from proxy.jobs.errors import CrowdedError, FailedError
from proxy.jobs.limits import check_length, check_shortest, check_size, least
from proxy.jobs.model import AccountId, FailureKind, Job, LinkSource, Meter, NewJob, PlanTerms, UploadState
from proxy.jobs.service import Kept
from tests.proxy.jobs.fakes import FakeEngine, FakeFetcher, Letters
from tests.proxy.jobs.made import OPTIONS, submitted
from tests.proxy.jobs.test_worker import means, working
from tests.waiting import until

TERMS = PlanTerms("small", Meter.CENTS, price_per_hour=Decimal(36), max_audio_ms=3_000, max_upload_bytes=4)


@pytest.fixture
async def account(store: Kept) -> AccountId:
    await store.accounts.put_plan(TERMS)
    made = (await store.accounts.add("acme", "small")).id
    await store.accounts.pay_in(made, Decimal(100))
    return made


async def allowed(store: Kept, **limits: int | None) -> None:
    """Change the plan for everybody who is on it."""
    await store.accounts.put_plan(replace(TERMS, **limits))  # type: ignore[arg-type]


async def failed(store: Kept, job: Job) -> FailureKind:
    async def is_over() -> bool:
        return (await store.jobs.get(job.account, job.id)).status.is_final

    await until(is_over)
    ended = await store.jobs.get(job.account, job.id)
    assert ended.failure is not None
    assert ended.amount == 0
    return ended.failure.kind


async def test_an_upload_is_broken_off_at_the_limit_of_its_accounts_plan(store: Kept, account: AccountId) -> None:
    read: list[int] = []

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(1000):
            read.append(at)
            yield b"xx"

    upload = await store.uploads.issue(account, "a.wav", "audio/wav", lifetime_ms=60_000)
    with pytest.raises(FailedError) as caught:
        await store.uploads.receive(upload.id, pieces(), max_bytes=1_000_000)
    assert caught.value.failure.numbers == {"limit_bytes": 4}
    assert len(read) <= 4
    assert (await store.uploads.get(account, upload.id)).state is UploadState.ISSUED


async def test_an_upload_that_announces_too_much_is_not_read(store: Kept, account: AccountId) -> None:
    read: list[int] = []

    async def pieces() -> AsyncIterator[bytes]:
        read.append(1)
        yield b"x"

    upload = await store.uploads.issue(account, "a.wav", "audio/wav", lifetime_ms=60_000)
    with pytest.raises(FailedError):
        await store.uploads.receive(upload.id, pieces(), announced_bytes=5)
    assert not read


@pytest.mark.parametrize(
    ("size_bytes", "audio_ms", "kind"),
    [(5, None, FailureKind.MEDIA_TOO_LARGE), (4, 3_001, FailureKind.MEDIA_TOO_LONG)],
)
async def test_what_is_known_to_be_too_much_makes_no_job_and_holds_nothing(
    store: Kept, account: AccountId, size_bytes: int, audio_ms: int | None, kind: FailureKind
) -> None:
    blob = (await submitted(store)).source
    with pytest.raises(FailedError) as caught:
        await store.jobs.submit(NewJob(account, "test", blob, OPTIONS, size_bytes=size_bytes, audio_ms=audio_ms))
    assert caught.value.failure.kind is kind
    assert (await store.accounts.balance(account)).held == 0


async def test_a_recording_that_turns_out_too_long_is_heard_by_no_engine(store: Kept, account: AccountId) -> None:
    await allowed(store, max_upload_bytes=None)
    engine = FakeEngine()
    async with working(store, replace(means(store, engine), splitter=Letters())):
        assert await failed(store, await submitted(store, account=account)) is FailureKind.MEDIA_TOO_LONG
    assert engine.heard == []
    assert (await store.accounts.balance(account)).available == 100


async def test_where_nobody_knows_a_length_before_what_was_too_long_is_withheld(
    store: Kept, account: AccountId
) -> None:
    await allowed(store, max_upload_bytes=None, max_audio_ms=999)
    async with working(store, means(store, FakeEngine())):
        assert await failed(store, await submitted(store, account=account)) is FailureKind.MEDIA_TOO_LONG
    assert (await store.accounts.balance(account)).available == 100


async def test_a_link_is_fetched_no_further_than_the_limit(store: Kept, account: AccountId) -> None:
    async with working(store, replace(means(store, FakeEngine()), fetcher=FakeFetcher(b"sound"))):
        job = await store.jobs.submit(NewJob(account, "test", LinkSource("https://example.com/a.wav"), OPTIONS))
        assert await failed(store, job) is FailureKind.MEDIA_TOO_LARGE


async def test_of_jobs_that_are_not_to_wait_no_more_are_taken_than_may_be_under_way(
    store: Kept, account: AccountId
) -> None:
    blob = (await submitted(store)).source
    new = NewJob(account, "test", blob, OPTIONS, at_most=2)
    await store.jobs.submit(replace(new, dialect="another", at_most=None))
    outcomes = await asyncio.gather(*(store.jobs.submit(new) for _ in range(5)), return_exceptions=True)
    made = [outcome for outcome in outcomes if isinstance(outcome, Job)]
    assert (len(made), sum(isinstance(outcome, CrowdedError) for outcome in outcomes)) == (2, 3)
    await store.jobs.cancel(account, made[0].id)
    await store.jobs.submit(new)


def test_a_limit_is_within_itself() -> None:
    check_size(4, 4)
    check_length(3_000, 3_000)
    check_size(5, None)
    check_length(None, 1)
    check_shortest(1_000, 1_000)
    check_shortest(None, 1)
    assert (least(3, None, 2), least(None)) == (2, None)
