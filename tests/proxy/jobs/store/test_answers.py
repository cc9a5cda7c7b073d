"""The same request under the same key is answered the same, and once."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text, update

from proxy.jobs.errors import BusyError, LostError, ReusedKeyError, StoreError
from proxy.jobs.model import LOCAL_ACCOUNT, BlobSource, ListQuery, NewJob, StoredAnswer
from proxy.jobs.ports import Once
from proxy.jobs.service import Kept
from proxy.jobs.store.schema import answer
from tests.proxy.jobs.made import OPTIONS, content

ROUTE, KEY, BODY = "submit", "my key", b'{"url":"https://a.example/x"}'
GIVEN = StoredAnswer(200, (("content-type", "application/json"),), b'{"id":\n"1"}\xff')


async def begin(store: Kept, *, key: str = KEY, body: bytes = BODY, route: str = ROUTE) -> StoredAnswer | None:
    return await store.answers.begin(LOCAL_ACCOUNT, route, key, body)


async def test_an_answer_is_given_again_byte_by_byte(store: Kept) -> None:
    assert await begin(store) is None
    await store.answers.keep(LOCAL_ACCOUNT, ROUTE, KEY, GIVEN)
    assert await begin(store) == GIVEN
    assert await begin(store, key="another key") is None
    assert await begin(store, route="another route") is None


async def test_another_body_under_the_same_key_is_refused(store: Kept) -> None:
    assert await begin(store) is None
    for attempt in range(2):  # while the first is answered, and after
        with pytest.raises(ReusedKeyError):
            await begin(store, body=b"{}")
        await store.answers.keep(LOCAL_ACCOUNT, ROUTE, KEY, GIVEN) if attempt == 0 else None


async def test_the_same_request_waits_for_the_first(store: Kept) -> None:
    assert await begin(store) is None
    with pytest.raises(BusyError) as caught:
        await begin(store)
    assert 0 < caught.value.retry_after_s <= 60


async def test_a_request_that_failed_may_come_again(store: Kept) -> None:
    assert await begin(store) is None
    await store.answers.drop(LOCAL_ACCOUNT, ROUTE, KEY)
    assert await begin(store) is None


async def test_a_request_whose_process_died_may_come_again(store: Kept) -> None:
    assert await begin(store) is None
    async with store.database.begin() as tx:
        await tx.run(update(answer).values(until_ms=tx.now_ms - 1))
    assert await begin(store) is None


async def test_of_many_at_once_one_is_the_first(store: Kept) -> None:
    outcomes = await asyncio.gather(*(begin(store) for _ in range(4)), return_exceptions=True)
    assert outcomes.count(None) == 1
    assert all(outcome is None or isinstance(outcome, BusyError | StoreError) for outcome in outcomes)


async def test_neither_the_key_nor_the_body_is_in_the_database(store: Kept) -> None:
    await begin(store)
    await store.answers.keep(LOCAL_ACCOUNT, ROUTE, KEY, GIVEN)
    async with store.database.begin() as tx:
        rows = repr((await tx.run(text("SELECT * FROM answer"))).all())
    assert KEY not in rows
    assert "a.example" not in rows
    assert "content-type" not in rows


async def test_a_job_and_its_answer_are_kept_together_or_not_at_all(store: Kept) -> None:
    blob, _ = await store.blobs.put(content())
    new = NewJob(LOCAL_ACCOUNT, "test", BlobSource(blob), OPTIONS)
    once = Once(ROUTE, KEY, lambda job: StoredAnswer(201, (), job.id.encode()))
    with pytest.raises(LostError):  # nobody began, or began so long ago that another may have begun since
        await store.jobs.submit(new, once=once)
    assert (await store.jobs.list(LOCAL_ACCOUNT, ListQuery())).jobs == ()
    assert await begin(store) is None
    made = await store.jobs.submit(new, once=once)
    assert await begin(store) == StoredAnswer(201, (), made.id.encode())
