"""Two proxies over one PostgreSQL are one service: what a plan allows is allowed once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.jobs.model import PlanTerms
from proxy.jobs.service import Places, kept
from proxy.jobs.vault import KeyFile
from tests.proxy.conftest import StartProxy, url_of
from tests.proxy.dialects.own.test_api import verbose
from tests.proxy.fake_engine import FakeEngine, Reply, Script
from tests.proxy.jobs.postgres import Cluster
from tests.waiting import until

TRANSCRIPTIONS = "/v1/transcriptions"


@pytest.fixture
async def apps(
    start_proxy: StartProxy, postgres: Cluster, tmp_path: Path
) -> AsyncIterator[tuple[aiohttp.ClientSession, aiohttp.ClientSession]]:
    """An app before each of two proxies, with one key."""
    database, key_file = postgres.new_database(), tmp_path / "jobs.key"
    KeyFile.make(key_file)
    async with kept(Places(database, tmp_path / "recordings", key_file)) as store:
        await store.accounts.put_plan(PlanTerms("go", requests_per_minute=3, concurrency=1))
        account = await store.accounts.add("acme", "go")
        _, key = await store.accounts.add_key(account.id, "key")
    options = {"jobs": True, "jobs_accounts": True, "jobs_cut": False, "jobs_links": False, "jobs_dir": tmp_path}
    options |= {"jobs_key": key_file, "jobs_database": database}
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        start_proxy(**options) as one,
        start_proxy(**options) as two,
        aiohttp.ClientSession(url_of(one), headers=headers) as first,
        aiohttp.ClientSession(url_of(two), headers=headers) as second,
    ):
        await until(lambda: one.trust.held and two.trust.held)
        yield first, second


def form() -> aiohttp.FormData:
    data = aiohttp.FormData()
    data.add_field("file", b"sound", filename="a.wav")
    return data


async def refusal(app: aiohttp.ClientSession) -> str:
    async with app.post(TRANSCRIPTIONS, data=form()) as answer:
        told = await answer.json()
        assert (answer.status, 1 <= int(answer.headers["Retry-After"]) <= 60) == (429, True)
        return str(told["error"]["code"])


async def test_what_one_proxy_let_through_the_other_counts(
    apps: tuple[aiohttp.ClientSession, aiohttp.ClientSession],
) -> None:
    left = []
    for app in (*apps, *reversed(apps)):
        async with app.get("/v1/balance") as answer:
            assert answer.status == 200
            left.append(int(answer.headers["X-RateLimit-Remaining"]))
    assert left == [left[0] - at for at in range(4)]


async def test_requests_a_minute_and_at_a_time_are_those_of_both_proxies(
    apps: tuple[aiohttp.ClientSession, aiohttp.ClientSession], engine: FakeEngine
) -> None:
    first, second = apps
    goes_on = asyncio.Event()

    async def slowly(reply: Reply) -> Any:
        await goes_on.wait()
        return await verbose(reply)

    async def transcribed() -> str:
        async with first.post(TRANSCRIPTIONS, data=form()) as answer:
            return str((await answer.json())["text"])

    engine.scripts += [Script(play=slowly), Script(play=verbose)]
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(transcribed())
        await until(lambda: engine.received)
        assert await refusal(second) == "concurrency_limit"
        goes_on.set()
    assert asking.result() == "Good morning."
    assert await transcribed() == "Good morning."
    for app in apps:
        assert await refusal(app) == "rate_limited"
