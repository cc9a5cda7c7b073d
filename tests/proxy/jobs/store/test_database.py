"""One database, of this version, of one process or of many; and what is kept fits the ports that others rely on."""

from __future__ import annotations

import asyncio
import itertools
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text, update

from proxy.jobs import ports
from proxy.jobs.errors import StoreError
from proxy.jobs.model import LOCAL_ACCOUNT, JobStatus
from proxy.jobs.service import Kept, Places, kept
from proxy.jobs.store.database import SystemClock, parse_url
from proxy.jobs.store.migrations import MIGRATIONS
from proxy.jobs.store.notices import QUEUE
from proxy.jobs.store.schema import schema_version
from tests.proxy.jobs.made import claimed, completed, queue, submitted
from tests.waiting import until


def _ports_of(
    store: Kept,
) -> tuple[ports.Jobs, ports.Uploads, ports.Accounts, ports.Answers, ports.Outbox, ports.Blobs]:
    return store.jobs, store.uploads, store.accounts, store.answers, store.outbox, store.blobs


async def test_what_is_kept_outlives_its_process(places: Places) -> None:
    async with kept(places) as store:
        made = await completed(store)
        assert len(_ports_of(store)) == 6
    async with kept(places) as store:
        assert (await store.jobs.get(LOCAL_ACCOUNT, made.id)).status is JobStatus.COMPLETED


async def test_a_database_of_a_later_version_is_left_alone(places: Places) -> None:
    async with kept(places) as store, store.database.begin() as tx:
        await tx.run(update(schema_version).values(version=99))
    with pytest.raises(StoreError, match="later version"):
        async with kept(places):
            pass


async def test_processes_that_start_at_once_make_one_schema(places: Places) -> None:
    async def start() -> None:
        async with kept(places, alone=False):
            pass

    if isinstance(places.database, str):
        await asyncio.gather(*(start() for _ in range(3)))
    async with kept(places) as store, store.database.begin() as tx:
        assert (await tx.run(text("SELECT version FROM schema_version"))).all() == [(len(MIGRATIONS),)]


async def test_a_file_is_one_process_which_commands_may_stand_beside(places: Places) -> None:
    if isinstance(places.database, str):
        pytest.skip("PostgreSQL is for many")
    async with kept(places):
        with pytest.raises(StoreError, match="another process"):
            async with kept(places):
                pass
        async with kept(places, alone=False) as beside:
            await submitted(beside)


async def test_files_are_their_owners_alone(places: Places) -> None:
    if isinstance(places.database, str):
        pytest.skip("PostgreSQL keeps its own files")
    async with kept(places) as store:
        await submitted(store)
        made = [path for path in places.database.parent.glob("jobs.sqlite*") if path.stat().st_size]
        assert {path.suffix for path in made} >= {".sqlite", ".sqlite-wal"}
        assert {path.stat().st_mode & 0o777 for path in made} == {0o600}


async def test_an_error_of_the_database_quotes_nothing(store: Kept) -> None:
    async def ask() -> None:
        async with store.database.begin() as tx:
            await tx.run(text("SELECT 'nightjar' FROM nowhere"))

    with pytest.raises(StoreError) as caught:
        await ask()
    assert "nightjar" not in str(caught.value)
    assert "nowhere" not in str(caught.value)


async def test_whoever_is_cancelled_twice_at_any_moment_leaves_nothing_that_waits_for_ever(store: Kept) -> None:
    async def ask() -> None:
        async with store.database.begin() as tx:
            for _ in range(5):
                await tx.run(text("SELECT version FROM schema_version"))

    before = asyncio.all_tasks()
    for first, second in itertools.product(range(0, 40, 2), range(8)):
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(ask())
            for turns in (first, second):
                for _ in range(turns):
                    await asyncio.sleep(0)
                asking.cancel()
    await until(lambda: asyncio.all_tasks() <= before)
    await ask()


async def test_who_is_cancelled_with_an_answer_unread_keeps_no_lock(places: Places) -> None:
    if isinstance(places.database, str):
        pytest.skip("PostgreSQL ends a transaction with its connection")
    at_work, free = threading.Event(), threading.Event()

    def hold() -> None:
        at_work.set()
        free.wait()

    async with kept(places) as store:
        unread: list[object] = []  # as a traceback may hold it

        async def ask() -> None:
            async with store.database.begin() as tx:
                driver = (await tx.connection.get_raw_connection()).driver_connection
                assert driver is not None
                await driver.create_function("hold", 0, hold)
                unread.append(await driver.execute("SELECT version FROM schema_version UNION ALL SELECT 0"))
                await tx.run(text("SELECT hold()"))

        async with asyncio.TaskGroup() as group:
            asking = group.create_task(ask())
            await until(at_work.is_set)
            asking.cancel()
            free.set()
        await submitted(store)
        assert len(unread) == 1


async def test_a_failed_transaction_tells_nobody(store: Kept) -> None:
    async def fail() -> None:
        async with store.database.begin() as tx:
            tx.tell(QUEUE)
            raise ZeroDivisionError

    with store.database.notices.waiting(QUEUE) as event:
        with pytest.raises(ZeroDivisionError):
            await fail()
        assert not event.is_set()
        await submitted(store)
        assert event.is_set()


async def test_another_replica_hears_of_a_submission(places: Places) -> None:
    if not isinstance(places.database, str):
        pytest.skip("a file has one process")
    async with kept(places) as here, kept(places) as there, asyncio.TaskGroup() as group:
        listening = group.create_task(there.database.listen())
        with there.database.notices.waiting(QUEUE) as event:
            await event.wait()  # once the listener is there, whoever waits looks
            event.clear()
            await submitted(here)
            await event.wait()
        listening.cancel()


async def test_a_clock_that_is_stepped_moves_neither_times_nor_leases(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(places.database, str):
        pytest.skip("PostgreSQL's clock is everybody's")
    async with kept(places) as store:
        before = SystemClock().now_ms()
        await submitted(store)
        mine = queue(store)
        claim = await claimed(mine)
        monkeypatch.setattr("time.time_ns", lambda: 0)
        assert await queue(store, "other").claim() is None
        await mine.renew(claim, 5)
        later = await submitted(store)
        assert later.created_ms >= before


@pytest.mark.parametrize("url", ["mysql://db/jobs", "nonsense", "sqlite:///x"])
def test_only_postgresql_is_named_by_a_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|postgresql"):
        parse_url(url)


async def test_a_server_that_is_not_there_is_the_stores_fault(tmp_path: Path, places: Places) -> None:
    nowhere = replace(places, database=f"postgresql://me:hunter2@/jobs?host={tmp_path}")
    with pytest.raises(StoreError) as caught:
        async with kept(nowhere):
            pass
    assert "hunter2" not in str(caught.value) + repr(nowhere)
